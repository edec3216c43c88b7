"""What ``python -m mpt.explain`` has left in the folders of runs, as sections of the page."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mpt.errors import UserError
from mpt.report.labels import Labels
from mpt.report.section import Cell, Section, Table, number_cell
from mpt.run.folder import RunFolder

MOST_RUNS = 12
"""Runs whose words are on a page."""
NUMBERS = {
    "length": "length of T", "cosine_to_shared": "cosine to P", "mean": "mean of W", "deviation": "sd of W",
    "turned": "signs turned", "left": "T beyond P",
}  # fmt: skip


def build_explained(folders: Sequence[Path], labels: Labels) -> Iterator[Section]:
    """Build the nearest words, and what each W makes of P, of the runs that have been explained.

    Raises:
        UserError: A run's file is damaged.
    """
    explained = [(folder.name, found) for folder in folders if (found := read_explanation(folder)) is not None]
    rows = [
        [Cell(run, run), Cell(labels.show(task), task), *(number_cell(values[key]) for key in NUMBERS)]
        for run, found in explained
        for task, values in found["carried"].items()
    ]
    if rows:
        about = (
            "T is a task's prompt, P the shared one; signs turned: entries of T with another sign than P's; T beyond "
        )
        about += "P: the share of T's squared length that no multiple of P accounts for."
        yield Section("carried", "What each W makes of P", about, table=Table(["run", "task", *NUMBERS.values()], rows))
    words = [
        [
            Cell(run, run),
            Cell(labels.show(name), name),
            Cell(str(token), token),
            Cell(", ".join(f"{word['text']} {word['cosine']:.2f}" for word in near), -near[0]["cosine"]),
            Cell(f"{found['chance']:.2f}", found["chance"]),
        ]
        for run, found in explained[:MOST_RUNS]
        for name, of_tokens in found["words"].items()
        for token, near in enumerate(of_tokens)
    ]
    if words:
        about = "By cosine of the input embeddings; by chance: a random direction and its nearest word."
        if len(explained) > MOST_RUNS:
            about += f" The first {MOST_RUNS} of {len(explained)} runs."
        header = ["run", "prompt", "virtual token", "nearest words", "by chance"]
        yield Section("words", "Words near the virtual tokens", about, table=Table(header, words))


def read_explanation(folder: Path) -> dict[str, Any] | None:
    """Read what was explained of a run; None where nothing was.

    Raises:
        UserError: The file is damaged.
    """
    path = RunFolder(folder).explanation
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if missing := {"words", "carried", "chance"} - found.keys():
            raise ValueError(f"no {sorted(missing)[0]}")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error}); python -m mpt.explain {folder} writes it again") from error
    return dict(found)
