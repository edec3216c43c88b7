"""Answer a file of inputs with a trained prompt: JSON lines out, in order, on from where an interruption left them."""

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from mpt.config import PredictConfig
from mpt.progress import Pace, print_line
from mpt.prompted import PromptedModel

BATCHES_AT_ONCE = 8
"""Batches that are read, sorted by length and written together: what an interruption loses at most."""


@dataclass(frozen=True)
class Input:
    """One text to answer.

    Attributes:
        where: File and line, for errors.
        text: The input, as a task's template writes it.
        task: Whose prompt answers it.
    """

    where: str
    text: str
    task: str


def answer_inputs(config: PredictConfig, source: str, dtype: str, backbone: str | None = None) -> int:
    """Answer every input, and write a line for each: index, task, input, prediction.

    Args:
        config: Where inputs come from and answers go.
        source: Run or prompt folder.
        dtype: Of the backbone.
        backbone: A folder or hub id; None: the one that the prompt names.

    Returns:
        How many lines were written; those of an earlier, interrupted call are not written again.

    Raises:
        FileNotFoundError: There is no such file, or no prompt.
        ValueError: A line is damaged or names no known task, or the output answers other inputs.
    """
    model = PromptedModel.load(source, backbone, dtype=dtype)
    written, pace, began = 0, Pace(), 0
    with _open_input(config.input) as (name, file):
        inputs = read_inputs(file, name, config, model.task_names)
        if config.output is not None:
            began = skip_answered(Path(config.output), inputs)
        with _open_output(config.output) as output:
            while chunk := list(islice(inputs, config.batch_size * BATCHES_AT_ONCE)):
                answers = model.generate(
                    [each.text for each in chunk],
                    [each.task for each in chunk],
                    batch_size=config.batch_size,
                    max_new_tokens=config.max_new_tokens,
                    choices=config.choices,
                )
                for each, answer in zip(chunk, answers, strict=True):
                    line = {
                        "index": began + written,
                        "task": each.task,
                        "input": each.text,
                        "prediction": answer,
                    }
                    output.write(json.dumps(line, ensure_ascii=False) + "\n")
                    written += 1
                output.flush()
                if pace.is_due():
                    print_line(f"answered {began + written} inputs, {written / pace.elapsed:.1f} a second")
    print_line(f"answered {written} inputs" + (f", {began} were answered before" if began else ""))
    return written


def read_inputs(file: TextIO, name: str, config: PredictConfig, tasks: Iterable[str]) -> Iterator[Input]:
    """Read inputs as they are needed: objects or texts, a line each, or the rows of a CSV.

    Args:
        file: JSON lines (with ``text``, and ``task`` unless the configuration names one), CSV with the same columns, or
            a text a line.
        name: What to call the file in an error; its ending says which of the three it is.
        config: For the task of all inputs.
        tasks: The prompt's.

    Raises:
        ValueError: A line is damaged, has no text, or names no known task.
    """
    known = list(tasks)
    if config.task is not None and config.task not in known:
        raise ValueError(f"predict.task: no task {config.task!r}; choose one of {', '.join(known)}")
    if name.endswith(".csv"):
        values: Iterator[tuple[int, Any]] = (
            (number, row) for number, row in enumerate(csv.DictReader(file), start=2)
        )
    else:
        values = ((number, line.rstrip("\n")) for number, line in enumerate(file, start=1) if line.strip())
    for number, value in values:
        where = f"{name}:{number}"
        if isinstance(value, str):
            value = _parse(value, where, json_lines=name.endswith((".jsonl", ".json")))
        text, task = value.get("text", value.get("input")), config.task or value.get("task")
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{where}: no text; each input needs one under 'text' (or 'input')")
        if task is None:
            raise ValueError(
                f"{where}: no task; name one for each input under 'task', or for all as predict.task"
            )
        if task not in known:
            raise ValueError(f"{where}: no task {task!r}; choose one of {', '.join(known)}")
        yield Input(where, text, task)


def _parse(line: str, where: str, *, json_lines: bool) -> dict[str, Any]:
    """A line as an object: JSON where it is, or has to be, one; otherwise the line is the text."""
    if not json_lines and not line.lstrip().startswith("{"):
        return {"text": line}
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error}); each line is one object") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where}: is a {type(value).__name__}; each line is one object with 'text'")
    return value


def skip_answered(path: Path, inputs: Iterator[Input]) -> int:
    """Pass over the inputs that an output answers already, and cut off a line that was not finished.

    Returns:
        How many they are.

    Raises:
        ValueError: The output answers other inputs.
    """
    if not path.is_file():
        return 0
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    for number, line in enumerate(whole.decode("utf-8").splitlines(), start=1):
        expected = next(inputs, None)
        try:
            answered = json.loads(line)
            same = expected is not None and (answered["input"], answered["task"]) == (
                expected.text,
                expected.task,
            )
        except (ValueError, KeyError, TypeError):
            same = False
        if not same:
            raise ValueError(
                f"{path}:{number}: answers another input; give another predict.output, or remove the file"
            )
    if len(whole) < len(content):
        with path.open("rb+") as file:
            file.truncate(len(whole))
    return whole.count(b"\n")


@contextmanager
def _open_input(name: str | None) -> Iterator[tuple[str, TextIO]]:
    if name in (None, "-"):
        yield "standard input", io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8")
        return
    with Path(str(name)).open(encoding="utf-8", newline="" if str(name).endswith(".csv") else None) as file:
        yield str(name), file


@contextmanager
def _open_output(name: str | None) -> Iterator[TextIO]:
    if name is None:
        yield sys.stdout
        return
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    with Path(name).open("a", encoding="utf-8") as file:
        yield file
