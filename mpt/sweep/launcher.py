"""``hydra/launcher=fused``: the jobs of a sweep in as few trainings as they fit into.

Imports nothing heavy: Hydra asks for the launcher on every command line.
"""

import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from mpt.config import FusedConfig, RunConfig
from mpt.config_dirs import anchor_paths, searched_by
from mpt.errors import FailedJobError, UserError
from mpt.sweep.sweep_record import Outcome, record

log = logging.getLogger(__name__)


class FusedLauncher(Launcher):
    """Runs the jobs of a sweep side by side over one backbone; what cannot be fused runs by itself.

    Attributes:
        read: Types a composed configuration; set by the command line.
        run: Carries out one job within a group: typed configuration, folder, number, overrides, member.
        send: Builds what a worker calls for jobs, each a number and overrides: jobs, the sweep's configuration, the
            configuration's loader, plugins.
    """

    read: ClassVar[Callable[[DictConfig], RunConfig]]
    run: ClassVar[Callable[..., float]]
    send: ClassVar[Callable[..., tuple[Callable[..., Any], tuple[Any, ...]]]]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives."""
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs: those that fit together as one training each, here or on ``fused.workers``.

        Returns:
            The returns of all jobs, in their order.

        Raises:
            Interrupted: A signal stopped them; the same command goes on.
            UserError: There is no such engine, or workers cannot have what lies in this process's memory.
        """
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        fused = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(FusedConfig), self.config.fused))
        assert isinstance(fused, FusedConfig)
        if fused.workers == 1 and fused.engine == "local":
            return self.launch_here(job_overrides, numbers)
        return self._launch_elsewhere(job_overrides, numbers, fused)

    def launch_here(self, job_overrides: Sequence[Sequence[str]], numbers: Sequence[int]) -> list[JobReturn]:
        """Run jobs in this process, each under its number in the sweep."""
        from mpt.backbone.kept import keep_backbone  # seconds of imports
        from mpt.sweep.group import Job, run_group

        planned = self._plan(job_overrides, numbers)
        returns: dict[int, JobReturn] = {}
        with keep_backbone():
            for place in planned.alone:
                returns[place] = self._run_alone(planned.configs[place])
            for members in planned.groups:
                jobs = []
                for place in members:
                    prepared = returns[place] = _prepare(planned, place, list(job_overrides[place]))
                    sweep = Path(str(planned.configs[place].hydra.sweep.dir)).absolute()
                    config = planned.typed[place]
                    run = _runner(type(self).run, config, prepared, numbers[place], sweep)
                    jobs.append(Job(str(prepared.working_dir), config, run))
                fused = planned.typed[members[0]].fused
                for place, result in zip(members, run_group(jobs, fused), strict=True):
                    _end(returns[place], result, failed=isinstance(result, BaseException))
        return [returns[place] for place in range(len(job_overrides))]

    def _launch_elsewhere(
        self, job_overrides: Sequence[Sequence[str]], numbers: Sequence[int], fused: FusedConfig
    ) -> list[JobReturn]:
        """Send the jobs to workers, in pieces; those of several devices stay here, and come last."""
        from mpt.run.interrupt import Interrupted
        from mpt.run.progress import print_line
        from mpt.sweep.engines import check_engine, open_engine
        from mpt.sweep.group import takes_several_devices
        from mpt.sweep.schedule import LostWorkerError, Piece, StoppedError, cut, run_pieces

        check_engine(fused)
        planned = self._plan(job_overrides, numbers)
        here = [place for place in planned.alone if takes_several_devices(planned.typed.get(place))]
        held = [
            name
            for config in planned.typed.values()
            for name, task in config.tasks.items()
            if task.rows.held is not None
        ]
        if held:
            raise UserError(
                f"tasks.{held[0]}: its rows lie in the memory of this process, and fused.workers={fused.workers} are "
                "others; keep them in files, or use one worker"
            )
        pieces = [piece for group in planned.groups for piece in cut(group, fused.max_runs, fused.workers)]
        pieces += [Piece((place,)) for place in planned.alone if place not in here]
        modules = list(dict.fromkeys(name for config in planned.typed.values() for name in config.plugins))

        def work(piece: Piece) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            jobs = [(numbers[place], list(job_overrides[place])) for place in piece.jobs]
            return type(self).send(jobs, self.config, self.hydra_context.config_loader, modules)

        folder = Path(str(self.config.hydra.sweep.dir)).absolute() / "sweeps" / "submitit"
        with open_engine(work, fused, folder, len(job_overrides) - len(here)) as engine:
            try:
                found = run_pieces(pieces, engine)
            except StoppedError as stop:
                print_line(f"stopped; {engine.done} of {engine.jobs} jobs have ended, and the same command goes on")
                raise Interrupted(engine.signals.received) from stop
        returns = {place: _prepare(planned, place, list(job_overrides[place])) for place in found}
        for place, ended in found.items():
            well, value = ended if not isinstance(ended, LostWorkerError) else (False, (f"its worker: {ended}", 1))
            if isinstance(ended, LostWorkerError):  # which has recorded nothing
                outcome = Outcome(
                    numbers[place], str(returns[place].working_dir), list(job_overrides[place]), error=value[0]
                )
                record(Path(str(planned.configs[place].hydra.sweep.dir)).absolute(), outcome)
            _end(returns[place], value if well else FailedJobError(*value), failed=not well)
        for place in here:
            returns[place] = self._run_alone(planned.configs[place])
        return [returns[place] for place in range(len(job_overrides))]

    def _plan(self, job_overrides: Sequence[Sequence[str]], numbers: Sequence[int]) -> "_Planned":
        """Compose all jobs, and see which of them fit together."""
        from mpt.sweep.group import group_of, reason_to_run_alone

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        planned, groups = _Planned(), dict[Any, list[int]]()
        for place, (number, overrides) in enumerate(zip(numbers, job_overrides, strict=True)):
            sweep_config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(sweep_config):
                sweep_config.hydra.job.num = number
                sweep_config.hydra.job.id = str(number)
            planned.configs.append(sweep_config)
            try:
                planned.composed[place] = task_part(sweep_config)
                config = planned.typed[place] = type(self).read(planned.composed[place])
                alone = reason_to_run_alone(config)
            except Exception:  # the job itself says what is wrong with it
                alone = "its configuration is wrong"
            if alone is not None:
                log.info(f"job {number} ({' '.join(filter_overrides(overrides))}) by itself: {alone}")
                planned.alone.append(place)
            else:
                groups.setdefault(group_of(planned.typed[place]), []).append(place)
        planned.groups = list(groups.values())
        return planned

    def _run_alone(self, sweep_config: DictConfig) -> JobReturn:
        done = run_job(
            hydra_context=self.hydra_context,
            task_function=self.task_function,
            config=sweep_config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return done


@dataclass
class _Planned:
    """The jobs of a sweep by their places: each composed, typed where it can be, and in a group or by itself."""

    configs: list[DictConfig] = field(default_factory=list)
    composed: dict[int, DictConfig] = field(default_factory=dict)
    typed: dict[int, RunConfig] = field(default_factory=dict)
    groups: list[list[int]] = field(default_factory=list)
    alone: list[int] = field(default_factory=list)


def register(
    read: Callable[[DictConfig], RunConfig],
    run: Callable[..., float],
    send: Callable[..., tuple[Callable[..., Any], tuple[Any, ...]]],
) -> None:
    """Make the launcher known to Hydra, which takes one only out of its own namespace package.

    Args:
        read: See :class:`FusedLauncher`.
        run: See there.
        send: See there.
    """
    FusedLauncher.read, FusedLauncher.run, FusedLauncher.send = read, run, send
    plugins = Plugins.instance()
    try:
        package = importlib.import_module("hydra_plugins")
    except ImportError:  # of no installed plugin
        package = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        package.__path__ = []  # a package, of which Hydra lists the modules
    module = sys.modules["hydra_plugins.mpt"] = ModuleType("hydra_plugins.mpt")
    module.__dict__["FusedLauncher"] = FusedLauncher
    package.__dict__["mpt"] = module
    FusedLauncher.__module__ = module.__name__
    plugins.register(FusedLauncher)


def task_part(sweep_config: DictConfig) -> DictConfig:
    """Return a job's configuration without Hydra's own part, which it may refer to."""
    hydra_config = HydraConfig.instance()
    before = hydra_config.cfg
    try:
        hydra_config.set_config(sweep_config)
        composed = OmegaConf.masked_copy(sweep_config, [str(key) for key in sweep_config if key != "hydra"])
        OmegaConf.resolve(composed)
        anchor_paths(composed, searched_by(sweep_config.hydra))
    finally:
        hydra_config.cfg = before
    return composed


def _prepare(planned: _Planned, place: int, overrides: list[str]) -> JobReturn:
    """Hydra's record of a job, still without its outcome; what does not compose has no configuration."""
    sweep_config = planned.configs[place]
    folder = Path(str(sweep_config.hydra.sweep.dir)) / str(sweep_config.hydra.sweep.subdir)
    return JobReturn(
        overrides=overrides,
        cfg=planned.composed.get(place),
        hydra_cfg=OmegaConf.masked_copy(sweep_config, "hydra"),
        working_dir=str(folder),
        task_name=str(sweep_config.hydra.job.name),
    )


def _end(returned: JobReturn, value: Any, *, failed: bool) -> None:
    """Enter the outcome of a job into Hydra's record of it."""
    returned.status = JobStatus.FAILED if failed else JobStatus.COMPLETED
    returned.return_value = value


def _runner(
    run: Callable[..., float], config: RunConfig, prepared: JobReturn, number: int, sweep: Path
) -> Callable[[Any], float]:
    return lambda member: run(config, prepared.working_dir, number, prepared.overrides, sweep, member)
