"""Few labelled examples: the k-shot draw, its validation draw, and draws that are replayed."""

import json
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

from mpt.config import FewShotConfig
from mpt.errors import UserError
from mpt.tasks import Example, digest_examples

DRAWS = "draws.json"
"""File of a run folder: split to task to the ids of the drawn rows, all of the training split."""
DIGESTS = "digests"
"""Its key for what these rows held, since a number says nothing of a file that has changed."""
SPLITS = ("train", "validation")


def draw_examples(name: str, examples: Sequence[Example], config: FewShotConfig) -> dict[str, list[Example]]:
    """Draw k examples to train on, and as many others to validate on.

    A draw is balanced over the classes of a classification: each gets ``k // classes`` or one more. With the
    same seed, what a smaller k trains on is a part of what a larger one trains on. An input that the split has twice is
    drawn once at most, so k examples are k different ones, and none of them validates.

    Args:
        name: The task's name, for errors.
        examples: The training split; both draws are from it, so that the other splits stay untouched.
        config: k, the seed, and whether and how to validate.

    Returns:
        ``train``, and with ``validation=draw`` also ``validation``; the two share no row.

    Raises:
        UserError: The split has too few rows, or one of its classes has.
    """
    assert config.k is not None
    splits = ("train", "validation") if config.validation == "draw" else ("train",)
    random = Random(f"few_shot/{config.seed}")
    shuffled = random.sample(list(examples), len(examples))
    different = list({example.input: example for example in reversed(shuffled)}.values())[::-1]
    if config.k * len(splits) > len(different):
        needed = f", and the validation draw {config.k} more" if len(splits) == 2 else ""
        raise UserError(
            f"few_shot.k: is {config.k}{needed}; the training split of tasks.{name} has {len(examples)} rows"
            + (f" with {len(different)} different inputs" if len(different) < len(examples) else "")
            + f", so choose at most {len(different) // len(splits)}"
            + (", or few_shot.validation=split" if needed else "")
        )
    classes: dict[str | None, list[Example]] = {}
    for example in different:
        classes.setdefault(example.label if config.balanced else None, []).append(example)
    return {split: _take(name, classes, config.k) for split in splits}


def _take(name: str, classes: dict[str | None, list[Example]], k: int) -> list[Example]:
    """Take k examples out of the shuffled classes, round after round one of each."""
    taken: list[Example] = []
    for label in cycle(classes):
        if len(taken) == k:
            break
        if not classes[label]:
            raise UserError(
                f"few_shot.k: is {k} in {len(classes)} classes; tasks.{name} has too few rows of class {label!r}; "
                "choose a smaller k, or few_shot.balanced=false"
            )
        taken.append(classes[label].pop())
    return taken


def replay(name: str, examples: Sequence[Example], config: FewShotConfig) -> dict[str, list[Example]]:
    """Take the rows that another run has drawn.

    Args:
        name: The task's name.
        examples: The training split.
        config: ``draws`` is the other run's folder, or its ``draws.json``.

    Raises:
        FileNotFoundError: The run has drawn nothing.
        UserError: The file does not fit the task, the split or k.
    """
    path = Path(config.draws or "")
    path = path / DRAWS if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"few_shot.draws: no file {path}; give the folder of a run with few_shot.k")
    try:
        draws = json.loads(path.read_text(encoding="utf-8"))
        drawn: dict[str, list[str]] = {
            split: list(draws[split][name]) for split in SPLITS if name in draws.get(split, {})
        }
        digests: dict[str, str] = {
            split: tasks[name] for split, tasks in draws.get(DIGESTS, {}).items() if name in tasks
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the draws of a run ({error}); give the folder of a run") from error
    by_id = {example.row_id: example for example in examples}
    if "train" not in drawn:
        raise UserError(f"{path}: has no draw of the task {name!r}; run it without few_shot.draws first")
    for split, ids in drawn.items():
        if missing := sorted(set(ids) - set(by_id)):
            raise UserError(
                f"{path}: {split} of {name!r} names rows that are not in the training split: {', '.join(missing[:3])}; "
                "replay draws of the same data"
            )
        if len(ids) != config.k:
            raise UserError(
                f"{path}: {split} of {name!r} has {len(ids)} rows, few_shot.k is {config.k}; give both the same"
            )
    if (config.validation == "draw") != ("validation" in drawn):
        kind = "draw" if "validation" in drawn else "split"
        raise UserError(f"{path}: was drawn with few_shot.validation={kind}; give the same")
    found = {split: [by_id[row_id] for row_id in ids] for split, ids in drawn.items()}
    for split, rows in found.items():
        if digests.get(split, digest_examples(rows)) != digest_examples(rows):
            raise UserError(
                f"{path}: {split} of {name!r} was drawn from other data: the rows of these numbers have other texts "
                "now; replay draws of the same data"
            )
    return found


def row_ids(examples: Mapping[str, Mapping[str, Sequence[Example]]], validation: str) -> dict[str, Any]:
    """Build what ``draws.json`` holds: of each drawn split, task to row ids, and to a digest of these rows.

    Args:
        examples: Split to task to examples.
        validation: ``draw`` where the validation rows were drawn as well.
    """
    splits = ("train", "validation") if validation == "draw" else ("train",)
    drawn: dict[str, Any] = {
        split: {name: [example.row_id for example in rows] for name, rows in examples[split].items()}
        for split in splits
    }
    digests = {split: {name: digest_examples(rows) for name, rows in examples[split].items()} for split in splits}
    return drawn | {DIGESTS: digests}
