"""Steps and seconds to 90 % of the oracle, ours and PEFT's in a plain loop: `python experiments/benchmarks/quality.py`.

Source training on sum, mt and dlg of the embedded world. Both start from the same numbers, read the same batches, and
have the same rates and schedule; a seed of the one follows that of the other. Validated every ten steps on 100 rows a
task; the seconds are those of the steps alone, without validations and without reading a batch.
"""

import argparse
import csv
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
os.environ["HF_HUB_OFFLINE"] = "1"

import lightning  # noqa: E402
import peft  # noqa: E402
import torch  # noqa: E402
from lightning.pytorch.callbacks import Callback  # noqa: E402
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer  # noqa: E402

import mpt  # noqa: E402
from mpt.backbone import TINY  # noqa: E402
from mpt.data.data_module import MixtureDataModule  # noqa: E402
from mpt.report.tables import markdown  # noqa: E402
from mpt.training.module import MPTModule  # noqa: E402

TASKS = ("sum", "mt", "dlg")
ENOUGH = 0.9
"""Of the oracle, which answers every row of these tasks."""
EVERY, ROWS = 10, 100
COLUMNS = ("way", "seed", "steps", "seconds", "milliseconds_a_step", "last_score")


class Watch(Callback):
    """Times the steps of our run, keeps what it starts from, and ends it where it is good enough."""

    def __init__(self) -> None:
        self.seconds, self.began, self.reached = 0.0, 0.0, 0
        self.score = 0.0

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Keep the first numbers and the data, for the other way."""
        assert isinstance(module, MPTModule)
        self.start, self.data = module.adapter.snapshot(), module.data

    def on_train_batch_start(self, *_: Any) -> None:
        """Start the watch."""
        self.began = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        """Stop it."""
        self.seconds += time.perf_counter() - self.began

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """End the run where it is good enough."""
        self.score = float(trainer.callback_metrics["validation/average/score"])
        if self.score >= ENOUGH and not self.reached:
            self.reached = trainer.global_step
            self.enough = self.seconds
            trainer.should_stop = True


def ours(seed: int, steps: int) -> tuple[list[Any], Watch]:
    """Train with this package."""
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        mpt.train(
            "task=source", "logger=csv", tasks=list(TASKS), callbacks=[watch], seed=seed, output_root=folder,
            **{
                "trainer.max_steps": steps, "trainer.progress_bar": False, "trainer.accelerator": "cpu",
                "evaluation.validate_every": EVERY, "evaluation.validation_rows": ROWS, "evaluation.test_rows": 1,
                "evaluation.before": False, "evaluation.oracle": False,
            },
        )  # fmt: skip
    return line("ours", seed, watch.reached, getattr(watch, "enough", watch.seconds), watch.score, steps), watch


def peft_loop(seed: int, steps: int, watch: Watch, config: mpt.RunConfig) -> list[Any]:
    """Train PEFT's multitask prompt in a plain loop, from the same numbers, on the same batches."""
    data: MixtureDataModule = watch.data
    shape = watch.start["prefix_task_cols"].shape
    model = peft.get_peft_model(
        AutoModelForSeq2SeqLM.from_pretrained(TINY),
        peft.MultitaskPromptTuningConfig(
            task_type="SEQ_2_SEQ_LM", num_virtual_tokens=shape[1], num_ranks=shape[2], num_tasks=shape[0],
            num_transformer_submodules=1,
        ),
    )  # fmt: skip
    encoder = model.prompt_encoder["default"]
    encoder.load_state_dict(watch.start)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    rates = config.optim
    groups = [
        {"params": [encoder.embedding.weight], "lr": rates.lr_prompt},
        {"params": [encoder.prefix_task_cols, encoder.prefix_task_rows], "lr": rates.lr_factors},
    ]
    optimizer = torch.optim.AdamW(groups, betas=tuple(rates.betas), eps=rates.eps, weight_decay=rates.weight_decay)
    warmup = round(rates.warmup * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (warmup + 1), max(0.0, (steps - step) / max(1, steps - warmup)))
    )
    data.before_step = None
    seconds, score = 0.0, 0.0
    for step, batch in enumerate(data.train_dataloader(), start=1):
        fields = {key: batch[key] for key in ("input_ids", "attention_mask", "labels", "task_ids")}
        began = time.perf_counter()
        model(**fields).loss.backward()
        if rates.clip is not None:
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), rates.clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        seconds += time.perf_counter() - began
        if step % EVERY == 0 and (score := validate(model, tokenizer, data)) >= ENOUGH:
            return line("PEFT", seed, step, seconds, score, steps)
    return line("PEFT", seed, 0, seconds, score, steps)


@torch.no_grad()
def validate(model: Any, tokenizer: Any, data: MixtureDataModule) -> float:
    """Exact match of PEFT's answers, averaged over the tasks."""
    right = dict.fromkeys(data.task_names, 0)
    examples = list(data.examples_of("validation").values())
    for batch in data.eval_loader("validation"):
        fields = {key: batch[key] for key in ("input_ids", "attention_mask", "task_ids")}
        answers = tokenizer.batch_decode(
            model.generate(**fields, max_new_tokens=batch["generation"]["max_new_tokens"], do_sample=False),
            skip_special_tokens=True,
        )
        rows = zip(batch["task_ids"].tolist(), batch["example_indices"].tolist(), answers, strict=True)
        for task, index, answer in rows:
            right[data.task_names[task]] += answer.strip() in examples[task][index].references
    return statistics.fmean(count / len(rows) for count, rows in zip(right.values(), examples, strict=True))


def line(way: str, seed: int, reached: int, seconds: float, score: float, steps: int) -> list[Any]:
    """A line of the table; 0 steps: not reached."""
    return [way, seed, reached, round(seconds, 2), round(1000 * seconds / (reached or steps), 1), round(score, 3)]


def main() -> None:
    """Run seeds in turn, write the lines and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300, help="most steps, and the length of the schedule")
    arguments = parser.parse_args()
    lines = []
    for seed in range(arguments.seeds):
        config = mpt.compose("task=source", tasks=list(TASKS), seed=seed)
        own, watch = ours(seed, arguments.steps)
        lines += [own, peft_loop(seed, arguments.steps, watch, config)]
        print(*lines[-2:], sep="\n", flush=True)
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    with (results / "quality.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *lines])
    print(markdown(COLUMNS, lines))
    pairs = [(mine, theirs) for mine, theirs in zip(lines[::2], lines[1::2], strict=True) if mine[2] and theirs[2]]
    for place, what in ((2, "steps"), (3, "seconds"), (4, "milliseconds a step")):
        ratios = sorted(theirs[place] / mine[place] for mine, theirs in pairs)
        if ratios:
            print(f"PEFT / ours, {what}: {ratios[0]:.2f} to {ratios[-1]:.2f}, median {statistics.median(ratios):.2f}")
    print(f"reached by both in {len(pairs)} of {arguments.seeds} seeds")


if __name__ == "__main__":
    main()
