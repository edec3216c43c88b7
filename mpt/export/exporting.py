"""``python -m mpt.export COMMAND``: a trained prompt for other programs and other people."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from mpt.answering.prompted import PromptedModel
from mpt.artifact import SavedPrompt, load_prompt
from mpt.artifact.prompt_folder import METADATA, is_ours, save_prompt
from mpt.atomic import check_file_replaceable, check_replaceable, write_atomically
from mpt.errors import UserError
from mpt.export.bake import bake, embed
from mpt.export.card import write_card
from mpt.export.push import push
from mpt.hub import local_copy
from mpt.prompt import MultitaskPromptEmbedding
from mpt.prompt.bank import merge, select_tasks
from mpt.tasks import AnswerSettings


def export(arguments: argparse.Namespace) -> str:
    """Carry out one command line.

    Returns:
        What it prints.

    Raises:
        FileNotFoundError: There is no saved prompt.
        UserError: A task is unknown, or prompts do not fit each other.
    """
    if arguments.command in ("bake", "select", "merge", "import"):
        # Before anything is read.
        check_replaceable(arguments.to, is_ours)
        refuse_to_lose(arguments.to, arguments.sources if arguments.command == "merge" else [arguments.source])
    if arguments.command == "merge":
        return merge_prompts([load_prompt(source) for source in arguments.sources], arguments.to)
    source = local_copy(arguments.source)
    if arguments.command == "card":
        write_card(source, arguments.to)
        return f"{arguments.to}: the card of {arguments.source}"
    if arguments.command == "push":
        return f"{push(source, arguments.repository, private=arguments.private)}: load hf://{arguments.repository}"
    if arguments.command == "embed":
        check_file_replaceable(arguments.to, b'"written_by":"mpt"', "a file of embeddings")
        embeds = embed(PromptedModel.load(source, arguments.backbone), arguments.text, arguments.task)
        with write_atomically(arguments.to) as temporary:
            save_file({"prompt_embeds": embeds}, temporary, metadata=METADATA)
        return f"{arguments.to}: prompt_embeds of shape {tuple(embeds.shape)}"
    saved = load_prompt(source, drop_decoder_prompt=getattr(arguments, "drop_decoder_prompt", False))
    if arguments.command == "bake":
        bake(saved, arguments.task, arguments.to, arguments.base_model)
        return f"{arguments.to}: the prompt of {arguments.task}, for peft.PeftModel.from_pretrained"
    if arguments.command == "select":
        kept = arguments.tasks or [name for name in saved.task_names if name not in arguments.drop]
        if unknown := sorted(set(arguments.drop or []) - set(saved.task_names)):
            raise UserError(f"--drop: no task {unknown[0]!r}; choose from {', '.join(saved.task_names)}")
        chosen = select_tasks(saved.prompt, kept)
        _save(saved, chosen, {name: saved.task_weights[name] for name in kept}, saved.answers, arguments.to)
        return f"{arguments.to}: {', '.join(kept)}"
    return import_adapter(saved, arguments.names, arguments.to)


def refuse_to_lose(to: Path, sources: Sequence[str]) -> None:
    """Refuse to write over a prompt that is read, or over that of a run, which would be gone.

    Args:
        to: The folder to write.
        sources: What is read, as the command names it.

    Raises:
        UserError: As said.
    """
    place = to.resolve()
    for source in sources:
        if place in (Path(source).resolve(), (Path(source) / "prompt").resolve()):
            raise UserError(f"--to: {to} is the prompt that is read, which would be lost; give another folder")
    if place.name == "prompt" and (place.parent / "config.yaml").is_file():
        raise UserError(f"--to: {to} is the prompt of a run, which would be lost; give another folder")


def merge_prompts(saved: Sequence[SavedPrompt], to: Path) -> str:
    """Put several prompts that were trained with one backbone into one folder.

    Raises:
        UserError: The backbones differ, or the prompts do not fit each other.
    """
    first = saved[0]
    for other in saved[1:]:
        if other.backbone != first.backbone:
            raise UserError(
                f"backbone: is {first.backbone} of one prompt and {other.backbone} of another; a bank has one"
            )
    bank = merge([each.prompt for each in saved])
    weights = {name: weight for each in saved for name, weight in each.task_weights.items()}
    answers = {name: settings for each in saved for name, settings in each.answers.items()}
    _save(first, bank, weights, answers, to)
    return f"{to}: {', '.join(bank.task_names)}"


def import_adapter(saved: SavedPrompt, names: Sequence[str] | None, to: Path) -> str:
    """Write an adapter by PEFT as a folder of this package, with names for its tasks.

    Raises:
        UserError: There is not one name per task.
    """
    names = list(names or saved.task_names)
    if len(names) != len(saved.task_names):
        raise UserError(f"--names: are {len(names)}, and the adapter has {len(saved.task_names)} tasks")
    weights = dict(zip(names, saved.task_weights.values(), strict=True))
    old_names = list(saved.task_names)
    saved.prompt.config.task_names = names
    answers = {name: saved.answers[old] for name, old in zip(names, old_names, strict=True) if old in saved.answers}
    _save(saved, saved.prompt, weights, answers, to)
    return f"{to}: {', '.join(names)}"


def _save(
    saved: SavedPrompt,
    prompt: MultitaskPromptEmbedding,
    weights: dict[str, float],
    answers: dict[str, AnswerSettings],
    to: Path,
) -> None:
    save_prompt(to, prompt, task_weights=weights, backbone=saved.backbone, answers=answers)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read a command line."""
    parser = argparse.ArgumentParser(
        "python -m mpt.export", description="A trained prompt for other programs and other people."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, help: str, *, to: str = "folder to write") -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help)
        if name != "merge":
            command.add_argument("source", help="run folder, prompt folder, PEFT adapter, or hf://owner/name")
        if to:
            command.add_argument("--to", type=Path, required=True, help=to)
        return command

    baked = add("bake", "One task's prompt as a PEFT adapter of plain prompt tuning.")
    baked.add_argument("--task", required=True)
    baked.add_argument("--base-model", help="where transformers finds the backbone; default: under its name")
    embedded = add(
        "embed", "A text behind a task's prompt, as the prompt_embeds that vLLM takes.", to="file, .safetensors"
    )
    embedded.add_argument("--task", required=True)
    embedded.add_argument("--text", required=True)
    embedded.add_argument("--backbone", help="folder or hub id; default: the one that the prompt names")
    chosen = add("select", "Some of a prompt's tasks.")
    which = chosen.add_mutually_exclusive_group(required=True)
    which.add_argument("--tasks", nargs="+", help="tasks to keep, in this order")
    which.add_argument("--drop", nargs="+", help="tasks to leave out")
    merged = add("merge", "The prompts of several runs as one.")
    merged.add_argument("sources", nargs="+", help="run folders, prompt folders, or hf://owner/name")
    imported = add("import", "A multitask adapter that PEFT has trained, as a folder of ours.")
    imported.add_argument("--names", nargs="+", help="a name for each task; default: task_0, task_1, ...")
    imported.add_argument(
        "--drop-decoder-prompt", action="store_true",
        help="keep the encoder's prompt of an adapter that has one for the decoder too",
    )  # fmt: skip
    add("card", "A model card: data, scores, parameters, command.", to="file, such as README.md")
    pushed = add("push", "Upload a prompt and its card to the hub.", to="")
    pushed.add_argument("repository", help="owner/name")
    pushed.add_argument("--private", action="store_true")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Raises:
        OSError: A file or folder is not there, or cannot be written.
        UserError: The command line or what it names is wrong.
    """
    arguments = parse_arguments(argv)
    print(export(arguments))
    return 0
