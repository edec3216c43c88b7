"""``task=evaluate``: score what a run has trained on any tasks and splits."""

from collections.abc import Iterator, Mapping
from pkgutil import resolve_name
from typing import Any

from mpt.config import RunConfig
from mpt.errors import unknown
from mpt.stages import RunArguments, Stage
from mpt.tasks import SPLITS


class Evaluate(Stage):
    """Scores a trained prompt or baseline."""

    name = "evaluate"
    trains = False
    source = "always"

    @classmethod
    def run(cls, arguments: RunArguments) -> dict[str, Any]:
        """Score; what the command line sets is not taken from the saved prompt."""
        evaluate = resolve_name("mpt.answering.evaluating:evaluate")
        metrics: dict[str, Any] = evaluate(arguments.config, arguments.folder, arguments.explicit)
        return metrics

    @classmethod
    def check(cls, config: RunConfig) -> Iterator[str]:
        """Check what is scored, and on which splits."""
        if config.source is None:
            yield "source: is missing, and task=evaluate scores what it has trained; add source=RUN_FOLDER"
        splits = config.evaluate.splits
        if not splits:
            yield f"evaluate.splits: there are none; choose from {', '.join(SPLITS)}"
        for split in splits:
            if split not in SPLITS:
                yield unknown("evaluate.splits", split, SPLITS)
        if len(set(splits)) < len(splits):
            yield f"evaluate.splits: is {splits}; name each once"
        for name in config.evaluate.prompt_of:
            if name not in config.tasks:
                yield unknown("evaluate.prompt_of", name, config.tasks, "no task of this evaluation")

    @classmethod
    def scored_splits(cls, config: RunConfig) -> list[str]:
        """List those of ``evaluate.splits``."""
        return list(config.evaluate.splits)

    @classmethod
    def named_after(cls, config: Mapping[str, Any]) -> str:
        """Choose what is scored, which says more than a backbone that it names itself."""
        return str(config.get("source"))


STAGE = Evaluate
