"""``tasks=list``, ``tasks=new`` and ``tasks=show``: find, draft and check data sets before anything is trained."""

import statistics
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser

from mpt.atomic import write_atomically
from mpt.config import RunConfig, TaskConfig
from mpt.errors import UserError
from mpt.tasks import SPLITS, Example, catalogue, check_task, load_split
from mpt.tasks.draft import draft

if TYPE_CHECKING:  # seconds of imports
    from mpt.backbone import Tokenization

COMMANDS = ("list", "new", "show")
NEW_KEYS = ("name", "files", "target", "delimiter", "encoding")
OWN = "mine"
"""Folder that a new task is written to where no ``--config-dir`` says another."""
SHOWN = 3
"""Examples of each split that are shown."""

Compose = Callable[[Sequence[str]], RunConfig]
"""Composes and types a configuration from overrides."""


def run(command: str, arguments: Sequence[str], config_dirs: Sequence[Path], choices: Path, compose: Compose) -> None:
    """Carry out one of :data:`COMMANDS`.

    Args:
        command: Which one.
        arguments: The other ``key=value`` of the command line.
        config_dirs: The user's own folders of choices.
        choices: The folder of choices that ships.
        compose: Composes a configuration.

    Raises:
        FileNotFoundError: A file or folder is not there.
        UserError: A key is missing, unknown or wrong, or the data are.
    """
    if command == "list":
        _refuse_others("list", arguments)
        list_tasks([*(folder / "tasks" for folder in config_dirs), choices / "tasks"])
    elif command == "new":
        new_task(_read_pairs("new", arguments, NEW_KEYS, ("name", "files")), config_dirs)
    else:
        others = [text for text in arguments if not text.startswith("name=")]
        name = _read_pairs("show", [text for text in arguments if text not in others], ("name",), ("name",))["name"]
        show_task(name, compose([f"+tasks=[{name}]", *others]))


def list_tasks(folders: Sequence[Path]) -> None:
    """Print the data sets of some folders, the user's own first."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    for column in ("task", "family", "rows", "metrics", "what it is"):
        shown.add_column(column, style="bold" if column == "task" else None, no_wrap=column == "task")
    for folder in folders:
        for row in catalogue(folder):
            shown.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 200).print(shown, markup=False)


def new_task(pairs: Mapping[str, str], config_dirs: Sequence[Path]) -> None:
    """Write the YAML file of a task from the columns of a data set, which a run can take as it is.

    Raises:
        UserError: There is such a file already, the name is none, or the data cannot be read.
    """
    name = pairs["name"]
    folder = config_dirs[0] if config_dirs else Path(OWN)
    path = folder / "tasks" / f"{name}.yaml"
    if path.exists():
        raise UserError(f"{path}: is there already; remove it, or give another name")
    errors = [error for error in check_task(name, TaskConfig()) if error.startswith(f"tasks.{name}: ")]
    if errors:
        raise UserError("\n".join(errors))
    drafted = draft(
        name,
        pairs["files"],
        target=pairs.get("target"),
        delimiter=pairs.get("delimiter"),
        encoding=pairs.get("encoding"),
        config_dir=str(folder),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as temporary:
        temporary.write_text(drafted.text, encoding="utf-8")
    print(f"{path}:\n\n{drafted.text}")
    for note in drafted.notes:
        print(f"look at this: {note}")
    print(f"check it:  python train.py tasks=show name={name} --config-dir {folder}")
    print(f"train it:  python train.py task=source '+tasks=[{name}]' --config-dir {folder}")


def show_task(name: str, config: RunConfig) -> None:
    """Print what a task's templates make of its rows, and what a tokenizer makes of these texts.

    Args:
        name: The task.
        config: A configuration with the task and a backbone.

    Raises:
        FileNotFoundError: The data are not there.
        UserError: The task or its data are wrong.
    """
    from mpt.backbone import load_tokenization  # seconds of imports
    from mpt.data.tokenize import check_labels

    task = config.tasks[name]
    if errors := check_task(name, task):
        raise UserError("\n".join(errors))
    examples = {split: load_split(name, task, split, config.data_root) for split in SPLITS}
    tokenization = load_tokenization(config.backbone)
    print(f"{name}: {task.about}" if task.about else name)
    for split, of_split in examples.items():
        print(f"\n{split}: {len(of_split):,} examples")
        for example in of_split[:SHOWN]:
            _print_example(example)
    backbone = config.backbone.path or config.backbone.name
    print(f"\nTokens of {backbone} (longest input {task.max_source_tokens}, target {task.max_target_tokens}):")
    _print_lengths(examples, task, tokenization)
    _print_classes(examples)
    check_labels(name, [each for of_split in examples.values() for each in of_split], tokenization, task)
    for warning in _warnings(name, task, examples):
        print(f"warning: {warning}")


def _print_example(example: Example) -> None:
    print(f"  {example.row_id}\n    input:  {example.input!r}\n    target: {example.target!r}")
    if example.references != (example.target,):
        print(f"    {len(example.references)} references: {', '.join(map(repr, example.references[:SHOWN]))}")


def _print_lengths(examples: Mapping[str, Sequence[Example]], task: TaskConfig, tokenization: "Tokenization") -> None:
    from rich.console import Console
    from rich.table import Table

    from mpt.data.token_rows import TokenRows
    from mpt.data.tokenize import share_of_kept, share_of_unknown

    table = Table()
    table.add_column("split")
    for column in ("texts", "median", "95 %", "longest", "cut", "unknown tokens", "kept"):
        table.add_column(column, justify="right" if column != "texts" else "left")
    for split, of_split in examples.items():
        for kind, encode, longest in (
            ("input", tokenization.encode_inputs, task.max_source_tokens),
            ("target", tokenization.encode_targets, task.max_target_tokens),
        ):
            ids = TokenRows(encode([getattr(example, kind) for example in of_split])[0])
            lengths = sorted(map(len, ids))
            cut = sum(length > longest for length in lengths) / len(lengths)
            shown = (int(statistics.median(lengths)), lengths[int(0.95 * (len(lengths) - 1))], lengths[-1])
            texts = [getattr(example, kind) for example in of_split]
            shares = [cut, share_of_unknown(ids, tokenization.tokenizer)]
            if kind == "target":  # an answer that is not given back can never be right
                shares.append(share_of_kept(ids, texts, tokenization))
            table.add_row(split, kind, *map(str, shown), *(f"{share:.1%}" for share in shares))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _print_classes(examples: Mapping[str, Sequence[Example]]) -> None:
    """Print how many examples of each class the splits of a classification have."""
    counts = {split: Counter(example.label for example in of_split) for split, of_split in examples.items()}
    labels = sorted({label for of_split in counts.values() for label in of_split if label is not None})
    if not labels:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("class")
    for split in counts:
        table.add_column(split, justify="right")
    for label in labels:
        shares = (f"{found[label]:,} ({found[label] / found.total():.0%})" for found in counts.values())
        table.add_row(label, *shares)
    Console(width=None if sys.stdout.isatty() else 120).print(table, markup=False)


def _warnings(name: str, task: TaskConfig, examples: Mapping[str, Sequence[Example]]) -> list[str]:
    """Find what spoils scores without stopping a run."""
    found = []
    trained = {example.input for example in examples["train"]}
    for split in ("validation", "test"):
        shared = sum(example.input in trained for example in examples[split])
        if shared:
            found.append(f"{shared} of the {len(examples[split])} {split} inputs are also in train")
    classes = {example.label for example in examples["train"]}
    missing = {example.label for example in examples["test"]} - classes
    if None not in classes and missing:
        found.append(f"no training example has the class {', '.join(sorted(map(str, missing)))} of the test split")
    if None not in classes and not task.constrained:
        found.append(f"tasks.{name}.constrained is false: an answer that is no label word counts as wrong")
    return found


def _read_pairs(command: str, arguments: Sequence[str], keys: Sequence[str], needed: Sequence[str]) -> dict[str, str]:
    """Read ``key=value`` arguments of a command that Hydra does not see.

    Raises:
        UserError: A key is unknown, or one that is needed is missing.
    """
    pairs = {}
    for override in OverridesParser.create().parse_overrides([text for text in arguments if "=" in text]):
        key = override.key_or_group
        if key not in keys:
            close = get_close_matches(key, keys, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise UserError(f"tasks={command}: no key {key!r}; choose from {', '.join(keys)}{hint}")
        pairs[key] = str(override.value())
    if missing := [key for key in needed if not pairs.get(key)]:
        example = "name=tickets files=data/tickets.csv" if command == "new" else "name=sum"
        raise UserError(f"tasks={command}: {', '.join(missing)} is missing; write tasks={command} {example}")
    return pairs


def _refuse_others(command: str, arguments: Sequence[str]) -> None:
    if arguments:
        raise UserError(f"tasks={command}: takes no {arguments[0]!r}; --config-dir FOLDER adds a folder of your own")
