"""``python -m mpt.explain RUN_FOLDER``: say what a trained prompt holds, and leave it for the page of the run."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mpt.answering.prompted import PromptedModel
from mpt.artifact.find import Kind, find
from mpt.atomic import write_atomically
from mpt.errors import UserError
from mpt.explain.carried import compare, shared_of, what_is_carried
from mpt.explain.words import chance_cosine, mean_norm, nearest_words
from mpt.hub import local_copy
from mpt.prompt import MultitaskPromptEmbedding
from mpt.run.folder import RunFolder, read_config

MOST_TASKS = 8
"""Tasks whose words are printed; all are in the file."""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        "python -m mpt.explain",
        description="The words near a prompt's virtual tokens, and what P and each task's W carry.",
    )
    parser.add_argument("source", help="run folder, prompt folder, or hf://owner/name")
    parser.add_argument("--tasks", nargs=2, metavar="TASK", help="compare these two")
    parser.add_argument("--words", type=int, default=3, help="nearest words of each virtual token (3)")
    parser.add_argument("--backbone", help="folder or hub id (the one that the prompt names)")
    parser.add_argument("--to", type=Path, metavar="FILE.json", help="write it there (explanation.json of the run)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Raises:
        UserError: There is no such task, or what is saved there is no prompt.
        FileNotFoundError: There is no saved prompt, or no backbone.
    """
    arguments = build_parser().parse_args(argv)
    if arguments.words < 1:
        raise UserError(f"--words: is {arguments.words}; it must be at least 1")
    folder = local_copy(arguments.source)
    kind, _ = find(folder) or (None, folder)
    if kind in (Kind.BASELINE, Kind.UPDATES, Kind.MODEL):
        raise UserError(f"{arguments.source}: holds a baseline; prompts are explained, of method=prompt")
    model = PromptedModel.load(arguments.source, arguments.backbone)
    assert isinstance(model.adapter, MultitaskPromptEmbedding)
    if arguments.tasks and (missing := [name for name in arguments.tasks if name not in model.task_names]):
        raise UserError(f"--tasks: no task {missing[0]!r}; choose from {', '.join(model.task_names)}")
    explained = explain(model, arguments.words, arguments.tasks)
    show(explained)
    to = arguments.to or (RunFolder(folder).explanation if read_config(folder) is not None else None)
    if to is not None:
        with write_atomically(to) as temporary:
            temporary.write_text(json.dumps(explained, ensure_ascii=False, indent=1), encoding="utf-8")
        print(f"{to}: what is above, for the page of python -m mpt.report")
    return 0


def explain(model: PromptedModel, words: int, tasks: Sequence[str] | None = None) -> dict[str, Any]:
    """Collect what a prompt holds, as plain values.

    Args:
        model: The prompt, and its backbone.
        words: Nearest words of each virtual token.
        tasks: Two tasks to compare; None: none.

    Returns:
        ``words`` (P and each task to the words of each virtual token), ``carried`` (each task to
        :class:`~mpt.explain.carried.Carried`), ``lengths``, ``chance`` and ``compared``.
    """
    prompt = model.adapter
    assert isinstance(prompt, MultitaskPromptEmbedding)
    prompts = dict(zip(prompt.task_names, prompt.prompts().detach().cpu(), strict=True))
    if prompt.config.has_factors and prompt.config.num_groups == 1:
        prompts = {"P": shared_of(prompt, 0).float()} | prompts
    elif prompt.config.form == "single":
        prompts = {"P": next(iter(prompts.values()))}
    return {
        "form": prompt.config.form,
        "backbone": model.backbone.name,
        "words": {
            name: [[word._asdict() for word in near] for near in nearest_words(model.backbone, vectors, words)]
            for name, vectors in prompts.items()
        },
        "chance": chance_cosine(model.backbone),
        "lengths": {name: float(vectors.norm(dim=1).mean()) for name, vectors in prompts.items()},
        "word_length": mean_norm(model.backbone),
        "carried": {name: found._asdict() for name, found in what_is_carried(prompt).items()},
        "compared": {" / ".join(tasks): compare(prompt, *tasks)._asdict()} if tasks else {},
    }


def show(explained: dict[str, Any]) -> None:
    """Print what :func:`explain` collects."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    shown = list(explained["words"])[: MOST_TASKS + 1]
    table = Table(title=f"nearest words; a random direction comes to {explained['chance']:.2f}")
    for name in ("token", *shown):
        table.add_column(name)
    for token in range(len(explained["words"][shown[0]])):
        words = [explained["words"][name][token] for name in shown]
        cells = [escape("\n".join(f"{word['text']} {word['cosine']:.2f}" for word in near)) for near in words]
        table.add_row(str(token), *cells, end_section=True)
    console.print(table)
    if len(explained["words"]) > len(shown):
        console.print(f"{len(explained['words']) - len(shown)} further tasks are in the file")
    lengths = ", ".join(f"{name} {length:.2f}" for name, length in list(explained["lengths"].items())[: MOST_TASKS + 1])
    console.print(f"mean length of a virtual token: {lengths}; of a word {explained['word_length']:.2f}", markup=False)
    if explained["carried"]:
        table = Table(title="what each W makes of P")
        for column in ("task", "length of T", "cosine to P", "mean of W", "sd of W", "signs turned", "T beyond P"):
            table.add_column(column, justify="left" if column == "task" else "right")
        for name, found in explained["carried"].items():
            table.add_row(
                name, f"{found['length']:.2f}", f"{found['cosine_to_shared']:.3f}", f"{found['mean']:.3f}",
                f"{found['deviation']:.3f}", f"{found['turned']:.1%}", f"{found['left']:.1%}",
            )  # fmt: skip
        console.print(table)
    for names, found in explained["compared"].items():
        tokens = " ".join(f"{value:.2f}" for value in found["tokens"])
        console.print(
            f"{names}: cosine of the prompts {found['prompts']:.3f}, of W {found['own']:.3f}; "
            f"{found['same_sign']:.1%} of the signs are the same; cosine at each virtual token: {tokens}",
            soft_wrap=True,
        )
