"""One job: a composed configuration is checked and its stage run, by itself or in a sweep."""

import dataclasses
import math
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mpt import config_dirs, plugins
from mpt.cli.check import check
from mpt.cli.compose import refuse_unquoted, typed
from mpt.command import is_known, print_errors
from mpt.config import RunConfig
from mpt.errors import FailedJobError, UserError, unknown
from mpt.lock import hold_folder
from mpt.phrase import phrase
from mpt.run.folder import RunFolder
from mpt.run.identity import flatten
from mpt.stages import STAGES, RunArguments, find_stage
from mpt.sweep import sweep_record as sweep
from mpt.tasks import SPLITS, digest_examples, load_split, stamp_rows

if TYPE_CHECKING:  # seconds of imports
    from mpt.run.group_member import GroupMember
    from mpt.training.own_objects import OwnObjects


def hydra_job(composed: DictConfig) -> float:
    """Check one composed configuration and run its stage; Hydra calls this, once for each job of a sweep.

    Returns:
        The ``optimized_metric``, for a sweeper that looks for the best configuration.

    Raises:
        FailedJobError: This job of a sweep failed; the others go on.
    """
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    config_dirs.anchor_paths(composed, config_dirs.searched_by(hydra_config))
    composed.experiment_name = composed.experiment_name  # resolved while Hydra still knows
    _make_other_processes_run_this_job(folder)
    if not in_sweep:
        try:
            config = typed(composed)
            return optimized(run_job(config, folder, overrides=list(hydra_config.overrides.task)), config)
        except BaseException as error:
            _remove_if_empty(folder)
            if not is_known(error):
                raise
            print_errors(phrase(error))
            sys.exit(2)
    number, overrides = int(hydra_config.job.num), list(hydra_config.overrides.task)
    return sweep_job(composed, folder, number, overrides, Path(hydra_config.sweep.dir).absolute())


def sweep_job(
    composed: DictConfig | RunConfig,
    folder: str | Path,
    number: int,
    overrides: Sequence[str],
    sweep_folder: Path,
    member: "GroupMember | None" = None,
) -> float:
    """Run one job of a sweep, and record what became of it.

    Args:
        composed: Its configuration, typed or not.
        folder: Its run folder.
        number: Its place in the sweep.
        overrides: Its part of the command line.
        sweep_folder: Where the sweep's record lies.
        member: The group that it is a part of; None: it runs by itself.

    Returns:
        The ``optimized_metric``.

    Raises:
        FailedJobError: It failed; its message has been printed.
    """
    folder = Path(folder)
    outcome = sweep.Outcome(number, str(folder), list(overrides))
    try:
        config = composed if isinstance(composed, RunConfig) else typed(composed)
        metrics = run_job(config, folder, member, overrides)
        value = optimized(metrics, config)
        score = float(metrics["test"]["average"]["score"]) if metrics else None
        sweep.record(sweep_folder, dataclasses.replace(outcome, score=score))
        return value
    except Exception as error:
        _remove_if_empty(folder)
        known = is_known(error)
        message = phrase(error) if known else f"{type(error).__name__}: {error}"
        sweep.record(sweep_folder, dataclasses.replace(outcome, error=" ".join(message.split())))
        if known:
            print_errors(message, folder.name)
        else:
            traceback.print_exc()
        raise FailedJobError(message, 2 if known else 1) from error


def run_job(
    config: RunConfig,
    folder: Path,
    member: "GroupMember | None" = None,
    overrides: Sequence[str] = (),
    own: "OwnObjects | None" = None,
) -> dict[str, Any]:
    """Run the stage that a configuration names, or print the table of a run that is finished.

    Args:
        config: The configuration.
        folder: The run folder.
        member: The group that the run is a part of; None: none.
        overrides: Its part of the command line.
        own: Callbacks and arguments of the Trainer that a program hands over; None: none.

    Returns:
        What ``metrics.json`` holds; empty in all but the main process.

    Raises:
        UserError: Everything that is wrong with the configuration, all of it together.
    """
    plugins.refuse_unloaded(config.plugins)
    refuse_unquoted(overrides)
    explicit = [text.partition("=")[0].lstrip("+~") for text in overrides]
    if config.logger.group is None:
        config.logger.group = os.environ.get(sweep.VARIABLE)
    if config.stage not in STAGES:
        raise UserError(unknown("task", config.stage, STAGES))
    stage = find_stage(config.stage)
    if stage.leaves_folder and folder.resolve() == Path.cwd():
        raise UserError(f"hydra.run.dir: is the working folder; give a folder in it, such as {Path('runs') / 'my_run'}")
    if stage.leaves_folder and (done := show_finished(config, folder, member)):
        return done
    if errors := check(config):
        raise UserError("\n".join(errors))
    arguments = RunArguments(config, folder, member, explicit, own)
    if not stage.leaves_folder:
        _remove_if_empty(folder)
        return stage.run(arguments)
    from mpt.run.console import is_main  # takes seconds to import

    if not is_main():  # of several processes the first one holds the lock
        return stage.run(arguments)
    try:
        with hold_folder(folder):
            # Another process may have finished it while this one composed.
            return show_finished(config, folder, member) or stage.run(arguments)
    except BaseException:
        _remove_if_empty(folder)
        raise


def show_finished(config: RunConfig, folder: Path, member: "GroupMember | None") -> dict[str, Any] | None:
    """Print the table of a run that is finished already.

    Returns:
        What ``metrics.json`` holds; None where the run is still to be run.

    Raises:
        UserError: The folder holds another run, or is none.
    """
    done = RunFolder(folder).finished(dataclasses.asdict(config))
    if done is None:
        return None
    check_same_rows(config, folder)
    from mpt.run import console  # takes a second to import

    if member is None:
        print(f"{folder}: finished already; overwrite=true runs it again")
    if find_stage(config.stage).trains:
        console.say(console.results_table(done))
    else:
        console.say_tables(done)
    return done


def optimized(metrics: Mapping[str, Any], config: RunConfig) -> float:
    """Look up the path ``optimized_metric`` in what ``metrics.json`` holds; NaN where a process or a stage has none.

    Raises:
        UserError: The run has no such number; its results are on the disk all the same.
    """
    if not metrics:
        return math.nan
    path, numbers = config.optimized_metric, flatten(metrics)
    if path.replace("/", ".") not in numbers:
        task = path.rpartition("/")[0].replace("/", ".") + "."
        options = ", ".join(key.removeprefix(task) for key in numbers if key.startswith(task))
        raise UserError(f"optimized_metric: the run has no {path!r}; there is {options or 'no such task'}")
    value = numbers[path.replace("/", ".")]
    return math.nan if value is None else float(value)


def check_same_rows(config: RunConfig, folder: Path) -> None:
    """Refuse to show a finished run as that of rows which have changed since.

    The rows are read only where their files are not those that the run found, by size and time.

    Raises:
        UserError: Rows have changed.
    """
    stamps = RunFolder(folder).recorded_stamps()
    stage = find_stage(config.stage)
    splits = SPLITS if stage.trains else stage.scored_splits(config)
    digests = {}
    for name, task in config.tasks.items():
        stamp = stamp_rows(name, task, config.data_root)
        if name not in stamps or stamp == stamps[name]:
            continue
        try:
            digests[name] = {
                split: digest_examples(load_split(name, task, split, config.data_root)) for split in splits
            }
        except FileNotFoundError:
            print(
                f"{folder}: the rows of tasks.{name} are gone, so a change of them cannot be noticed", file=sys.stderr
            )
    RunFolder(folder).check_rows(digests, "overwrite=true runs it again")


def _make_other_processes_run_this_job(folder: Path) -> None:
    """Let Lightning start further processes of a job by this command line, which gives the same folder again.

    Of a sweep it would repeat the whole, and every other process would run every job.
    """
    hydra_config = HydraConfig.get()
    if hydra_config.mode == RunMode.MULTIRUN:
        sources = [source for source in hydra_config.runtime.config_sources if source.provider == "command-line"]
        flags = [text for source in sources for text in ("--config-dir", source.path)]
        paths = [text for text in hydra_config.overrides.hydra if text.startswith("hydra.searchpath")]
        sys.argv[1:] = [*flags, *paths, *hydra_config.overrides.task, f"hydra.run.dir='{folder}'"]
    HydraConfig.instance().cfg = None


def _remove_if_empty(folder: Path) -> None:
    """Remove the folder that Hydra made for a refused job, and the empty ones above it."""
    folder = folder.absolute()
    for path in (folder, *folder.parents):
        if path == Path.cwd() or not path.is_dir() or any(path.iterdir()):
            return
        path.rmdir()
