"""``hydra/launcher=fused``: the jobs of a sweep in as few trainings as they fit into.

Imports nothing heavy: Hydra asks for the launcher on every command line.
"""

import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from mpt.config import RunConfig
from mpt.config_dirs import anchor_paths, searched_by

log = logging.getLogger(__name__)


class FusedLauncher(Launcher):
    """Runs the jobs of a sweep side by side over one backbone; what cannot be fused runs by itself.

    Attributes:
        read: Types a composed configuration; set by the command line.
        run: Carries out one job within a group: composed configuration, folder, number, overrides, member.
    """

    read: ClassVar[Callable[[DictConfig], RunConfig]]
    run: ClassVar[Callable[..., float]]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives."""
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; those that fit together as one training each.

        Returns:
            The returns of all jobs, in their order.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        from mpt.sweep.group import Job, group_of, reason_to_run_alone, run_group  # seconds of imports

        returns: list[JobReturn | None] = [None] * len(job_overrides)
        groups: dict[Any, list[tuple[int, DictConfig, RunConfig]]] = {}
        for place, overrides in enumerate(job_overrides):
            sweep_config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(sweep_config):
                sweep_config.hydra.job.num = initial_job_idx + place
                sweep_config.hydra.job.id = str(initial_job_idx + place)
            try:
                config = type(self).read(task_part(sweep_config))
                alone = reason_to_run_alone(config)
            except Exception:  # the job itself says what is wrong with it
                config, alone = None, "its configuration is wrong"
            if config is None or alone is not None:
                log.info(f"job {initial_job_idx + place} ({' '.join(filter_overrides(overrides))}) by itself: {alone}")
                returns[place] = self._run_alone(sweep_config)
            else:
                groups.setdefault(group_of(config), []).append((place, sweep_config, config))
        for members in groups.values():
            jobs = []
            for place, sweep_config, config in members:
                prepared = returns[place] = _prepare(sweep_config, list(job_overrides[place]))
                sweep = Path(str(sweep_config.hydra.sweep.dir)).absolute()
                run = _runner(type(self).run, prepared, initial_job_idx + place, sweep)
                jobs.append(Job(str(prepared.working_dir), config, run))
            for (place, _, _), result in zip(members, run_group(jobs, members[0][2].fused), strict=True):
                of_job = returns[place]
                assert of_job is not None
                of_job.status = JobStatus.FAILED if isinstance(result, BaseException) else JobStatus.COMPLETED
                of_job.return_value = result
        return [each for each in returns if each is not None]

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


def register(read: Callable[[DictConfig], RunConfig], run: Callable[..., float]) -> None:
    """Make the launcher known to Hydra, which takes one only out of its own namespace package.

    Args:
        read: See :class:`FusedLauncher`.
        run: See there.
    """
    FusedLauncher.read, FusedLauncher.run = read, run
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


def _prepare(sweep_config: DictConfig, overrides: list[str]) -> JobReturn:
    """Hydra's record of a job, still without its outcome."""
    folder = Path(str(sweep_config.hydra.sweep.dir)) / str(sweep_config.hydra.sweep.subdir)
    return JobReturn(
        overrides=overrides,
        cfg=task_part(sweep_config),
        hydra_cfg=OmegaConf.masked_copy(sweep_config, "hydra"),
        working_dir=str(folder),
        task_name=str(sweep_config.hydra.job.name),
    )


def _runner(run: Callable[..., float], prepared: JobReturn, number: int, sweep: Path) -> Callable[[Any], float]:
    return lambda member: run(prepared.cfg, prepared.working_dir, number, prepared.overrides, sweep, member)
