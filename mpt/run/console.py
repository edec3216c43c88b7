"""Print what a run is about to do, how it was stopped, and the table of its results."""

import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table

from mpt.run.folder import RunFolder
from mpt.run.group_member import QUIET

if TYPE_CHECKING:  # what is summarized is named here and not needed to print a table
    from mpt.data.data_module import MixtureDataModule


def is_main() -> bool:
    """Tell whether this is the main process of a run."""
    return getattr(rank_zero_only, "rank", 0) == 0


def say(what: Any) -> None:
    """Print from the main process only."""
    if is_main() and not QUIET.get():
        console = Console()
        if not console.is_terminal:
            console = Console(width=120)  # a log has no width of its own, and 80 columns cut the tables
        console.print(what, highlight=False, soft_wrap=isinstance(what, str))


def say_what_starts(stage: str, folder: Path, backbone: str, parameters: Mapping[str, float], plan: str) -> None:
    """Print what a run trains, in a few lines.

    Args:
        stage: source, target or teachers.
        folder: The run folder.
        backbone: The backbone's name.
        parameters: From :func:`mpt.training.build.count_parameters`.
        plan: Steps, mixture, devices and seed in one line.
    """
    say(
        f"{relative(folder)}\n{stage}: {parameters['trained']:,} parameters trained, {parameters['frozen']:,} frozen "
        f"({backbone}); {parameters['ratio']:.3f} of the storage of independent prompts\n{plan}"
    )


def say_tasks(data: "MixtureDataModule") -> None:
    """Print a table of the tasks: λ, sizes, and what the tokenizer cuts, does not know, or gives back."""
    table = Table()
    table.add_column("task")
    for column in ("λ", "train", "validation", "test", "inputs cut", "targets cut", "unknown tokens", "targets kept"):
        table.add_column(column, justify="right")
    for task_id, (name, task) in enumerate(zip(data.task_names, data.configs, strict=True)):
        sizes = [str(len(data.examples[split][task_id])) for split in ("train", "validation", "test")]
        cut, unknown = data.truncation["train"][name], max(data.unknown[name].values())
        shares = (cut["input"], cut["target"], unknown, data.kept[name]["test"])
        table.add_row(name, f"{task.weight:g}", *sizes, *(f"{share:.1%}" for share in shares))
    say(table)


def warn_of_unknown_tokens(unknown: Mapping[str, Mapping[str, float]], backbone: str) -> list[str]:
    """Name the tasks whose words the tokenizer does not know: what it cannot read or write, it cannot learn.

    Args:
        unknown: Task to the share of unknown tokens in its inputs and targets.
        backbone: The backbone's name.

    Returns:
        A sentence per task with more than 5 % of unknown tokens in its inputs, or any in its targets.
    """
    return [
        f"tasks.{name}: {share['input']:.0%} of the input tokens and {share['target']:.0%} of the target tokens are "
        f"unknown to {backbone}; use a backbone whose tokenizer knows these words"
        for name, share in unknown.items()
        if share["input"] > 0.05 or share["target"] > 0
    ]


def warn_of_lost_targets(kept: Mapping[str, Mapping[str, float]], backbone: str) -> list[str]:
    """Name the tasks some of whose targets the tokenizer does not give back, so that no answer equals them.

    Args:
        kept: Task to split to the share that it gives back.
        backbone: The backbone's name.
    """
    return [
        f"tasks.{name}: the tokenizer of {backbone} gives back {min(shares.values()):.1%} of the {split} targets as "
        "they are (it changes spaces, accents or signs of the others, or they are cut), so an exact match "
        "cannot exceed that"
        for name, shares in kept.items()
        for split in [min(shares, key=lambda split: shares[split])]
        if shares[split] < 0.995
    ]


def warn_of_learning_rate(lr_prompt: float, scale: float, backbone: str) -> list[str]:
    """Warn of a learning rate of P that is large beside the embeddings that P stands among.

    Args:
        lr_prompt: About what a step of AdamW moves each number by.
        scale: Standard deviation of the backbone's embeddings.
        backbone: The backbone's name.

    Returns:
        A sentence, where the rate is above the scale.
    """
    if lr_prompt <= scale:
        return []
    return [
        f"optim.lr_prompt: is {lr_prompt:g}, and the embeddings of {backbone} have the standard deviation {scale:.2g}, "
        f"so a step may move the prompt further than they lie apart; try {scale / 5:.1g}"
    ]


def say_stopped(folder: Path, step: int) -> None:
    """Print on stderr, in one line, how a stopped run goes on.

    Args:
        folder: The run folder.
        step: The last checkpoint's; 0 where this process has written none.
    """
    if QUIET.get():
        return
    if step:
        how = f"stopped after step {step}, which is saved; the same command goes on from there"
    elif RunFolder(folder).last_checkpoint.is_file():
        how = "stopped; the same command goes on from the last checkpoint"
    else:
        how = "stopped before anything was trained; the same command starts again"
    print(f"{relative(folder)}: {how}", file=sys.stderr)


def say_results(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Print the table of a finished run, how far its parts moved, and where it lies."""
    say(results_table(metrics))
    moved = ", ".join(f"{name} {share:.0%}" for name, share in metrics["moved"].items())
    say(f"moved from the start: {moved}" if moved else "nothing was trained")
    say(f"run folder: {relative(folder)}")


def say_tables(metrics: Mapping[str, Any]) -> None:
    """Print the table of an evaluation, of each split that it scored."""
    for split in ("test", "validation", "train"):
        if split in metrics:
            say(results_table(metrics, split))


def results_table(metrics: Mapping[str, Any], split: str = "test") -> Table:
    """Build the table of a run's results: per task the score before, after, the oracle's, and n.

    Args:
        metrics: What ``metrics.json`` holds.
        split: Which split's scores; one other than test is named above the table.
    """
    test: Mapping[str, Mapping[str, float]] = metrics[split]
    columns = [key for key in ("before", "score", "oracle") if any(key in of_task for of_task in test.values())]
    table = Table(title=None if split == "test" else split, title_justify="left")
    table.add_column("task")
    table.add_column("metric")
    for key in columns:
        table.add_column(
            {"score": "score" if metrics.get("stage") == "evaluate" else "after"}.get(key, key), justify="right"
        )
    table.add_column("n", justify="right")
    for name, of_task in test.items():
        if name == "average":
            table.add_section()
        cells: Sequence[str] = [f"{of_task[key]:.3f}" if key in of_task else "–" for key in columns]
        count, available = int(of_task["n"]), int(of_task.get("n_available", of_task["n"]))
        scored = f"{count:,}" if count == available else f"{count:,} of {available:,}"
        table.add_row(name, metrics.get("metric", {}).get(name, ""), *cells, scored)
    return table


def relative(folder: Path) -> str:
    """Write a folder as seen from the working folder, where it lies below that."""
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)


def silence_libraries() -> None:
    """Silence library warnings that every run triggers."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    logging.getLogger("absl").setLevel(logging.WARNING)
    logging.getLogger("sacrebleu").setLevel(logging.ERROR)
    for message in (
        "Checkpoint directory .* exists and is not empty",
        "Found .* in eval mode at the start of training",
        "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
        "The dataloader, .*, does not have many workers",
        "It is recommended to use `self.log",
        "`is_gradient_checkpointing` is deprecated",
    ):
        warnings.filterwarnings("ignore", message)
