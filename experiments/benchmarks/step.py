"""A training step beside PEFT's, its memory, its cost over the number of tasks: `experiments/benchmarks/step.py`."""

import argparse
import csv
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import peft  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers import T5Config, T5ForConditionalGeneration  # noqa: E402

from mpt.backbone import Tokenization, buckets, frozen  # noqa: E402
from mpt.backbone.encoder_decoder import EncoderDecoder  # noqa: E402
from mpt.inputs import Inputs  # noqa: E402
from mpt.prompt import MultitaskPromptEmbedding, MultitaskPromptTuningConfig  # noqa: E402
from mpt.report.tables import markdown  # noqa: E402
from mpt.training.optim import PerLearnerAdamW  # noqa: E402

NEVER = 10**12
MEMORY = ("peft", "whole", "parts", "recomputed")
"""PEFT; ours with whole logits; in parts; in parts, and with activations recomputed."""
N, TASKS = 100, 3
Batch = dict[str, Tensor]


def t5_small() -> T5ForConditionalGeneration:
    """Random weights in the shape of T5-small, without dropout, so that all compute the same."""
    torch.manual_seed(0)
    return T5ForConditionalGeneration(T5Config(decoder_start_token_id=0, dropout_rate=0.0)).requires_grad_(False)


def ragged(rows: int, seed: int) -> Batch:
    """A batch of lengths as in a mixture of dialogues, captions and reviews: half below 30 tokens, the longest 352."""
    generator = torch.Generator().manual_seed(seed)
    inputs = (torch.randn(rows, generator=generator) * 0.9 + 3.4).exp().long().clamp(4, 352)
    inputs[0] = 352
    targets = (inputs // 4).clamp(2, 64)
    labels = torch.randint(3, 32000, (rows, int(targets.max())), generator=generator)
    return {
        "input_ids": torch.randint(3, 32000, (rows, 352), generator=generator),
        "attention_mask": (torch.arange(352) < inputs[:, None]).long(),
        "labels": labels.masked_fill(torch.arange(labels.shape[1]) >= targets[:, None], -100),
        "task_ids": torch.arange(rows) % TASKS,
    }


def ours(*, checkpointing: bool = False) -> Callable[[Batch], None]:
    """A step of this package."""
    model = t5_small()
    backbone = EncoderDecoder(model, Tokenization(SimpleNamespace(pad_token_id=0)), "t5-small", dropout=False)
    if checkpointing:
        backbone.recompute_activations()
    backbone.train()
    config = MultitaskPromptTuningConfig(num_virtual_tokens=N, num_tasks=TASKS, token_dim=512)
    prompt = MultitaskPromptEmbedding(config)
    groups = [{"params": each.params, "learners": each.learners, "lr": 0.3} for each in prompt.learner_groups()]
    optimizer = PerLearnerAdamW(groups, clip=1.0)

    def step(batch: Batch) -> None:
        inputs = Inputs(batch["input_ids"], batch["attention_mask"], prompt(None, batch["task_ids"]))
        losses = backbone.example_losses(inputs, batch["labels"])
        backbone.backward(losses.sum() / (batch["labels"] != -100).sum())
        optimizer.step()
        optimizer.zero_grad()

    return step


def theirs() -> Callable[[Batch], None]:
    """A step of PEFT's multitask prompt tuning in a plain loop."""
    config = peft.MultitaskPromptTuningConfig(
        task_type="SEQ_2_SEQ_LM", num_virtual_tokens=N, num_tasks=TASKS, num_transformer_submodules=1
    )
    model = peft.get_peft_model(t5_small(), config)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.3)

    def step(batch: Batch) -> None:
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def time_steps(rounds: int) -> list[list[str]]:
    """Seconds of a step of 16 ragged rows, all ways in every round on the same batch."""
    mine, other = ours(), theirs()
    seconds: dict[str, list[float]] = {}
    for round_ in range(rounds + 1):
        batch = ragged(16, round_)
        for name, step, per_forward in (
            ("PEFT, plain loop", other, NEVER),
            ("ours, one forward", mine, NEVER),
            ("ours, cut by length", mine, 1000),
        ):
            buckets.PER_FORWARD = per_forward
            began = time.perf_counter()
            step(batch)
            if round_:  # the first one warms up
                seconds.setdefault(name, []).append(time.perf_counter() - began)
    rows = []
    for name, found in seconds.items():
        ratios = [base / own for base, own in zip(seconds["PEFT, plain loop"], found, strict=True)]
        rows.append([name, f"{statistics.median(found):.2f}", f"{min(ratios):.2f} – {max(ratios):.2f}"])
    waste = [1 - float(ragged(16, seed)["attention_mask"].float().mean()) for seed in range(1, rounds + 1)]
    rows.append([f"padding in the inputs of a batch: {statistics.fmean(waste):.0%}", "", ""])
    return rows


def peak_memory(way: str) -> float:
    """Peak MiB of a process that does one step of 32 rows with targets of 128 tokens."""
    done = subprocess.run([sys.executable, __file__, "--memory-of", way], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def one_large_step(way: str) -> None:
    """Do that step, and print the peak memory of this process in MiB."""
    buckets.PER_FORWARD = NEVER
    if way == "whole":
        frozen.LOGITS_AT_ONCE = NEVER
    step = theirs() if way == "peft" else ours(checkpointing=way == "recomputed")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 32000, (32, 64), generator=generator)
    labels = torch.randint(3, 32000, (32, 128), generator=generator)
    step({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "task_ids": ids[:, 0] % TASKS})
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def time_tasks(count: int, rounds: int = 30) -> tuple[float, float]:
    """Fewest CPU milliseconds of the prompts' part of a step, 32 rows of 8 tasks, and of the optimizer's alone."""
    config = MultitaskPromptTuningConfig(num_virtual_tokens=N, num_tasks=count, token_dim=768)
    prompt = MultitaskPromptEmbedding(config)
    groups = [{"params": each.params, "learners": each.learners, "lr": 0.3} for each in prompt.learner_groups()]
    optimizer = PerLearnerAdamW(groups, clip=1.0)
    whole, alone = [], []
    for round_ in range(rounds):
        task_ids = torch.randperm(count, generator=torch.Generator().manual_seed(round_))[:8].repeat(4)
        began = time.process_time()
        prompt(None, task_ids).square().sum().backward()
        stepped = time.process_time()
        optimizer.step()
        ended = time.process_time()
        optimizer.zero_grad()
        whole.append(ended - began)
        alone.append(ended - stepped)
    return min(whole) * 1e3, min(alone) * 1e3


def main() -> None:
    """Measure everything, write results/step.csv and step.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-of", choices=MEMORY, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        one_large_step(arguments.memory_of)
        return
    # First: a process begins with the peak of the one that started it.
    memory = [[way, f"{peak_memory(way):,.0f}"] for way in MEMORY]
    steps = time_steps(arguments.rounds)
    tasks = [[count, *(f"{value:.1f}" for value in time_tasks(count))] for count in (10, 100, 1000, 10000)]
    text = (
        f"T5-small's shape, random weights, {N} virtual tokens; a step of 16 ragged rows\n\n"
        f"{markdown(['way', 'median seconds', 'times faster than PEFT'], steps)}\n\n"
        "Peak memory of a step of 32 rows, targets of 128: logits whole (PEFT, ours), in parts, checkpointing\n\n"
        f"{markdown(['way', 'MiB'], memory)}\n\n"
        "The prompts' part of a step over the number of tasks, T5-base's width, 32 rows of 8 tasks\n\n"
        f"{markdown(['tasks', 'CPU milliseconds', 'of it the optimizer'], tasks)}\n"
    )
    print(text)
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / "step.md").write_text(text, encoding="utf-8")
    with (results / "step.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([*steps, *memory, *tasks])


if __name__ == "__main__":
    main()
