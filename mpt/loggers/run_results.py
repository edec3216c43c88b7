"""Give the loggers of a run what it has beyond its curves: scores, costs, answers, the prompt, the heat map."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from mpt.command import environment
from mpt.run.folder import read_config
from mpt.run.identity import flatten, identity

SUMMARIZED = ("test", "validation", "moved", "parameters", "seconds", "examples_per_second", "best_step", "steps")
"""Parts of ``metrics.json`` that become W&B's summary."""
FINAL = ("test/", "parameters/", "seconds/", "examples_per_second")
"""Those of them that TensorBoard shows; the rest are in its curves."""
HEAT_MAP = "similarity.png"

Answers = Mapping[str, Sequence[Mapping[str, str]]]
"""Task to its sample answers, all with the same keys."""


@rank_zero_only
def log_results(loggers: Sequence[Logger], metrics: Mapping[str, Any], answers: Answers, folder: Path) -> None:
    """Give the loggers what a finished run has beyond its curves.

    Args:
        loggers: From :func:`mpt.loggers.open_loggers`.
        metrics: What ``metrics.json`` holds.
        answers: Sample answers of each task.
        folder: The run folder; its prompt or adapter becomes W&B's artifact, its heat map of the tasks an image.
    """
    flat = flatten({key: metrics[key] for key in SUMMARIZED if key in metrics})
    numbers = {key.replace(".", "/"): value for key, value in flat.items()}
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            _log_to_wandb(logger.experiment, numbers, metrics, answers, folder)
        elif isinstance(logger, TensorBoardLogger):
            _log_to_tensorboard(logger, numbers, int(metrics.get("steps", 0)), answers, folder)


def _log_to_wandb(
    run: Any, numbers: Mapping[str, float], metrics: Mapping[str, Any], answers: Answers, folder: Path
) -> None:
    import wandb  # half a second, in runs that log there

    run.summary.update(dict(numbers))
    # W&B stages an artifact's files in the user's home; there they would not travel with the run.
    staging = os.environ.get("WANDB_DATA_DIR", str(folder / "wandb"))
    with environment(WANDB_DATA_DIR=staging):
        for task, rows in answers.items():
            if rows:
                run.log({f"predictions/{task}": wandb.Table([*rows[0]], [list(row.values()) for row in rows])})
        if (folder / HEAT_MAP).is_file():
            run.log({"similarity": wandb.Image(str(folder / HEAT_MAP))})
        for kind in ("prompt", "adapter"):
            if (folder / kind).is_dir():
                name = re.sub(r"[^\w.-]", "-", f"{kind}-{folder.name}")
                artifact = wandb.Artifact(name, type=kind, metadata=_describe(folder / kind, metrics))
                for path in sorted((folder / kind).rglob("*")):
                    if path.is_file():
                        artifact.add_file(str(path), name=str(path.relative_to(folder / kind)))
                run.log_artifact(artifact)


def _describe(saved: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Collect an artifact's metadata: tasks, form and backbone from its own files, and its test scores."""
    found: dict[str, Any] = {}
    for name in ("adapter_config.json", "mpt.json"):
        if (saved / name).is_file():
            found |= json.loads((saved / name).read_text(encoding="utf-8"))
    scores = {task: numbers["score"] for task, numbers in metrics.get("test", {}).items()}
    return found | {"test_score": scores}


def _log_to_tensorboard(
    logger: TensorBoardLogger, numbers: Mapping[str, float], steps: int, answers: Answers, folder: Path
) -> None:
    final = {f"final/{key}": float(value) for key, value in numbers.items() if key.startswith(FINAL)}
    # The scores as the metrics of TensorBoard's table of hyperparameters; the costs beside them as scalars.
    scores = {key: value for key, value in final.items() if key.endswith("/score")}
    logger.log_hyperparams(_hyperparameters(folder), scores, step=steps)
    for key, value in final.items():
        if key not in scores:
            logger.experiment.add_scalar(key, value, steps)
    for task, rows in answers.items():
        logger.experiment.add_text(f"predictions/{task}", "\n".join(_markdown(rows)), steps)
    if (folder / HEAT_MAP).is_file():
        from matplotlib import image

        logger.experiment.add_image("similarity", image.imread(folder / HEAT_MAP), steps, dataformats="HWC")


def _hyperparameters(folder: Path) -> dict[str, Any]:
    """Collect a run's choices, without its tasks' own settings, which would fill the table."""
    config, _ = read_config(folder) or ({}, {})
    chosen = {key: value for key, value in identity(config).items() if not key.startswith("tasks.")}
    names = {"tasks": "+".join(config.get("tasks", {}))}
    return names | {key: value for key, value in chosen.items() if value is not None}


def _markdown(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Write answers as a table in Markdown, in which their own characters mean nothing."""
    if rows:
        yield "| " + " | ".join(rows[0]) + " |"
        yield "|" + "---|" * len(rows[0])
    for row in rows:
        cells = (re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split())) for text in row.values())
        yield "| " + " | ".join(cells) + " |"
