"""The keys of ``conf/`` and the words that they take: dataclasses that type the composed configuration.

Imports nothing heavy, so that a mistake on the command line is answered in a second.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from omegaconf import MISSING


class MultitaskPromptTuningInit(StrEnum):
    """First values of P, and with those of a source of the factors; PEFT has five of them, the others are ours."""

    RANDOM = "RANDOM"
    TEXT = "TEXT"
    VOCABULARY = "VOCABULARY"
    AVERAGE_SOURCE_TASKS = "AVERAGE_SOURCE_TASKS"
    EXACT_SOURCE_TASK = "EXACT_SOURCE_TASK"
    ONLY_SOURCE_SHARED = "ONLY_SOURCE_SHARED"
    AVERAGE_PRODUCT = "AVERAGE_PRODUCT"
    NEAREST_SOURCE_TASK = "NEAREST_SOURCE_TASK"
    WEIGHTED_SOURCE_TASKS = "WEIGHTED_SOURCE_TASKS"
    SOURCE_TASK_VECTORS = "SOURCE_TASK_VECTORS"
    DEMONSTRATIONS = "DEMONSTRATIONS"


OF_SOURCE = tuple(init for init in MultitaskPromptTuningInit if "SOURCE" in init or init == "AVERAGE_PRODUCT")
"""Inits that start from the prompt of a source run."""
FORMS = ("product", "residual", "additive", "independent", "single")
PLAIN = ("independent", "single")
"""Forms without factors."""
OLD_FORMS = {"none": "independent", "shared": "single"}
"""Names that older folders and configurations may still have."""
FACTOR_INITS = ("normal", "ones")
SOURCE_SCORES = ("loss", "similarity")
HIDDEN_PARTS = ("encoder", "decoder")
"""Places at which distillation compares hidden states: the input's tokens, and the target's."""
SAMPLINGS = ("proportional", "equal", "temperature", "log_size", "stochastic", "each")
DTYPES = ("float32", "bfloat16", "float16")
QUANTIZATIONS = ("int8", "nf4")
SCHEDULES = ("linear", "constant")
BEST = ("average", "task")
FEW_SHOT_VALIDATIONS = ("draw", "split")
WANDB_MODES = ("auto", "online", "offline", "disabled")
RESUME = ("auto", "never")
PAPER_SPLITS = {
    "large": {"train": "train[1000:]", "validation": "train[:1000]", "test": "validation"},
    "small": {"validation": "validation[:50%]", "test": "validation[50%:]"},
}
"""Our split to the hub's (Wang et al. 2023, section 4.1)."""
QUOTINGS = ("double", "none")
ANSWERS = ("generation", "likelihood", "likelihood_per_token")
"""Ways to an answer: written token by token, or the likeliest of the label words as a whole, or for each token."""
PREPROCESSINGS = ("multirc", "record", "wsc")
"""Sets of the paper whose rows T5's own code changes before its templates."""


@dataclass
class RowsConfig:
    """The source of a task's rows; exactly one of ``world``, ``files``, ``hub``, ``reader`` and ``held``.

    ``root``, and ``data_root=FOLDER`` on the command line for all tasks without one, override ``files`` and ``hub``:
    the rows are then read from ``FOLDER/<task>/{train,validation,test}.jsonl``.
    """

    world: str | None = None
    """Name of a task of the embedded micro-world."""
    files: str | None = None
    """A folder that holds ``{train,validation,test}.{jsonl,csv,tsv,parquet}``, or one file; ``.gz`` may follow. A
    relative one is looked for beside the YAML file that names it, then in the working folder."""
    root: str | None = None
    """As ``data_root``, for this task: own files and shared data mix. A relative one is looked for as ``files``."""
    delimiter: str | None = None
    """Separator of the fields of a CSV file; None: a comma, and in ``.tsv`` a tab."""
    quoting: str | None = None
    """Quoting in CSV and TSV files. double: a field may stand in double quotes, and then hold delimiters, line breaks
    and doubled quotes; none: a quote is text; None: double, but a quoted field of a TSV file must end on its line."""
    encoding: str = "utf-8"
    """Encoding of the files; a byte-order mark is skipped."""
    hub: str | None = None
    """A data set id for ``datasets.load_dataset``."""
    reader: str | None = None
    """Name of a source of rows that a plugin or an installed package brings."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of the reader."""
    held: str | None = None
    """Digest of rows that a Python program handed over in memory; set by ``mpt.Task``."""
    subset: str | None = None
    """The configuration of the hub data set, such as ``sst2`` of ``glue``."""
    revision: str | None = None
    """A commit, tag or branch of the hub data set; ``refs/convert/parquet`` where it would need a script."""
    paper_split: str | None = None
    """The paper's split of a hub data set without public test labels. large: 1,000 training rows validate, the official
    validation split tests; small: the official validation split is halved. ``splits`` overrides either."""
    splits: dict[str, str] = field(default_factory=dict)
    """Our split (train, validation, test) to the hub's or a reader's split, or to a file's name without its ending; a
    slice such as ``train[1000:]`` or ``tickets[:10%]`` is fine. Slices of a file are of its shuffled rows, each class
    in its proportion; of one file they must not overlap."""
    split_seed: int = 0
    """Seed of the order in which slices are cut."""
    rename: dict[str, str] = field(default_factory=dict)
    """A column to the name that the templates use; dots reach into mappings, and into lists of them
    (``answers.text``)."""
    round: dict[str, float] = field(default_factory=dict)
    """A column of numbers to the step that they are rounded to, such as ``score: 0.2`` of STS-B."""
    preprocess: str | None = None
    """Changes that T5's own code makes to the rows of a set before its template. multirc: takes the markup out; record:
    takes ``@highlight`` out, and makes a training row of each answer; wsc: marks both spans in the text."""
    turns: str | None = None
    """A column with the turns of a whole dialogue: each turn but the first becomes a row of its own, with the
    columns ``context`` (the turns before it) and ``response``. A row that has both already stays."""


@dataclass
class TaskConfig:
    """A data set cast as text-to-text."""

    about: str = ""
    """One line on the task, for the list of tasks."""
    rows: RowsConfig = field(default_factory=RowsConfig)
    input: str = MISSING
    """Template of the input over the row's columns: ``premise: {premise} hypothesis: {hypothesis}``."""
    target: str = MISSING
    """Template of the target; a list column gives its first item."""
    references: str | None = None
    """Column with all accepted targets (a list of strings); without it, or where a row lacks it, the target."""
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    """Label words: column to {value in the data: word in the text}; a value that is a word already stays."""
    join: str = "\n"
    """Text that joins the items of a list column in an input."""
    metrics: list[str] = field(default_factory=list)
    """Metrics of the task; the first one is its ``score``."""
    weight: float = 1.0
    """λ_t of the loss, above 0."""
    prefix: str | None = None
    """The natural prefix that the backbone knows for this task; its score is the task's ``oracle``."""
    family: str = ""
    """Kind of task, such as ``translation``; for tables and mixtures."""
    held_out: str | None = None
    """Why the task is new to the backbone; None for one of the skills that it was trained on."""
    max_source_tokens: int = 256
    """Longest input in tokens; what is longer loses its end."""
    max_target_tokens: int = 128
    """Longest target, and longest answer, in tokens."""
    metric_tokenizer: str = "auto"
    """Tokenizer of BLEU and ROUGE: one of sacrebleu's tokenizers, such as 13a, intl, zh, ja-mecab or char; auto:
    13a, and ROUGE's own, for references in Latin letters, and else Unicode words, or characters where a script
    writes no spaces."""
    constrained: bool = False
    """Restrict answers of a classification to its label words, token by token the likeliest."""
    answers: str = "generation"
    """generation; likelihood: the label word that is likeliest as a whole; likelihood_per_token: likeliest by the mean
    over its tokens, so that a long word is not at a disadvantage."""
    generation: dict[str, Any] = field(default_factory=dict)
    """Decoding beyond greedy search, such as ``num_beams: 4``; the keys are those of
    ``mpt/tasks/generation.py``."""


@dataclass
class BackboneConfig:
    """The frozen model."""

    name: str = MISSING
    """``tiny`` for the embedded model, otherwise a hub id such as ``google-t5/t5-small``."""
    path: str | None = None
    """A local folder, or a GGUF file, read instead of the hub."""
    revision: str | None = None
    """A commit, tag or branch of the hub model."""
    dtype: str = "float32"
    """float32, bfloat16 or float16; the prompt stays float32."""
    quantize: str | None = None
    """int8 or nf4: hold the linear layers in 8 or 4 bits (``mpt[quantized]``); a prompt fits only the weights that it
    was trained with, quantized so."""
    dropout: bool = True
    """Keep the frozen model's dropout active in training, as in the paper."""
    checkpointing: bool = False
    """Recompute the layers' activations in the backward pass: less memory, more time."""
    separator: str | None = None
    """Text between input and target of a causal model; None: a line break."""
    chat_template: bool = False
    """Write each input of a causal model as a user's turn of its chat template, in place of the separator."""


@dataclass
class PromptConfig:
    """Shape, composition and first values of the prompt."""

    num_virtual_tokens: int = 20
    """Rows of P, the tokens put before each input."""
    num_ranks: int = 1
    """Rank of ``cols @ rows``; the paper uses 1."""
    form: str = "product"
    """product: P * (cols @ rows), the paper; residual: P * (1 + cols @ rows); additive: P + cols @ rows;
    independent: one plain prompt per task; single: one plain prompt for all tasks."""
    groups: list[list[str]] | None = None
    """Tasks that share a P, such as ``[[a, b], [c, d]]``; None: all of them one."""
    init: str = "VOCABULARY"
    """First values of P; a MultitaskPromptTuningInit: RANDOM, TEXT, VOCABULARY, DEMONSTRATIONS (the few examples),
    or in a target run those of a source: AVERAGE_SOURCE_TASKS, AVERAGE_PRODUCT, EXACT_SOURCE_TASK, NEAREST_SOURCE_TASK,
    WEIGHTED_SOURCE_TASKS, ONLY_SOURCE_SHARED, SOURCE_TASK_VECTORS."""
    init_text: str | None = None
    """Text whose embeddings start P under TEXT."""
    init_task: str | None = None
    """Source task (by name) whose factors start every target under EXACT_SOURCE_TASK."""
    source_scores: str = "loss"
    """The measure of which source tasks are near under NEAREST_SOURCE_TASK and WEIGHTED_SOURCE_TASKS. loss: of their
    prompts on the target's training rows; similarity: cosine of their prompts with one trained on these rows (SPoT)."""
    weight_temperature: float = 1.0
    """Temperature of the softmax over these scores under WEIGHTED_SOURCE_TASKS: losses in nats, or cosines."""
    embedding_steps: int = 50
    """Steps of the plain prompt that is a target's task embedding under source_scores=similarity."""
    init_std: float = 0.5
    """Standard deviation of P's normal start under RANDOM."""
    factor_init: str = "ones"
    """ones: W starts at 1 plus noise; normal: cols and rows from N(0, factor_std^2), as PEFT."""
    factor_std: float = 0.02
    """Standard deviation of the noise, or of the normal start."""
    freeze_shared: bool = False
    """Leave P as it is and train only the factors."""
    extend: bool = False
    """In a target run: save the source's tasks and the new ones as one prompt, over the P that both share."""


@dataclass
class MethodConfig:
    """The method that is trained: a prompt as :class:`PromptConfig` says, or something that it is compared with."""

    name: str = "prompt"
    """prompt; attempt: attention over frozen source prompts; dept: a prompt and a low-rank update of the input
    embeddings; lora: low-rank updates of the backbone's weights; full: all weights."""
    num_ranks: int | None = None
    """Width of ATTEMPT's attention network; rank of the updates of DePT and LoRA."""
    temperature: float | None = None
    """Temperature of ATTEMPT's softmax over prompts; None: token_dim * e, the paper's."""
    alpha: float | None = None
    """Scale of low-rank updates: LoRA's are multiplied by alpha / num_ranks, DePT's by alpha / sqrt(num_ranks); None:
    num_ranks for LoRA, 8 for DePT."""
    modules: list[str] | None = None
    """Names of the weights that LoRA updates; None: peft's choice for the architecture, such as q and v of a T5."""
    own: dict[str, Any] = field(default_factory=dict)
    """Keys that only this method has; those that ship have none."""


@dataclass
class DistillationConfig:
    """The loss of a source with teachers: task loss + weight_logits * KL + weight_hidden * squared error."""

    weight_logits: float = 0.9
    """Weight of the divergence between the teacher's and the student's token distributions, averaged over targets."""
    weight_hidden: float = 0.9
    """Weight of the squared error of hidden states, averaged over tokens, layers and dimensions."""
    temperature: float = 1.0
    """Both distributions are softmax(logits / temperature), and their divergence is multiplied by its square."""
    hidden: list[str] = field(default_factory=lambda: ["encoder", "decoder"])
    """Hidden states that are compared, encoder: of the input's tokens; decoder: where the target's are predicted. Of a
    causal model both are states of the one stack."""
    layers: list[int] = field(default_factory=lambda: [-1])
    """Layers of them: 0 is what goes into the first layer, -1 what comes out of the last."""
    cache: str | None = None
    """A folder in which the teachers' answers are kept, so that an epoch after the first needs no teacher."""
    top_k: int | None = None
    """Keep of the teacher's distribution the likeliest tokens, and the rest together; None: all tokens."""


@dataclass
class MixtureConfig:
    """The mixture of tasks in the batches."""

    sampling: str = "proportional"
    """proportional, equal, temperature, log_size, stochastic (the paper: 2..T tasks in a batch), or each (every step
    has batch_size rows of every task, each drawn as in a run of its own)."""
    cap: int = 262144
    """Largest size that counts under proportional and temperature (2^18 in the paper's code)."""
    temperature: float = 2.0
    """Rates are proportional to size^(1/temperature) under temperature sampling."""


@dataclass
class OptimConfig:
    """AdamW over independent learners, and its schedule."""

    lr_prompt: float = 0.3
    """Learning rate of P, and of plain prompts."""
    lr_factors: float = 0.3
    """Learning rate of cols and rows; under method=dept of the update of the input embeddings."""
    lr_weights: float = 1e-3
    """Learning rate of ATTEMPT's attention network, of LoRA, or of all weights."""
    weight_decay: float = 1e-5
    """Decoupled weight decay, times the learning rate."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    """Decay of the first and the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    clip: float | None = 1.0
    """Largest gradient norm of one learner (a group of P; a task's cols and rows together); None: off."""
    schedule: str = "linear"
    """linear (to zero) or constant, after the warm-up."""
    warmup: float = 0.1
    """Share of max_steps over which the learning rate rises from 0."""


@dataclass
class FewShotConfig:
    """The draw of a target's labelled examples."""

    k: int | None = None
    """Training examples per target task in all; None: all rows."""
    seed: int = 0
    """Seed of the draw; on the command line it follows ``seed`` unless it is set."""
    balanced: bool = True
    """Draw the same number of examples per class."""
    validation: str = "draw"
    """draw: validate on k other rows of the training split; split: on the validation split, as without k."""
    draws: str | None = None
    """A run folder whose draws are taken again, or its ``draws.json``."""


@dataclass
class EvaluationConfig:
    """When to validate and on how many rows."""

    batch_size: int = 128
    """Rows answered at a time."""
    validate_every: int = 50
    """Optimizer steps between validations."""
    validation_rows: int | None = 200
    """Rows of the validation split that a validation scores, chosen by ``rows_seed``; None: all."""
    test_rows: int | None = None
    """Rows of the test split that are scored, chosen by ``rows_seed``; None: all."""
    rows_seed: int = 0
    """Seed of the choice of these rows: each class in its proportion, a smaller choice within a larger one, and the
    same for every run, method and draw; it does not follow ``seed``."""
    before: bool = True
    """Also score the test rows with the prompt as it starts (``before`` in metrics.json)."""
    keep_answers: bool = True
    """Keep the answers of the oracle, and of methods that train nothing, in the cache, and take them from there."""
    oracle: bool = True
    """Also score the test rows with the natural prefix, where the task has one."""
    best: str = "average"
    """average: keep the step with the best average over tasks; task: keep each task's own best step, where tasks share
    nothing that is trained."""
    patience: int | None = None
    """Stop after so many validations without a better average; None: never."""


@dataclass
class TrainerConfig:
    """Settings of Lightning's Trainer."""

    max_steps: int = MISSING
    """Optimizer steps."""
    batch_size: int = 32
    """Rows in a step over all processes and accumulated micro-batches; under mixture=each rows of every task."""
    accumulate_grad_batches: int = 1
    """Micro-batches that a step is cut into, for less memory; the result stays the same."""
    accelerator: str = "auto"
    """auto, cpu, gpu, or another of Lightning's."""
    devices: Any = "auto"
    """Number of devices, or a list of them."""
    num_nodes: int = 1
    """Number of machines."""
    strategy: str = "auto"
    """auto; ddp: every process holds the whole backbone; fsdp: a part of each of its layers; or another of Lightning's
    that starts whole processes."""
    precision: str = "32-true"
    """Precision of the training, in Lightning's words, such as bf16-mixed."""
    progress_bar: bool = True
    """Show progress: a bar on a terminal, elsewhere a line every ten seconds."""
    threads: int | None = None
    """CPU threads of torch; None: torch's own choice."""
    keep_tokens: bool = True
    """Keep the token ids of tasks of 10,000 examples and more in the cache, and take them from there."""
    deterministic: bool = False
    """Let torch use only algorithms that give the same numbers in every run, and fail where there is none; on a CPU
    they do anyway."""


@dataclass
class LoggerConfig:
    """Loggers besides metrics.csv, which is always written."""

    wandb: bool = True
    """Log to Weights & Biases."""
    wandb_mode: str = "auto"
    """auto: online where an API key is at hand, else offline; or online, offline, disabled."""
    project: str = "mpt"
    """W&B's project."""
    entity: str | None = None
    """W&B's entity; None: the account's own."""
    group: str | None = None
    """W&B's group of the run; None: the sweep that it is a job of."""
    tags: list[str] = field(default_factory=list)
    """W&B's tags of the run, beside its tasks, method and k."""
    tensorboard: bool = False
    """Log to TensorBoard, into the run folder."""
    samples: int = 20
    """Predictions per task in the logged table."""


@dataclass
class PredictConfig:
    """Answering inputs with a trained prompt, ``task=predict``."""

    input: str | None = None
    """File of inputs: .jsonl, .csv or .tsv with ``text``, or with the columns of the task's template, and ``task``;
    or a text a line; None: standard input."""
    output: str | None = None
    """File that answers are appended to as JSON lines, on from where it ends; None: standard output."""
    task: str | None = None
    """The task of all inputs; None: each one's own."""
    batch_size: int = 32
    """Inputs answered at a time."""
    max_new_tokens: int | None = None
    """Longest answer, in tokens; None: that of the task."""
    choices: list[str] | None = None
    """Texts that an answer may be, such as ``[positive, negative]``; None: what the task was trained with."""
    answers: str | None = None
    """How a choice is found: generation, likelihood or likelihood_per_token; None: as the task was trained."""


@dataclass
class EvaluateConfig:
    """Scoring what a run has trained, ``task=evaluate``; ``evaluation`` says on how many rows."""

    splits: list[str] = field(default_factory=lambda: ["test"])
    """Splits to score, among train, validation and test."""
    prompt_of: dict[str, str] = field(default_factory=dict)
    """Task to the trained task whose prompt answers it; one that is not named here has a prompt of its own."""


@dataclass
class FusedConfig:
    """Several jobs of a sweep in one training, ``hydra/launcher=fused``."""

    max_runs: int = 16
    """Most jobs side by side; one that ends makes room for the next."""
    workers: int = 1
    """Processes that the jobs are shared among, some of them to each at a time; 1: this one."""
    engine: str = "local"
    """local: processes of this machine, each on a GPU of its own where there are several; submitit: an array of jobs of
    SLURM, or processes where there is none; ray: tasks of Ray."""
    options: dict[str, Any] = field(default_factory=dict)
    """Parameters of submitit's executor, such as slurm_partition, or options of Ray's tasks, such as num_gpus."""


@dataclass
class SeedsConfig:
    """The seed of each stream of random numbers; None: it follows ``seed``. The k-shot draw has few_shot.seed."""

    first_values: int | None = None
    """Seed of the first values of P, the factors, and whatever else a method trains."""
    order: int | None = None
    """Seed of the mixture: which example comes next."""
    dropout: int | None = None
    """Seed of the dropout masks."""


@dataclass
class RunConfig:
    """One composed configuration; the root of ``conf/train.yaml``."""

    stage: str = MISSING
    """source, target, teachers, predict or evaluate; chosen with ``task=``."""
    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    few_shot: FewShotConfig = field(default_factory=FewShotConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    fused: FusedConfig = field(default_factory=FusedConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    seeds: SeedsConfig = field(default_factory=SeedsConfig)
    plugins: list[str] = field(default_factory=list)
    """Python modules that bring methods, metrics, callbacks or readers of rows, such as ``my_lab.prompts``; imported
    before anything is composed. Only the command line, a study and an experiment may name them."""
    callbacks: list[str] = field(default_factory=list)
    """Callbacks of Lightning's that plugins bring, by name."""
    objects: list[str] = field(default_factory=list)
    """Callbacks and Trainer arguments that ``mpt.train`` was handed as Python objects, by class or name; set by it."""
    seed: int = 0
    """Seed of every stream of random numbers that ``seeds`` does not set; the few-shot draw follows it."""
    data_root: str | None = None
    """Read ``FOLDER/<task>/{train,validation,test}.jsonl`` in place of each task's own rows."""
    source: str | None = None
    """The prompt that a target starts from: a run's folder, a prompt folder, a PEFT adapter, or a file of tensors.
    A ``prompt.init`` that needs none leaves it unread, so that a method and its control are one sweep."""
    distill: str | None = None
    """Run of ``task=teachers`` that a source learns from."""
    resume: str = "auto"
    """auto: an unfinished run in the same folder goes on; never: it starts again."""
    overwrite: bool = False
    """Run a finished run again."""
    output_root: str = "runs"
    """Folder that holds the runs."""
    experiment_name: str | None = None
    """Set by the command line to the experiment that was chosen, for reports: ``python -m mpt.report --by
    experiment``."""
    optimized_metric: str = "validation/average/score"
    """The number that a job returns to a sweeper, as a path into metrics.json."""
