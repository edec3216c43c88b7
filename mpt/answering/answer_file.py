"""Answer a file of inputs with a trained prompt: JSON lines out, in order, on from where an interruption left them."""

import hashlib
import io
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from mpt.answering.prompted import PromptedModel
from mpt.config import PredictConfig
from mpt.errors import UserError
from mpt.lock import hold_file
from mpt.run.progress import Pace, print_line
from mpt.tasks import Template, read_csv
from mpt.tasks.files import parse_json, read_lines

LINE = b'{"index": '
"""Start of each line of the output."""
BATCHES_AT_ONCE = 8
"""Batches that are read, sorted by length and written together: what an interruption loses at most."""


@dataclass(frozen=True)
class Input:
    """One text to answer.

    Attributes:
        where: File and line, for errors.
        text: The input, as the task's template writes it.
        task: Whose prompt answers it.
    """

    where: str
    text: str
    task: str


def answer_inputs(config: PredictConfig, source: str, dtype: str, backbone: str | None = None, seed: int = 0) -> int:
    """Answer every input, and write a line for each: index, task, input, prediction, and by what it was made.

    Args:
        config: Where inputs come from and answers go.
        source: Run or prompt folder.
        dtype: The backbone's.
        backbone: A folder or hub id; None: the one that the prompt names.
        seed: Seed of sampled answers.

    Returns:
        How many lines were written; those of an earlier, interrupted call are not written again.

    Raises:
        FileNotFoundError: There is no such file, or no prompt.
        UserError: A line is damaged or names no known task, or the output answers other inputs.
    """
    model = PromptedModel.load(source, backbone, dtype=dtype)
    written, pace, began = 0, Pace(), 0
    made_by = digest_of(config, model, dtype, seed)
    with _open_input(config.input) as (name, file):
        inputs = read_inputs(file, name, config, model)
        with ExitStack() as opened:
            if config.output is not None:
                opened.enter_context(hold_file(Path(config.output)))
                began = skip_answered(Path(config.output), inputs, made_by)
            output = opened.enter_context(_open_output(config.output))
            while chunk := list(islice(inputs, config.batch_size * BATCHES_AT_ONCE)):
                answers = model.generate(
                    [each.text for each in chunk],
                    [each.task for each in chunk],
                    batch_size=config.batch_size,
                    max_new_tokens=config.max_new_tokens,
                    choices=config.choices,
                    answers=config.answers,
                    seed=seed,
                )
                for each, answer in zip(chunk, answers, strict=True):
                    line = {
                        "index": began + written,
                        "task": each.task,
                        "input": each.text,
                        "prediction": answer,
                        "made_by": made_by,
                    }
                    output.write(json.dumps(line, ensure_ascii=False) + "\n")
                    written += 1
                output.flush()
                if pace.is_due():
                    print_line(f"answered {began + written} inputs, {written / pace.elapsed:.1f} a second")
    print_line(f"answered {written} inputs" + (f", {began} were answered before" if began else ""))
    return written


def digest_of(config: PredictConfig, model: PromptedModel, dtype: str, seed: int) -> str:
    """Hash what decides an answer besides its input: the prompt, the backbone, and how answers are searched for."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.adapter.snapshot().items()):
        digest.update(name.encode() + tensor.contiguous().float().numpy().tobytes())
    answers = {name: settings.to_json() for name, settings in model.answers.items()}
    settings = [model.backbone.fingerprint, dtype, seed, config.max_new_tokens, config.choices, config.answers, answers]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()[:8]


def read_inputs(file: TextIO, name: str, config: PredictConfig, model: PromptedModel) -> Iterator[Input]:
    """Read inputs as they are needed: objects or texts, a line each, or the rows of a CSV.

    A row that has the columns of its task's template, ``text`` and another among them or under ``columns``, is written
    as the template says. One with only ``text`` (or ``input``) holds the whole input.

    Args:
        file: JSON lines, CSV or TSV with ``task`` unless the configuration names one, or a text a line.
        name: What to call the file in an error; its ending says which of them it is.
        config: For the task of all inputs.
        model: For its tasks and their templates.

    Raises:
        UserError: A line is damaged, has no text, or names no known task.
    """
    known = model.task_names
    if config.task is not None and config.task not in known:
        raise UserError(f"predict.task: no task {config.task!r}; choose one of {', '.join(known)}")
    if name.endswith((".csv", ".tsv")):
        rows = read_csv(file, name, "\t" if name.endswith(".tsv") else ",", None)
        values: Iterator[tuple[str, Any]] = ((row.where, row.values) for row in rows)
    else:
        lines = (
            (number, line.rstrip("\n").removesuffix("\r"))
            for number, line in enumerate(read_lines(file, name), start=1)
        )
        values = ((f"{name}:{number}", line) for number, line in lines if line.strip())
    for where, value in values:
        if isinstance(value, str):
            value = _parse(value, where, json_lines=name.endswith((".jsonl", ".json")))
        task = config.task or value.get("task")
        if task is None:
            raise UserError(f"{where}: no task; name one for each input under 'task', or for all as predict.task")
        if task not in known:
            raise UserError(f"{where}: no task {task!r}; choose one of {', '.join(known)}")
        yield Input(where, model.write_input(_input_of(value, task, model, where), task, where), task)


def _input_of(value: Mapping[str, Any], task: str, model: PromptedModel, where: str) -> str | Mapping[str, Any]:
    """The whole input of a row, or its columns where the task's template is meant."""
    columns = value.get("columns")
    if isinstance(columns, Mapping):
        return columns
    template = model.answers[task].input
    needed = set() if template is None else set(Template(template).columns)
    rename = model.answers[task].rename
    given = {rename.get(key, key) for key in value} | {
        new for old, new in rename.items() if old.partition(".")[0] in value
    }
    if needed - {"text", "input"} and needed <= given:
        return value
    text = value.get("text", value.get("input"))
    if not isinstance(text, str) or not text.strip():
        what = f", or the columns {', '.join(sorted(needed))}" if needed else ""
        raise UserError(f"{where}: no text; each input needs one under 'text' (or 'input'){what}")
    return text


def _parse(line: str, where: str, *, json_lines: bool) -> dict[str, Any]:
    """A line as an object: JSON where it is, or has to be, one; otherwise the line is the text."""
    if not json_lines and not line.lstrip().startswith("{"):
        return {"text": line}
    value = parse_json(line, where)
    if not isinstance(value, dict):
        raise UserError(f"{where}: is a {type(value).__name__}; each line is one object with 'text'")
    return value


def skip_answered(path: Path, inputs: Iterator[Input], made_by: str) -> int:
    """Pass over the inputs that an output answers already, and cut off a line that was not finished.

    Args:
        path: The output.
        inputs: All of them; those that are answered are taken.
        made_by: From :func:`digest_of`; lines that do not say it are of an older version.

    Returns:
        How many they are.

    Raises:
        UserError: The output answers other inputs, or was made by another prompt or with other settings.
    """
    if not path.is_file():
        return 0
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    tail = content[len(whole) :]
    if tail and not (tail.startswith(LINE) or LINE.startswith(tail)):
        raise UserError(
            f"{path}: ends in a line that is no answer of ours; give another predict.output, or remove the file"
        )
    for number, line in enumerate(whole.decode("utf-8", "replace").split("\n")[:-1], start=1):
        expected = next(inputs, None)
        try:
            answered = json.loads(line)
            same = expected is not None and (answered["input"], answered["task"]) == (expected.text, expected.task)
        except (ValueError, KeyError, TypeError):
            same = False
        if same and answered.get("made_by", made_by) != made_by:
            raise UserError(
                f"{path}:{number}: was answered by another prompt, or with other settings; give another "
                "predict.output, or remove the file"
            )
        if not same:
            raise UserError(f"{path}:{number}: answers another input; give another predict.output, or remove the file")
    if len(whole) < len(content):
        with path.open("rb+") as file:
            file.truncate(len(whole))
    return whole.count(b"\n")


@contextmanager
def _open_input(name: str | None) -> Iterator[tuple[str, TextIO]]:
    """Open the inputs; a line ends at a line feed alone, and a byte-order mark is no part of the first."""
    if name in (None, "-"):
        yield "standard input", io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", newline="\n")
        return
    newline = "" if str(name).endswith((".csv", ".tsv")) else "\n"
    with Path(str(name)).open(encoding="utf-8-sig", newline=newline) as file:
        yield str(name), file


@contextmanager
def _open_output(name: str | None) -> Iterator[TextIO]:
    if name is None:
        yield sys.stdout
        return
    with Path(name).open("a", encoding="utf-8") as file:
        yield file
