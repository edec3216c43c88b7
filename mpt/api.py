"""From Python: compose, train, train many, evaluate; the same checks, folders and numbers as the command line."""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mpt import plugins
from mpt.cli.compose import CONF, plain, typed
from mpt.cli.job import run_job
from mpt.cli.many import Jobs, open_jobs
from mpt.config import RunConfig, TaskConfig
from mpt.errors import UserError
from mpt.phrase import phrase
from mpt.run.identity import run_name
from mpt.run.interrupt import Interrupted
from mpt.run.record import read_metrics
from mpt.tasks import check_task
from mpt.tasks.checking import NO_NAMES
from mpt.tasks.held import Task

if TYPE_CHECKING:  # seconds of imports
    from lightning.pytorch.callbacks import Callback

    from mpt.answering.prompted import PromptedModel

Job = Sequence[str] | Mapping[str, Any]
"""A job of a sweep: overrides, or keys and values, of which ``tasks`` may hold :class:`Task`."""
NO_LOGGING = ("hydra/job_logging=none", "hydra/hydra_logging=none")
"""Hydra leaves the program's own logging alone."""
COMMAND = str(Path(__file__).with_name("__main__.py"))


@dataclass(frozen=True)
class Run:
    """A run that has ended, on the disk.

    Attributes:
        folder: Its folder.
        error: Why a job of a sweep failed, in one line; None where it did not.
    """

    folder: Path
    error: str | None = None

    @property
    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds.

        Raises:
            UserError: The run failed, or is not finished.
        """
        self._refuse_failed()
        metrics = read_metrics(self.folder)
        if metrics is None:
            raise UserError(f"{self.folder}: is not finished; the same call goes on")
        return metrics

    def prompt(self) -> "PromptedModel":
        """Load what it has trained, on its backbone, to answer with.

        Raises:
            UserError: The run failed, or trained nothing.
        """
        from mpt.answering.prompted import PromptedModel  # seconds of imports

        self._refuse_failed()
        return PromptedModel.load(self.folder)

    def predictions(self, task: str) -> list[dict[str, Any]]:
        """Read the answers to a task's test rows: input, references, prediction, scores.

        Raises:
            FileNotFoundError: The run answered no such task.
        """
        path = self.folder / "predictions" / f"{task}.jsonl"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not there; the run has no answers to {task!r}")
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]

    def _refuse_failed(self) -> None:
        if self.error is not None:
            raise UserError(f"{self.folder}: failed: {self.error}")


def compose(
    *overrides: str, tasks: Sequence[str | Task] = (), config_dir: str | Sequence[str] = (), **settings: Any
) -> RunConfig:
    """Compose a configuration, as the command line does.

    Args:
        overrides: As on the command line, ``"trainer.max_steps=100"``.
        tasks: Names of tasks and :class:`Task`; the same as ``tasks=[...]``.
        config_dir: Folders of the user's own choices, as ``--config-dir``.
        settings: Keys and values, ``**{"trainer.max_steps": 100}``.

    Raises:
        UserError: A key or a choice is unknown, or a value has the wrong type.
    """
    words = write_overrides(overrides, tasks, settings)
    with _session(words, config_dir, tasks) as jobs:
        return typed(jobs.compose_run(words)[0])


def train(
    *overrides: str | RunConfig,
    tasks: Sequence[str | Task] = (),
    callbacks: "Sequence[str | Callback]" = (),
    trainer_arguments: Mapping[str, Any] | None = None,
    config_dir: str | Sequence[str] = (),
    **settings: Any,
) -> Run:
    """Train one run; a finished one is not run again, and one that was stopped goes on.

    Args:
        overrides: As on the command line, ``"task=source"``; or one :class:`RunConfig`, and nothing beside it.
        tasks: Names of tasks and :class:`Task`; the same as ``tasks=[...]``.
        callbacks: Names of callbacks that plugins bring, and Lightning's own as objects.
        trainer_arguments: Arguments of Lightning's Trainer that no key sets, such as ``{"profiler": "simple"}``.
        config_dir: Folders of the user's own choices, as ``--config-dir``.
        settings: Keys and values, ``**{"trainer.max_steps": 100}``.

    Raises:
        UserError: Something is wrong with the configuration, the data or the backbone.
        FileNotFoundError: Something that it names is not there.
        KeyboardInterrupt: Ctrl-C stopped it between two steps; the same call goes on.
    """
    from mpt.training.own_objects import OwnObjects  # seconds of imports

    own = OwnObjects([each for each in callbacks if not isinstance(each, str)], dict(trainer_arguments or {}))
    own.check()
    if named := [each for each in callbacks if isinstance(each, str)]:
        settings["callbacks"] = named
    given = [each for each in overrides if isinstance(each, RunConfig)]
    if given:
        if len(overrides) > 1 or tasks or settings:
            raise UserError("mpt.train: a RunConfig says everything; set further keys in it, or give overrides instead")
        composed = OmegaConf.structured(given[0])
        composed.objects = own.names
        folder = Path(given[0].output_root) / given[0].stage / run_name(plain(composed))
        with _saying():
            run_job(typed(composed), folder, own=own)
        return Run(folder)
    words = write_overrides([str(each) for each in overrides], tasks, settings)
    if own.names:
        words.append(_override("objects", own.names))
    with _session(words, config_dir, tasks) as jobs, _as_command(words):
        composed, folder = jobs.compose_run(words)
        run_job(typed(composed), folder, overrides=words, own=own)
    return Run(folder)


def train_many(
    jobs: Sequence[Job], *, config_dir: str | Sequence[str] = (), name: str = "train_many", **settings: Any
) -> list[Run]:
    """Train many jobs over one backbone, as ``-m hydra/launcher=fused`` does; those that are finished do not run again.

    Args:
        jobs: Each a list of overrides, or a mapping of keys to values.
        config_dir: Folders of the user's own choices, as ``--config-dir``.
        name: The sweep's, for its record and as W&B's group.
        settings: Keys and values of all jobs.

    Returns:
        Their runs, in their order; a failed one has its ``error``, and does not end the others.

    Raises:
        UserError: A job names something that is not there.
        KeyboardInterrupt: Ctrl-C stopped them; the same call goes on.
    """
    words, held = [], []
    for job in jobs:
        keys = {**settings, **job} if isinstance(job, Mapping) else settings
        tasks = [keys["tasks"]] if isinstance(keys.get("tasks"), (str, Task)) else keys.get("tasks", ())
        held += [each for each in tasks if isinstance(each, Task)]
        own = [] if isinstance(job, Mapping) else list(job)
        words.append(write_overrides(own, tasks, {key: keys[key] for key in keys if key != "tasks"}))
    with _session([text for each in words for text in each], config_dir, held) as opened:
        for each in words:
            opened.compose(each)  # what is misspelt is said before anything runs
        done = opened.train_many(words, name, ["hydra/launcher=fused", *NO_LOGGING])
    return [Run(each.folder, each.error) for each in done]


def evaluate(
    run: Run | str | Path,
    *overrides: str,
    tasks: Sequence[str | Task],
    config_dir: str | Sequence[str] = (),
    **settings: Any,
) -> Run:
    """Score what a run has trained on any tasks, as ``task=evaluate`` does.

    Args:
        run: A run, or its folder.
        overrides: As on the command line.
        tasks: Names of tasks and :class:`Task`.
        config_dir: Folders of the user's own choices, as ``--config-dir``.
        settings: Keys and values, ``**{"evaluate.splits": ["validation"]}``.

    Returns:
        The evaluation, a run folder of its own.

    Raises:
        UserError: The prompt does not fit, or a task is wrong.
    """
    source = str(run.folder if isinstance(run, Run) else run)
    return train("task=evaluate", *overrides, tasks=tasks, config_dir=config_dir, **{"source": source, **settings})


@contextmanager
def _session(words: Sequence[str], config_dir: str | Sequence[str], tasks: Sequence[str | Task]) -> Iterator[Jobs]:
    """Hydra, with the plugins, the user's folders and the tasks in memory."""
    folders = [Path(each) for each in ([config_dir] if isinstance(config_dir, str) else config_dir)]
    with _saying():
        plugins.begin(words, [*folders, CONF])
        with open_jobs(folders) as jobs:
            for task in tasks:
                if isinstance(task, Task):
                    _enter_task(task, [*folders, CONF])
            yield jobs


def _enter_task(task: Task, folders: Sequence[Path]) -> None:
    """Make a task in memory a choice of ``tasks=``."""
    taken = [path for folder in folders if (path := folder / "tasks" / f"{task.name}.yaml").is_file()]
    if taken:
        raise UserError(f"mpt.Task {task.name}: is the name of {taken[0].name} among the tasks; give it another")
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TaskConfig), task.values))
    assert isinstance(config, TaskConfig)
    if errors := check_task(task.name, config):
        raise UserError("\n".join(errors))
    package = f"tasks.{task.name}"
    ConfigStore.instance().store(group="tasks", name=task.name, node=task.values, package=package)


@contextmanager
def _saying() -> Iterator[None]:
    """Errors in the user's words, and Ctrl-C as Python has it."""
    try:
        yield
    except Interrupted as stop:
        raise KeyboardInterrupt("stopped; the same call goes on") from stop
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(phrase(error)) from error


@contextmanager
def _as_command(words: Sequence[str]) -> Iterator[None]:
    """Show runs, and the processes that they start, the command line that does the same."""
    before = sys.argv
    sys.argv = [COMMAND, *words]
    try:
        yield
    finally:
        sys.argv = before


def write_overrides(overrides: Sequence[str], tasks: Sequence[str | Task], settings: Mapping[str, Any]) -> list[str]:
    """Write overrides, tasks, and keys with values as a command line has them."""
    words = list(overrides)
    if isinstance(tasks, (str, Task)):
        tasks = [tasks]
    if tasks:
        words.append(_override("tasks", [each.name if isinstance(each, Task) else each for each in tasks]))
    return [*words, *(_override(key, value) for key, value in settings.items())]


def _override(key: str, value: Any) -> str:
    return f"{key}={_write(value)}"


def _write(value: Any) -> str:
    """Write a value in the grammar of Hydra's overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        if odd := [key for key in value if not re.fullmatch(r"[\w./+-]+( [\w./+-]+)*", str(key), re.ASCII)]:
            raise UserError(f"{odd[0]!r}: is no key that an override can have; set it in a file, or in mpt.Task")
        keys = (str(key).replace(" ", "\\ ") for key in value)  # Hydra takes no quoted key
        return "{" + ",".join(f"{key}:{_write(each)}" for key, each in zip(keys, value.values(), strict=True)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_write, value)) + "]"
    text = os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    if re.fullmatch(r"[A-Za-z_][\w./+-]*", text, re.ASCII) and text.lower() not in NO_NAMES:
        return text
    # A backslash is one, except before a quote or at the end.
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text) + "'"
