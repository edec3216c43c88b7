"""A catalog of bad inputs: each is refused in one line that says what and where, before anything is trained or left."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mpt.cli import main as cli

pytestmark = pytest.mark.catalog
SMALL = [
    "task=source", "+tasks=[sum]", "logger=csv", "trainer=cpu", "evaluation.test_rows=2",
    "evaluation.validation_rows=2", "evaluation.before=false", "evaluation.oracle=false", "trainer.progress_bar=false",
]  # fmt: skip
QUIET = ["hydra/job_logging=none", "hydra/hydra_logging=none"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty working folder, and a training that must not be reached."""

    def reached(*_):
        raise AssertionError("training was reached")

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("mpt.training.train.fit", reached)
    return tmp_path


@pytest.fixture
def refused(place, monkeypatch, capsys):
    """Call the command line, which has to refuse, and return what it says."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["train.py", *words, *QUIET])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        err = capsys.readouterr().err
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert stop.value.code == 2, err
        assert lines, err
        assert "Traceback" not in err
        assert not list(Path.cwd().iterdir()), "something was left behind"
        return "\n".join(lines)

    return call


CONFIGURATION = [
    (["seed=-1"], "seed: is -1; a seed is a whole number from 0 to 4294967295"),
    (["seed=8589934592"], "seed: is 8589934592; a seed is a whole number from 0 to 4294967295"),
    (["seed=1.5"], "seed: Value '1.5' of type 'float' could not be converted to Integer"),
    (["seed=1,2"], "seed: 1,2 are several values; write 'seed=[1,2]' for a list, or add -m to sweep over them"),
    (["backbone.quantize=int4"], "backbone.quantize: unknown 'int4'; choose one of int8, nf4 (did you mean 'int8'?)"),
    (
        ["backbone.quantize=nf4", "method=full"],
        "backbone.quantize: is nf4, and method=full trains the weights; leave it out",
    ),
    (["few_shot.seed=-1"], "few_shot.seed: is -1; a seed is a whole number from 0 to 4294967295"),
    (["seeds.order=-1"], "seeds.order: is -1; a seed is a whole number from 0 to 4294967295"),
    (
        ["seeds.first_values=99999999999"],
        "seeds.first_values: is 99999999999; a seed is a whole number from 0 to 4294967295",
    ),
    (["evaluation.rows_seed=-1"], "evaluation.rows_seed: is -1; a seed is a whole number from 0 to 4294967295"),
    (["trainer.devices=-1"], "trainer: `devices` selected with `CPUAccelerator` should be an int > 0"),
    (["trainer.devices=abc"], "trainer.devices: is 'abc'; it must be a number from 1, auto, or a list of different"),
    (["trainer.devices=[0,0]"], "trainer.devices: is [0, 0]; it must be a number from 1, auto, or a list of different"),
    (["trainer.devices=null"], "trainer.devices: is None; it must be a number from 1, auto, or a list of different"),
    (["trainer.devices=1.5"], "trainer.devices: is 1.5; it must be a number from 1, auto, or a list of different"),
    (["trainer.devices=0"], "trainer.devices: is 0; it must be a number from 1, auto, or a list of different"),
    (["trainer.devices=[]"], "trainer.devices: is []; it must be a number from 1, auto, or a list of different"),
    (["trainer.devices=1000"], "trainer.batch_size: is 32, for 1000 processes and micro-batches; it is the size of a"),
    (
        ["trainer.accelerator=xpu9"],
        "trainer: You selected an invalid accelerator name: `accelerator='xpu9'`. Available names",
    ),
    (["trainer.accelerator=gpu"], "trainer: No supported gpu backend found!; without a GPU use trainer=cpu"),
    (["trainer.accelerator=tpu"], "trainer: Requirement 'torch_xla"),
    (
        ["trainer.accelerator=''"],
        "trainer: You selected an invalid accelerator name: `accelerator=''`. Available names are:",
    ),
    (["trainer.threads=1000000"], "trainer.threads: is 1000000, and this machine has "),
    (["trainer.threads=0"], "trainer.threads: is 0; it must be at least 1"),
    (
        ["trainer.strategy=nope"],
        "trainer: You selected an invalid strategy name: `strategy='nope'`. It must be either a",
    ),
    (
        ["trainer.strategy=ddp_spawn"],
        "trainer.strategy: is ddp_spawn, whose processes do not hand back what they trained; use",
    ),
    (["trainer.precision=7"], "trainer: Precision '7' is invalid. Allowed precision values: ('transformer-engine',"),
    (
        ["trainer.precision=bf16-x"],
        "trainer: Precision 'bf16-x' is invalid. Allowed precision values: ('transformer-engine',",
    ),
    (["trainer.num_nodes=0"], "trainer.num_nodes: is 0; it must be at least 1"),
    (["+tasks=[1]"], "+tasks=[1]: 1 is no name of a task; write '+tasks=[sum,mt]'"),
    (["+tasks=[true]"], "+tasks=[true]: True is no name of a task; write '+tasks=[sum,mt]'"),
    (["+tasks=[null]"], "+tasks=[null]: None is no name of a task; write '+tasks=[sum,mt]'"),
    (["+tasks={a:1}"], "+tasks={a:1}: {'a': 1} is no name of a task; write '+tasks=[sum,mt]'"),
    (["+tasks=3"], "+tasks=3: 3 is no name of a task; write '+tasks=[sum,mt]'"),
    (["+tasks=[[sum]]"], "+tasks=[[sum]]: ['sum'] is no name of a task; write '+tasks=[sum,mt]'"),
    (["tasks=[../sum]"], "tasks/..: unknown 'sum'; choose one of train"),
    (["tasks=[/etc/passwd]"], "In 'train': Could not load 'tasks//etc/passwd'."),
    (["tasks=['']"], "tasks: unknown ''; choose one of ag_news, boolq, cb, cola, color, color_else, copa,"),
    (["prompt.num_virtual_tokens=1000000000"], "prompt.num_virtual_tokens: is 1,000,000,000, and"),
    (
        ["prompt.num_ranks=1000"],
        "prompt.num_ranks: is 1000, and cols @ rows over 20 tokens has at most that rank; take a",
    ),
    (
        ["prompt.num_ranks=1000000000"],
        "prompt.num_ranks: is 1000000000, and cols @ rows over 20 tokens has at most that rank;",
    ),
    (
        ["trainer.batch_size=1000000000"],
        "trainer.batch_size: is 1,000,000,000, and the embeddings of 1,000,000,000 rows behind 20",
    ),
    (
        ["trainer.accumulate_grad_batches=1000"],
        "trainer.batch_size: is 32, for 1000 processes and micro-batches; it is the size of a",
    ),
    (["optim.lr_prompt=.inf"], "optim.lr_prompt: Value '.inf' of type 'str' could not be converted to Float"),
    (["optim.lr_prompt=inf"], "optim.lr_prompt: is inf; it must be a number, and not negative"),
    (["optim.lr_prompt=nan"], "optim.lr_prompt: is nan; it must be a number, and not negative"),
    (["optim.lr_factors=inf"], "optim.lr_factors: is inf; it must be a number, and not negative"),
    (["optim.clip=inf"], "optim.clip: is inf; it must be a number above 0"),
    (["optim.clip=nan"], "optim.clip: is nan; it must be a number above 0"),
    (["optim.eps=inf"], "optim.eps: is inf; it must be a number above 0"),
    (["optim.eps=0"], "optim.eps: is 0.0; it must be a number above 0"),
    (["optim.weight_decay=inf"], "optim.weight_decay: is inf; it must be a number, and not negative"),
    (["mixture.temperature=inf"], "mixture.temperature: is inf; it must be a number above 0"),
    (["mixture.temperature=nan"], "mixture.temperature: is nan; it must be a number above 0"),
    (["distillation.temperature=inf"], "distillation.temperature: is inf; it must be a number above 0"),
    (["prompt.weight_temperature=inf"], "prompt.weight_temperature: is inf; it must be a number above 0"),
    (["prompt.init_std=inf"], "prompt.init_std: is inf; it must be a number, and not negative"),
    (["prompt.factor_std=nan"], "prompt.factor_std: is nan; it must be a number, and not negative"),
    (["optim.warmup=nan"], "optim.warmup: is nan; it must be a number, and not negative"),
    (["optim.betas=[1,2]"], "optim.betas: is [1.0, 2.0]; it must be two numbers from 0 to below 1"),
    (["optim.betas=[0.9]"], "optim.betas: is [0.9]; it must be two numbers from 0 to below 1"),
    (["optim.betas=abc"], "optim.betas: Invalid value assigned: str is not a ListConfig, list or tuple."),
    (["tasks.sum.weight=inf"], "tasks.sum.weight: is inf; λ must be a number above 0"),
    (["tasks.sum.weight=nan"], "tasks.sum.weight: is nan; λ must be a number above 0"),
    (["tasks.sum.weight=0"], "tasks.sum.weight: is 0.0; λ must be a number above 0"),
    (["distillation.layers=[]"], "distillation.weight_hidden: there are no hidden states to compare; set it to 0"),
    (["distillation.hidden=[x]"], "distillation.hidden: unknown x; choose from encoder, decoder"),
    (
        ["optimized_metric=validation/sum/nope"],
        "optimized_metric: sum has no 'nope'; choose one of score, before, oracle, loss, n,",
    ),
    (
        ["optimized_metric=test"],
        "optimized_metric: is 'test'; it must be a path in metrics.json such as test/average/score",
    ),
    (
        ["optimized_metric=test/average/bleu"],
        "optimized_metric: an average has no 'bleu'; choose one of score, before, oracle, loss, n",
    ),
    (
        ["tasks.sum.metrics=[pearson]"],
        "tasks.sum.metrics: pearson needs numbers, and the target of train:0 is 'frida carried the",
    ),
    (["tasks.sum.metrics=[accuracy,accuracy]"], "tasks.sum.metrics: accuracy is listed twice; name each once"),
    (["tasks.sum.metrics=[]"], "tasks.sum.metrics: there are none; choose from accuracy, bleu, chrf, exact_match,"),
    (["nokey=1"], "configuration: no key 'nokey'; choose one of stage, tasks, backbone, prompt, method,"),
    (["optim.nokey=1"], "optim: no key 'nokey'; choose one of lr_prompt, lr_factors, lr_weights, weight_decay,"),
    (["+optim.nokey=1"], "optim: no key 'nokey'; choose one of lr_prompt, lr_factors, lr_weights, weight_decay,"),
    (["optim=3"], "optim: Invalid type assigned: int is not a subclass of OptimConfig. value: 3"),
    (["optim=null"], "optim: is null; give it a value"),
    (["tasks.mt.weight=2"], "tasks.mt: 'mt' is not among the tasks of this run; add it to '+tasks=[...]'"),
    (
        ["tasks.sum.labels={a:b}"],
        "tasks.sum.labels.a: is not there yet; a new key needs a plus, +tasks.sum.labels.a=VALUE",
    ),
    (
        ["+tasks.sum.labels.x.y=z"],
        "tasks.sum.labels: is of the column 'x', which neither input, target nor references names",
    ),
    (["tasks.sum.generation.num_beams=0"], "tasks.sum.generation.num_beams: is not there yet; a new key needs a plus,"),
    (["+tasks.sum.generation.num_beams=0"], "tasks.sum.generation.num_beams: is 0; it must be at least 1"),
    (
        ["+tasks.sum.generation.foo=0"],
        "tasks.sum.generation: no key 'foo'; choose one of num_beams, do_sample, temperature,",
    ),
    (
        ["+tasks.sum.generation.num_return_sequences=2"],
        "tasks.sum.generation: no key 'num_return_sequences'; choose one of num_beams, do_sample,",
    ),
    (["--nope"], "no flag '--nope'; choose one of --help, -h, --hydra-help, --version, --cfg, -c,"),
    (["-z"], "no flag '-z'; choose one of --help, -h, --hydra-help, --version, --cfg, -c, --resolve,"),
    (["--config-dir", "/nowhere"], "Additional config directory '/nowhere' not found"),
    (["word"], "'word': sets no key; write key=value, as in seed=1 (a sweep is -m seed=0,1)"),
    (["=3"], "'=3': sets no key; write key=value, as in seed=1 (a sweep is -m seed=0,1)"),
    (["seed="], "seed: Value '' of type 'str' could not be converted to Integer"),
    (["seed=a b"], "seed: Value 'a b' of type 'str' could not be converted to Integer"),
    (["seed=[1"], "'seed=[1': not an override; write key=value, and quote brackets: '+tasks=[sum,mt]'"),
    (["seed=${x}"], "few_shot.seed: Interpolation key 'x' not found"),
    (["seed=${seed}"], "few_shot.seed: Recursive interpolation detected"),
    (["output_root="], "output_root: is empty; give the folder that holds the runs, such as runs"),
    (["output_root=/proc/x"], "/proc/x: No such file or directory"),
    (["output_root=/dev/null"], "Not a directory"),
    (["hydra.run.dir=/"], "/: is not the folder of a run"),
    (["hydra.run.dir=/etc"], "/etc: is not the folder of a run"),
    (["hydra.run.dir=''"], "hydra.run.dir: is the working folder; give a folder in it, such as runs/my_run"),
    (["data_root=/nowhere"], "data_root: no folder '/nowhere'; give one that is there"),
    (["data_root=/etc/passwd"], "data_root: no folder '/etc/passwd'; give one that is there"),
    (["source=x"], "source: no folder or file 'x'; give one that is there"),
    (["distill=/nowhere"], "distill: no folder '/nowhere'; give one that is there"),
    (["distill=/etc/passwd"], "distill: no folder '/etc/passwd'; give one that is there"),
    (["resume=maybe"], "resume: unknown 'maybe'; choose one of auto, never"),
    (["few_shot.k=0"], "few_shot.k: is 0; it must be at least 1"),
    (["few_shot.k=-1"], "few_shot.k: is -1; it must be at least 1"),
    (["few_shot.k=100000"], "few_shot.k: is 100000, and the validation draw 100000 more; the training split of"),
    (["few_shot.k=1.5"], "few_shot.k: Value '1.5' of type 'float' could not be converted to Integer"),
    (
        ["few_shot.draws=/etc/passwd"],
        "few_shot.k: is missing, and few_shot.draws replays a draw; give the k of that run",
    ),
    (
        ["few_shot.k=2", "few_shot.draws=/etc/passwd"],
        "/etc/passwd: not the draws of a run (Expecting value: line 1 column 1 (char 0)); give the",
    ),
    (["evaluation.validate_every=0"], "evaluation.validate_every: is 0; it must be at least 1"),
    (["evaluation.validation_rows=0"], "evaluation.validation_rows: is 0; it must be at least 1"),
    (["evaluation.test_rows=-1"], "evaluation.test_rows: is -1; it must be at least 1"),
    (["evaluation.patience=0"], "evaluation.patience: is 0; it must be at least 1"),
    (["evaluation.best=x"], "evaluation.best: unknown 'x'; choose one of average, task"),
    (
        ["mixture.sampling=x"],
        "mixture.sampling: unknown 'x'; choose one of proportional, equal, temperature, log_size,",
    ),
    (["mixture.cap=0"], "mixture.cap: is 0; it must be at least 1"),
    (
        ["tasks.sum.max_source_tokens=1"],
        "tasks.sum.max_source_tokens: is 1; it must be from 2, a token and the end, to 1,000,000",
    ),
    (
        ["tasks.sum.max_target_tokens=100000000"],
        "tasks.sum.max_target_tokens: is 100000000; it must be from 2, a token and the end, to",
    ),
    (
        ["tasks.sum.max_source_tokens=100000000"],
        "tasks.sum.max_source_tokens: is 100000000; it must be from 2, a token and the end, to",
    ),
    (["tasks.sum.input=''"], "tasks.sum.input: '' names no column; every row would be the same"),
    (["tasks.sum.input='{'"], "tasks.sum.input: '{': a lone '{'; write '{{' for the character"),
    (
        ["tasks.sum.input='{a.b}'"],
        "tasks.sum.input: '{a.b}': '{a.b}' is not the name of a column; write {column} alone",
    ),
    (["tasks.sum.target='x'"], "tasks.sum.target: 'x' names no column; every row would be the same"),
    (
        ["tasks.sum.constrained=true"],
        "tasks.sum.constrained: restricts answers to label words, and there are none; give labels",
    ),
    (
        ["tasks.sum.answers=x"],
        "tasks.sum.answers: unknown 'x'; choose one of generation, likelihood, likelihood_per_token",
    ),
    (["tasks.sum.rows.world=nope"], "tasks.sum.rows.world: no task 'nope' in the embedded world"),
    (
        ["tasks.sum.rows.files=/nowhere"],
        "tasks.sum.rows: has world, files; give exactly one of world, files, hub and reader",
    ),
    (["tasks.sum.rows.hub=a/b"], "tasks.sum.rows: has world, hub; give exactly one of world, files, hub and reader"),
    (
        ["tasks.sum.metric_tokenizer=ja-mecab"],
        "tasks.sum.metric_tokenizer: ja-mecab needs a package that is not here; pip install",
    ),
    (["backbone=nope"], "backbone: unknown 'nope'; choose one of flan-t5-base, flan-t5-large, flan-t5-small,"),
    (["backbone.path=/nowhere"], "backbone.path: no folder '/nowhere'; give one that is there"),
    (["backbone.path=/etc/passwd"], "backbone.path: no folder '/etc/passwd'; give one that is there"),
    (["backbone.path=/etc"], "backbone.path: /etc has no config.json; give a saved model's folder"),
    (["backbone.name=''"], "backbone.name: '' cannot be loaded (Repo id must use alphanumeric chars, '-', '_' or '.'."),
    (["backbone.name=a/b/c"], "backbone.name: 'a/b/c' cannot be loaded (Repo id must be in the form 'repo_name' or"),
    (
        ["backbone.name=../x"],
        "backbone.name: '../x' cannot be loaded (Repo id must use alphanumeric chars, '-', '_' or",
    ),
    (["backbone.dtype=int8"], "backbone.dtype: unknown 'int8'; choose one of float32, bfloat16, float16"),
    (["backbone.revision=x"], "backbone.revision: is 'x', and only models of the hub have revisions; leave it out"),
    (
        ["backbone.separator=3"],
        "backbone.separator: tiny is an encoder-decoder, which reads input and target apart; leave",
    ),
    (
        ["backbone.chat_template=true"],
        "backbone.chat_template: tiny is an encoder-decoder, which reads input and target apart;",
    ),
    (["method=nope"], "method: unknown 'nope'; choose one of adept, attempt, dept, full, in_context,"),
    (["method.name=x"], "method.name: unknown 'x'; choose one of adept, attempt, dept, full, in_context,"),
    (["method.num_ranks=3"], "method.num_ranks: is 3, but method.name=prompt has none; leave it out"),
    (["prompt=nope"], "prompt: unknown 'nope'; choose one of additive, plain, product, residual, shared"),
    (["prompt.form=x"], "prompt.form: unknown 'x'; choose one of product, residual, additive, independent, single"),
    (["prompt.init=x"], "prompt.init: unknown 'x'; choose one of RANDOM, TEXT, VOCABULARY, AVERAGE_SOURCE_TASKS,"),
    (["prompt.init=TEXT"], "prompt.init_text: empty; prompt.init=TEXT starts from the embeddings of this text"),
    (
        ["prompt.init=AVERAGE_SOURCE_TASKS"],
        "prompt.init: AVERAGE_SOURCE_TASKS starts from a source run; use task=target",
    ),
    (
        ["prompt.groups=[[sum,mt]]"],
        "prompt.groups: is [['sum', 'mt']]; it must name each of sum once, in groups of at least",
    ),
    (["prompt.groups=[]"], "prompt.groups: is []; it must name each of sum once, in groups of at least one"),
    (["prompt.groups=3"], "prompt.groups: Invalid value assigned: int is not a ListConfig, list or tuple."),
    (["prompt.extend=true"], "prompt.extend: adds tasks to those of a source run; use task=target source=RUN_FOLDER"),
    (["logger=nope"], "logger: unknown 'nope'; choose one of csv, tensorboard, wandb"),
    (["logger.wandb_mode=x"], "logger.wandb_mode: unknown 'x'; choose one of auto, online, offline, disabled"),
    (["logger.tags=3"], "logger.tags: Invalid value assigned: int is not a ListConfig, list or tuple."),
    (["logger.samples=-1"], "logger.samples: is -1; it must not be negative"),
    (["callbacks=[x]"], "callbacks: unknown 'x'; there are none, or name the module that brings it in plugins="),
    (["callbacks=x"], "callbacks: Invalid value assigned: str is not a ListConfig, list or tuple."),
    (["plugins=x"], "plugins: x cannot be imported (ModuleNotFoundError: No module named 'x')"),
    (["plugins=[3]"], "plugins: '3' is no module; write it as Python imports it, such as my_lab.prompts"),
    (["fused.max_runs=0"], "fused.max_runs: is 0; it must be at least 1"),
]


@pytest.mark.parametrize(("words", "message"), CONFIGURATION, ids=[" ".join(words) for words, _ in CONFIGURATION])
def test_configuration(words, message, refused):
    names_tasks = any(word.lstrip("+").startswith("tasks=") for word in words)
    base = [text for text in SMALL if not (names_tasks and text.startswith("+tasks="))]
    assert message in refused(*base, *words)


HEAD = "# @package tasks.one\n"
GOOD = "rows: {files: rows}\ninput: '{text}'\ntarget: '{target}'\nmetrics: [exact_match]\n"
ROWS = '{"text": "a b", "target": "c"}\n' * 4
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + each)}: &{chr(98 + each)} [{','.join(['*' + chr(97 + each)] * 9)}]\n" for each in range(9)
)


def rows_as(**changes):
    """A task's file whose rows have further keys."""
    more = ", ".join(f"{key}: {json.dumps(value)}" for key, value in changes.items())
    return HEAD + GOOD.replace("{files: rows", "{files: rows, " + more)


TASKS = [
    (HEAD + ": : :\n", "one.yaml:2: not YAML (expected <block end>"),
    (HEAD + "a: [1\n", "one.yaml:3: not YAML (expected ',' or ']'"),
    (HEAD + "!!python/object/apply:os.system ['echo hi']\n", "one.yaml:2: not YAML (could not determine a constructor"),
    (HEAD + "input: !x y\n", "one.yaml:2: not YAML (could not determine a constructor for the tag '!x')"),
    (HEAD + "input: '{a}'\n" + GOOD, "not YAML (found duplicate key input)"),
    (b"\x00\xff\xfe", "one.yaml:1: has no package"),
    ("", "one.yaml:1: has no package"),
    (HEAD + "- a\n- b\n", "one.yaml: is a list; a task's file is a mapping of its keys"),
    (HEAD + "just text", "one.yaml: is a str; a task's file is a mapping of its keys"),
    (HEAD + BOMB, "one.yaml: its anchors stand for more than 100,000 values"),
    (HEAD, "has no value; give it one"),
    (HEAD + "rows: 3\n", "one.yaml:2: rows is no mapping"),
    (HEAD + "rows: [a]\n", "one.yaml:2: rows is no mapping"),
    (HEAD + GOOD + "labels: {nope: {a: b}}\n", "tasks.one.labels: is of the column 'nope'"),
    (HEAD + GOOD + "unknown: 1\n", "tasks.one: no key 'unknown'"),
    (HEAD + GOOD.replace("[exact_match]", "exact_match"), "tasks.one.metrics: Invalid value assigned"),
    (HEAD + GOOD.replace("rows: {files: rows}", "rows: {files: /etc/passwd}"), "no folder or file /etc/passwd"),
    (HEAD + GOOD.replace("rows: {files: rows}", "rows: {files: ''}"), "tasks.one.rows.files: no data file in"),
    (
        HEAD + GOOD.replace("rows: {files: rows}", "rows: {world: sum, splits: {train: 'x['}}"),
        "the embedded world has its",
    ),
    (rows_as(encoding="zip"), "tasks.one.rows.encoding: 'zip' is no encoding of texts"),
    (rows_as(encoding="hex"), "tasks.one.rows.encoding: 'hex' is no encoding of texts"),
    (rows_as(encoding="rot13"), "tasks.one.rows.encoding: 'rot13' is no encoding of texts"),
    (rows_as(encoding="idna"), "tasks.one.rows.encoding: 'idna' is no encoding of texts"),
    (rows_as(encoding="klingon"), "tasks.one.rows.encoding: Python knows no 'klingon'"),
    (rows_as(splits={"train": "train[50%:"}), "tasks.one.rows.splits.train: 'train[50%:' is no part of a file"),
    (rows_as(round={"target": 0.2}), "train.jsonl:1: column 'target': is 'c', and rows.round needs a number"),
    (rows_as(turns="text"), "train.jsonl:1: column 'text' is not a list of turns"),
    (rows_as(preprocess="wsc"), "train.jsonl:1: no column 'span1_text', which rows.preprocess=wsc needs"),
    (rows_as(options={"a": 1}), "tasks.one.rows.options: is {'a': 1}, and there is no reader that takes it"),
    (rows_as(reader="nope"), "tasks.one.rows: has files, reader; give exactly one"),
]


def write_task(place, text, rows=ROWS, ending="jsonl"):
    """A folder of choices with one task, and its rows beside it."""
    folder = place / "mine" / "tasks"
    (folder / "rows").mkdir(parents=True)
    (folder / "one.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    for split in ("train", "validation", "test"):
        (folder / "rows" / f"{split}.{ending}").write_bytes(rows if isinstance(rows, bytes) else rows.encode())
    others = [word for word in SMALL if not word.startswith("+tasks")]
    return ["--config-dir", str(place / "mine"), *others, "+tasks=[one]"]


@pytest.mark.parametrize(("text", "message"), TASKS, ids=[message for _, message in TASKS])
def test_task_file(text, message, place, refused):
    assert message in refused(*write_task(place, text))


DATA = [
    ("", "jsonl", "tasks.one: the train split has no rows"),
    ("{\n", "jsonl", "train.jsonl:1: not JSON ("),
    ("[1]\n", "jsonl", "train.jsonl:1: is a list; each line is one object with columns"),
    (b"\xff\xfe\x00\x01", "jsonl", "train.jsonl:1: not utf-8 ("),
    ('{"text": "a"}\n', "jsonl", "train.jsonl:1: column 'target' of tasks.one.target is missing"),
    ('{"text": null, "target": "c"}\n', "jsonl", "train.jsonl:1: column 'text' of tasks.one.input is empty"),
    (
        '{"text": {"a": 1}, "target": "c"}\n',
        "jsonl",
        "train.jsonl:1: column 'text' of tasks.one.input: holds a mapping",
    ),
    (
        '{"text": "a", "target": ' + "[" * 99999 + "]" * 99999 + "}\n",
        "jsonl",
        "lie too deep in each other; flatten them",
    ),
    (
        '{"text": "\\ud800", "target": "c"}\n',
        "jsonl",
        "column 'text' of tasks.one.input has half of a character, '\\ud800'",
    ),
    ('{"text": "' + "a" * 2**24 + '"}\n', "jsonl", "train.jsonl:1: is longer than 16,777,216 characters"),
    (b"not a parquet", "parquet", "train.parquet: not a Parquet file"),
    (b"not gz", "jsonl.gz", "train.jsonl.gz: not a whole gzip file"),
    ("a;b\n1;2\n", "csv", "train.csv:1: the header is one column, 'a;b', and has a semicolon in it"),
    ('text,target\n"a,b\n', "csv", "train.csv:1: not CSV (unexpected end of data)"),
    ("text,target\na\n", "csv", "train.csv:2: the row has not as many values as the header has names"),
    ("text,text\na,b\n", "csv", "train.csv:1: the header has 'text' twice"),
    ("\n\n\n", "csv", "tasks.one: the train split has no rows"),
]


@pytest.mark.parametrize(("rows", "ending", "message"), DATA, ids=[message for *_, message in DATA])
def test_data(rows, ending, message, place, refused):
    assert message in refused(*write_task(place, HEAD + GOOD, rows, ending))


def say(key, value):
    """A change of ``mpt.json``."""

    def change(folder):
        about = json.loads((folder / "prompt" / "mpt.json").read_text())
        about[key] = value
        (folder / "prompt" / "mpt.json").write_text(json.dumps(about))

    return change


def write(name, text):
    """A file with another content."""
    return lambda folder: (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def tensor(name, change):
    """A changed tensor of the prompt."""

    def damage(folder):
        path = folder / "prompt" / "adapter_model.safetensors"
        tensors = load_file(path)
        tensors[name] = change(tensors[name]).contiguous()
        save_file(tensors, path, metadata={"format": "pt"})

    return damage


P, COLS = "prompt_embeddings", "prefix_task_cols"
WEIGHTS = "prompt/adapter_model.safetensors"
PROMPTS = [
    (say("task_names", [["a"], "b"]), "mpt.json: task_names is [['a'], 'b']; each must be a text"),
    (say("task_names", ["one", "one"]), "one"),
    (say("task_names", "one"), "mpt.json: task_names is 'one'; it must be a list"),
    (say("task_names", ["../../x", "two"]), "mpt.json: names the tasks ['../../x', 'two']"),
    (say("task_names", []), "mpt.json: names the tasks []"),
    (say("format_version", 10**30), "mpt.json: format_version is 1000000"),
    (say("format_version", "1"), "mpt.json: format_version is '1'"),
    (say("backbone", 3), "mpt.json: backbone is 3; it must be a dict"),
    (say("backbone", {}), "mpt.json: backbone is {}; it must have a name and a fingerprint"),
    (write("prompt/mpt.json", "{"), "mpt.json: not JSON ("),
    (write("prompt/mpt.json", "[]"), "mpt.json: not a JSON object"),
    (write("prompt/mpt.json", "[" * 99999), "mpt.json: not JSON (maximum recursion depth"),
    (write("prompt/mpt.json", b"\xff\xfe"), "mpt.json: not JSON ("),
    (write("prompt/adapter_config.json", "{"), "adapter_config.json: not JSON ("),
    (write("prompt/adapter_config.json", "{}"), "adapter_config.json"),
    (write(WEIGHTS, ""), "adapter_model.safetensors: not a file of tensors ("),
    (write(WEIGHTS, b"\xff" * 100), "adapter_model.safetensors: not a file of tensors ("),
    (tensor(P, lambda found: found * float("nan")), "prompt_embeddings has 128 numbers that are not finite"),
    (tensor(P, lambda found: found * float("inf")), "numbers that are not finite"),
    (tensor(P, lambda found: found.to(torch.complex64)), "prompt_embeddings is complex64; a prompt has dense floating"),
    (tensor(P, lambda found: found.to(torch.int32)), "prompt_embeddings is int32; a prompt has dense floating"),
    (tensor(P, lambda found: found[:1]), "adapter_model.safetensors"),
    (tensor(P, lambda found: found[:, :3]), "adapter_model.safetensors"),
    (tensor(P, lambda found: found[None]), "adapter_model.safetensors"),
    (tensor(COLS, lambda found: found * float("nan")), "prefix_task_cols has "),
    (tensor(COLS, lambda found: found[:1]), "adapter_model.safetensors"),
    (lambda folder: (folder / WEIGHTS).unlink(), "adapter_model.safetensors"),
    (lambda folder: shutil.rmtree(folder / "prompt"), "run: no saved prompt (no adapter_config.json"),
]


@pytest.mark.parametrize(
    ("damage", "message"), PROMPTS, ids=[f"{n}: {message}" for n, (_, message) in enumerate(PROMPTS)]
)
@pytest.mark.parametrize("command", ["target", "predict"])
def test_saved_prompt(damage, message, command, place, refused, source_run):
    folder = place / "run"
    shutil.copytree(source_run, folder)
    damage(folder)
    (place / "texts.txt").write_text("a b\n")
    words = ["few_shot.k=2", "+tasks=[sum]", *SMALL[2:]] if command == "target" else [
        "predict.task=one", f"predict.input={place / 'texts.txt'}"
    ]  # fmt: skip
    assert message in refused(f"task={command}", f"source={folder}", *words)


MODEL, CONFIG, TOKENIZER, INDEX = (
    "model.safetensors", "config.json", "tokenizer.json", "model.safetensors.index.json"
)  # fmt: skip


def cut(name, length):
    """A file that ends too early."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def settings(name=CONFIG, **changes):
    """A JSON file with other values; None: without the key."""

    def change(folder):
        values = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps({key: value for key, value in values.items() if value is not None}))

    return change


def weight(change):
    """The model's fourth tensor changed; None: taken out."""

    def damage(folder):
        tensors = load_file(folder / MODEL)
        name = sorted(tensors)[3]
        changed = change(tensors.pop(name))
        save_file(tensors | ({} if changed is None else {name: changed.contiguous()}), folder / MODEL, {"format": "pt"})

    return damage


def instead(name, make):
    """Something else in the place of a file."""

    def damage(folder):
        (folder / name).unlink()
        make(folder / name)

    return damage


def in_its_place(make):
    """Something else in the place of the folder."""

    def damage(folder):
        shutil.rmtree(folder)
        make(folder)

    return damage


def vocabulary_beyond(folder):
    whole = json.loads((folder / TOKENIZER).read_text())
    whole["model"]["vocab"] = [[f"x{n}", 0.0] for n in range(999)] + whole["model"]["vocab"]
    (folder / TOKENIZER).write_text(json.dumps(whole))


DAMAGED, TORN = "not JSON (", "model.safetensors: not a whole file of tensors ("
UNFIT = "cannot be loaded (its weights do not fit its config.json)"
BACKBONES = [
    ("half", cut(MODEL, 50_000), TORN),
    ("ten bytes", cut(MODEL, 10), TORN),
    ("empty", write(MODEL, ""), TORN),
    ("a header that lies", write(MODEL, (10**15).to_bytes(8, "little") + b"{}"), TORN),
    ("text as weights", write(MODEL, "these are no tensors " * 9), TORN),
    ("a link to nothing", instead(MODEL, lambda path: path.symlink_to("/nowhere")), TORN),
    ("a folder as weights", instead(MODEL, lambda path: path.mkdir()), TORN),
    ("NaN", weight(lambda tensor: tensor * float("nan")), "has numbers that are not finite"),
    ("a tensor less", weight(lambda _: None), "lacks 1 of the weights that a t5 has"),
    ("another shape", weight(lambda tensor: tensor[..., :1]), UNFIT),
    ("no weights", lambda folder: (folder / MODEL).unlink(), "has no *.safetensors"),
    ("config: a list", write(CONFIG, "[]"), "config.json: holds a list, not an object"),
    ("config: nothing in it", write(CONFIG, "{}"), "config.json: has no model_type"),
    ("config: bytes", write(CONFIG, b"\xff\xfe"), DAMAGED),
    ("config: cut", cut(CONFIG, 50), DAMAGED),
    ("config: empty", write(CONFIG, ""), DAMAGED),
    ("config: deep", write(CONFIG, "[" * 99999), DAMAGED),
    ("no config", lambda folder: (folder / CONFIG).unlink(), "has no config.json"),
    ("an unknown architecture", settings(model_type="nope"), "model type `nope`"),
    ("another architecture", settings(model_type="bert"), "is a 'bert' model"),
    ("a text as width", settings(d_model="x"), "config.json: d_model is 'x'; it must be a whole number from 1"),
    ("negative width", settings(d_model=-1), "config.json: d_model is -1"),
    ("huge width", settings(d_model=1 << 40), UNFIT),
    ("huge depth", settings(num_layers=10**9), "config.json: num_layers is 1,000,000,000, and the weights are"),
    ("small vocabulary", settings(vocab_size=1), UNFIT),
    ("huge vocabulary", settings(vocab_size=10**12), UNFIT),
    ("no heads", settings(num_heads=0), "config.json: num_heads is 0"),
    ("dropout NaN", settings(dropout_rate=float("nan")), "config.json: dropout_rate is NaN"),
    ("dropout 5", settings(dropout_rate=5), "dropout probability has to be between 0 and 1"),
    ("code to run", settings(auto_map={"AutoConfig": "x.C"}, model_type="zzz"), "cannot be loaded ("),
    ("tokenizer: cut", cut(TOKENIZER, 300), DAMAGED),
    ("tokenizer: a list", write(TOKENIZER, "[]"), "tokenizer.json: holds a list"),
    ("tokenizer: nothing in it", write(TOKENIZER, "{}"), "cannot be loaded ('added_tokens')"),
    ("no tokenizer", lambda folder: (folder / TOKENIZER).unlink(), "has no tokenizer.json"),
    ("tokenizer of another model", vocabulary_beyond, "the tokenizer writes ids up to "),
    ("tokenizer's settings: a list", write("tokenizer_config.json", "[]"), "holds a list, not an object"),
    ("tokenizer's settings: cut", write("tokenizer_config.json", "{"), DAMAGED),
    ("no end", settings("tokenizer_config.json", eos_token=None, pad_token=None), "has no end-of-sequence token"),
    ("generation: cut", write("generation_config.json", "{"), DAMAGED),
    ("generation: a list", write("generation_config.json", "[]"), "holds a list, not an object"),
    ("index: cut", write(INDEX, "{"), DAMAGED),
    ("index: no map", write(INDEX, "{}"), "has no weight_map of file names"),
    ("index: a shard less", write(INDEX, '{"weight_map": {"a": "a-1.safetensors"}}'), "names 'a-1.safetensors'"),
    ("index: a way out", write(INDEX, '{"weight_map": {"a": "../../etc/passwd"}}'), "names '../../etc/passwd'"),
    ("empty folder", in_its_place(Path.mkdir), "has no config.json"),
    ("a file", in_its_place(Path.touch), "no folder "),
]


@pytest.mark.parametrize(("damage", "message"), [case[1:] for case in BACKBONES], ids=[case[0] for case in BACKBONES])
def test_backbone(damage, message, place, refused, tiny_t5_folder):
    folder = place / "backbone"
    shutil.copytree(tiny_t5_folder, folder)
    damage(folder)
    said = refused(*SMALL, "backbone.name=t5", f"backbone.path={folder}")
    assert message in said
    assert said.count("\n") == 0


FILES = [
    ("/etc/passwd", "/etc/passwd: not a file of tensors ("),
    ("/dev/null", "/dev/null"),
    ("x.pt", "x.pt: not a file of tensors ("),
    ("y.pt", "y.pt: not a file of tensors (it would run code when it is read)"),
    ("x.bin", "x.bin: not a file of tensors ("),
    ("../../x", "source: no folder or file '../../x'"),
    ("hf://", "hf://"),
    (".", ".: no saved prompt (no adapter_config.json"),
]


@pytest.mark.parametrize(("source", "message"), FILES)
def test_source_that_is_something_else(source, message, place, refused):
    import os
    import pickle

    (place / "x.pt").write_text("hello")
    (place / "y.pt").write_bytes(pickle.dumps({"a": os.system}))
    (place / "x.bin").write_text("x")
    path = place / source if source[-3:] == ".pt" or source[-4:] == ".bin" else source
    assert message in refused("task=target", "+tasks=[sum]", "few_shot.k=2", *SMALL[2:], f"source={path}")
