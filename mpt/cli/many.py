"""Many jobs from Python: what ``-m`` does after its sweeper, each job named by its overrides."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from mpt import config_dirs
from mpt.cli.compose import CONF, register_schema, typed
from mpt.cli.composing import ConfigLoader
from mpt.cli.job import hydra_job, sweep_job
from mpt.cli.worker import send_to_worker
from mpt.config import RunConfig
from mpt.errors import FailedJobError, UserError
from mpt.sweep import launcher
from mpt.sweep.sweep_record import VARIABLE


class Composed(NamedTuple):
    """A job as Hydra composes it."""

    config: RunConfig
    folder: Path
    """Its run folder."""


class Done(NamedTuple):
    """What became of a job."""

    folder: Path
    error: str | None
    """Why it failed, in one line; None where it did not."""


class Jobs:
    """Composes and runs jobs over the choices of ``conf/`` and the user's own folders; made by :func:`open_jobs`.

    Args:
        hydra: Hydra, initialized.
    """

    def __init__(self, hydra: Hydra) -> None:
        self.hydra = hydra
        self._launched = 0

    def compose(self, overrides: Sequence[str]) -> Composed:
        """Compose a job without running it.

        Raises:
            HydraException: An override fits nothing.
            UserError: A key has no value, or is not in the schema.
        """
        composed = self.hydra.config_loader.load_configuration("train", list(overrides), RunMode.MULTIRUN)
        sweep = composed.hydra.sweep
        return Composed(typed(launcher.task_part(composed)), Path(str(sweep.dir)) / str(sweep.subdir))

    def compose_run(self, overrides: Sequence[str]) -> tuple[DictConfig, Path]:
        """Compose a run by itself, as the command does without ``-m``.

        Returns:
            The configuration, resolved, and its run folder.

        Raises:
            HydraException: An override fits nothing.
        """
        composed = self.hydra.config_loader.load_configuration("train", list(overrides), RunMode.RUN)
        return launcher.task_part(composed), Path(str(composed.hydra.run.dir))

    def train_many(self, jobs: Sequence[Sequence[str]], name: str, options: Sequence[str] = ()) -> list[Done]:
        """Run jobs as those of one sweep; a finished one is not run again.

        Args:
            jobs: The overrides of each.
            name: The sweep's, for its record and as W&B's group.
            options: Overrides of Hydra's own, such as ``hydra/launcher=fused``.

        Returns:
            What became of each, in their order.

        Raises:
            Interrupted: A signal stopped them; the same call goes on.
        """
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = name
        arguments = list(sys.argv)
        try:
            returned = self._launcher(options).launch([list(job) for job in jobs], self._launched)
        finally:
            self._launched += len(jobs)
            os.environ.pop(VARIABLE)
            if before is not None:
                os.environ[VARIABLE] = before
            sys.argv[:] = arguments  # a job puts its own command line there, for processes that it may start
        return [
            Done(_folder_of(each), None if each.status == JobStatus.COMPLETED else _say(each._return_value))
            for each in returned
        ]

    def launch(self, jobs: Sequence[Sequence[str]], numbers: Sequence[int], options: Sequence[str]) -> list[JobReturn]:
        """Run jobs of a sweep of another process here, side by side.

        Args:
            jobs: The overrides of each.
            numbers: Their numbers in the sweep.
            options: Overrides of Hydra's own.
        """
        found = self._launcher(options)
        assert isinstance(found, launcher.FusedLauncher)
        return found.launch_here([list(job) for job in jobs], numbers)

    def _launcher(self, options: Sequence[str]) -> Launcher:
        config = self.hydra.compose_config("train", list(options), RunMode.MULTIRUN)
        context = HydraContext(config_loader=self.hydra.config_loader, callbacks=Callbacks())
        return Plugins.instance().instantiate_launcher(context, hydra_job, config)


def _folder_of(returned: JobReturn) -> Path:
    """The run folder of a job: where Hydra ran it by itself, the working folder is another one."""
    assert returned.hydra_cfg is not None
    by_itself = OmegaConf.select(returned.hydra_cfg, "hydra.runtime.output_dir")
    folder = Path(str(by_itself or returned.working_dir))
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _say(error: object) -> str:
    """The message of what ended a job, in one line."""
    message = error.args[0] if isinstance(error, FailedJobError) else f"{type(error).__name__}: {error}"
    return " ".join(str(message).split())


@contextmanager
def open_jobs(folders: Sequence[Path] = ()) -> Iterator[Jobs]:
    """Initialize Hydra for jobs.

    Args:
        folders: The user's own folders of choices, as ``--config-dir`` names them.

    Raises:
        UserError: A folder is not there, or a file in it is more than data.
    """
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise UserError(f"config_dir: no folder {str(missing[0])!r}; give one that is there")
    if folders:
        config_dirs.check_files([f"--config-dir={folder}" for folder in folders], [])
    with open_search_path([("command-line", f"file://{folder.absolute()}") for folder in reversed(folders)]) as jobs:
        yield jobs


@contextmanager
def open_search_path(places: Sequence[tuple[str, str]]) -> Iterator[Jobs]:
    """Initialize Hydra over places of choices, each a provider and a path, the first one first, and those that ship."""
    register_schema()
    launcher.register(typed, sweep_job, send_to_worker)
    search_path = create_config_search_path(str(CONF))
    shipped = {each.path for each in search_path.get_path()}
    for provider, path in reversed(places):
        if path not in shipped:
            search_path.prepend(provider=provider, path=path)
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # A program that uses Hydra itself, and calls this, has its own back afterwards.
    before, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    hydra = Hydra.create_main_hydra2("mpt", search_path)
    hydra.config_loader = ConfigLoader(search_path)
    try:
        yield Jobs(hydra)
    finally:
        GlobalHydra.instance().hydra = before
