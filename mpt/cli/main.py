"""The command line: compose the configuration, check all of it, refuse early, run one stage."""

import dataclasses
import math
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mpt import __version__, config_dirs
from mpt.cli import help, task_commands
from mpt.cli.check import check
from mpt.cli.phrase import phrase
from mpt.config import OLD_FORMS, RunConfig
from mpt.errors import UserError, unknown
from mpt.run.folder import RunFolder
from mpt.run.identity import flatten, run_name
from mpt.stages import STAGES, RunArguments, Stage, find_stage
from mpt.sweep import launcher
from mpt.sweep import sweep_record as sweep
from mpt.tasks import SPLITS, digest_examples, load_split, stamp_rows

if TYPE_CHECKING:  # seconds of imports
    from mpt.run.group_member import GroupMember

PACKAGE = Path(__file__).resolve().parents[1]
CONF = next((path for path in (PACKAGE / "conf", PACKAGE.parent / "conf") if path.is_dir()), PACKAGE / "conf")
"""Inside the package in a wheel, beside it in a checkout."""


class FailedJobError(Exception):
    """A job of a sweep that failed; its message has been printed.

    Args:
        message: Why.
        code: Exit code of a single run that fails so.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, code)  # both, so that it can come from another process
        self.code = code


def main() -> None:
    """Run what the command line asks for; exit with 2 and one message where it asks for something wrong."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra shortens errors before we see them
    # OpenMP's threads wait for each other in a loop: beside one other busy process a step on two cores took ten
    # times as long, and with this bound twice (experiments/LOG.md). Read when torch is imported, so before.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    register_schema()
    sys.argv[1:] = help.arrange(sys.argv[1:])
    try:
        if "--version" in sys.argv:
            print(f"mpt {__version__}")
        elif "--help=markdown" in sys.argv:
            print(help.render_reference(compose_shipped([])), end="")
        elif {"--help", "-h"} & set(sys.argv):
            print_help(sys.argv[1:])
        elif (named := tasks_of(sys.argv[1:])) and named[0] in task_commands.COMMANDS and len(named) == 1:
            shown = [text.partition("=")[2] for text in sys.argv[1:] if text.startswith("name=")]
            config_dirs.check_files(sys.argv[1:], shown)
            run_task_command(named[0], sys.argv[1:])
        else:
            config_dirs.check_files(sys.argv[1:], named)
            sweep.begin(sys.argv[1:])
            try:
                hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(job)()
            finally:
                sweep.finish()
    except FailedJobError as error:
        sys.exit(error.code)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not is_known(error):
            raise
        print_errors(phrase(error))
        sys.exit(2)


def register_schema() -> None:
    """Make the schema and the resolvers of ``conf/`` known to Hydra."""
    ConfigStore.instance().store(name="run_schema", node=RunConfig)
    OmegaConf.register_new_resolver("mpt_run_name", _run_name, replace=True)
    OmegaConf.register_new_resolver("mpt_experiment", _experiment_name, replace=True)
    launcher.FusedLauncher.read, launcher.FusedLauncher.run = typed, job_of_sweep
    launcher.register()


def _run_name(*, _root_: DictConfig) -> str:
    return run_name(plain(_root_))


def _experiment_name() -> str | None:
    """The experiment that the command line, or a sweep's job, has chosen."""
    if not HydraConfig.initialized():
        return None
    name = HydraConfig.get().runtime.choices.get("experiment")
    return None if name in (None, "null") else str(name)


def plain(composed: DictConfig) -> dict[str, Any]:
    """The keys of :class:`mpt.config.RunConfig` as resolved plain values."""
    ours = OmegaConf.masked_copy(composed, list(RunConfig.__dataclass_fields__))
    values = OmegaConf.to_container(ours, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def tasks_of(arguments: Sequence[str]) -> list[str]:
    """The task names that the command line gives, checked before they become keys of a mapping.

    Raises:
        UserError: An empty list, or a name twice, which the composed configuration no longer shows.
    """
    overrides = [text for text in arguments if text.startswith(("tasks=", "+tasks=", "++tasks="))]
    names: list[str] = []
    for override in OverridesParser.create().parse_overrides(overrides):
        swept = override.is_sweep_override()
        choices = list(override.sweep_iterator()) if swept else [override.value()]
        for choice in choices:
            names = [str(name) for name in choice] if isinstance(choice, list) else [str(choice)]
            if not choice:
                raise UserError(
                    f"{override.input_line}: no tasks; name at least one, as in '+tasks=[sum,mt,dlg]'"
                )
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise UserError(
                    f"{override.input_line}: {', '.join(twice)} is listed twice; name each task once"
                )
    return names


def job(composed: DictConfig) -> float:
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
            return optimized(
                run(composed, folder, overrides=list(hydra_config.overrides.task)), typed(composed)
            )
        except BaseException as error:
            _remove_if_empty(folder)
            if not is_known(error):
                raise
            print_errors(phrase(error))
            sys.exit(2)
    number, overrides = int(hydra_config.job.num), list(hydra_config.overrides.task)
    return job_of_sweep(composed, folder, number, overrides, Path(hydra_config.sweep.dir).absolute())


def job_of_sweep(
    composed: DictConfig,
    folder: str | Path,
    number: int,
    overrides: Sequence[str],
    sweep_folder: Path,
    member: "GroupMember | None" = None,
) -> float:
    """Run one job of a sweep, and record what became of it.

    Args:
        composed: Its configuration.
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
        metrics = run(composed, folder, member, overrides)
        value = optimized(metrics, typed(composed))
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


def run(
    composed: DictConfig, folder: Path, member: "GroupMember | None" = None, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Run the stage that a composed configuration names, or print the table of a run that is finished.

    Args:
        composed: The configuration.
        folder: The run folder.
        member: The group that the run is a part of; None: none.
        overrides: Its part of the command line.

    Returns:
        What ``metrics.json`` holds; empty in all but the main process.

    Raises:
        UserError: Everything that is wrong with the configuration, all of it together.
    """
    config = typed(composed)
    refuse_unquoted(overrides)
    explicit = [text.partition("=")[0].lstrip("+~") for text in overrides]
    if config.logger.group is None:
        config.logger.group = os.environ.get(sweep.VARIABLE)
    if config.stage not in STAGES:
        raise UserError(unknown("task", config.stage, STAGES))
    stage = find_stage(config.stage)
    if stage.leaves_folder and (done := RunFolder(folder).finished(dataclasses.asdict(config))):
        check_same_rows(config, folder)
        from mpt.run import console  # takes a second to import

        if member is None:
            print(f"{folder}: finished already; overwrite=true runs it again")
        if stage.trains:
            console.say(console.results_table(done))
        else:
            console.say_tables(done)
        return done
    if errors := check(config):
        raise UserError("\n".join(errors))
    if not stage.leaves_folder:
        _remove_if_empty(folder)
    return stage.run(RunArguments(config, folder, member, explicit))


def refuse_unquoted(overrides: Sequence[str]) -> None:
    """Refuse truth values and numbers where texts are meant: ``[true,false]`` would become ``True`` and ``False``.

    Raises:
        UserError: One is not quoted.
    """
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.key_or_group != "predict.choices" and ".labels" not in override.key_or_group:
            continue
        value = override.value()
        for item in (
            value if isinstance(value, list) else value.values() if isinstance(value, dict) else [value]
        ):
            if isinstance(item, (bool, float)):
                raise UserError(
                    f"{override.key_or_group}: {item!r} is read as a {type(item).__name__}, and a text is meant; "
                    "quote it, "
                    f'as in \'{override.key_or_group}=["true","false"]\''
                )


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
                f"{folder}: the rows of tasks.{name} are gone, so a change of them cannot be noticed",
                file=sys.stderr,
            )
    RunFolder(folder).check_rows(digests, "overwrite=true runs it again")


def typed(composed: DictConfig) -> RunConfig:
    """Turn a composed configuration into the dataclasses that the rest of the package takes.

    Raises:
        UserError: A key was added that the schema does not have, or one has no value.
    """
    keys = list(RunConfig.__dataclass_fields__)
    if added := [str(key) for key in composed if str(key) not in keys]:
        raise UserError("\n".join(unknown("configuration", key, keys, "no key") for key in added))
    if missing := sorted(OmegaConf.missing_keys(composed)):
        raise UserError("\n".join(f"{key}: has no value; give it one" for key in missing))
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), plain(composed)))
    assert isinstance(config, RunConfig)
    config.prompt.form = OLD_FORMS.get(config.prompt.form, config.prompt.form)
    stage = find_stage(config.stage) if config.stage in STAGES else Stage
    scored = stage.scored_splits(config)
    if scored and not stage.trains and config.optimized_metric == RunConfig.optimized_metric:
        config.optimized_metric = f"{scored[0]}/average/score"
    return config


def print_help(arguments: Sequence[str]) -> None:
    """Print the help; Hydra's own needs a second and a half for the choices by themselves."""
    overrides = [text for text in arguments if "=" in text and text[0] != "-"]
    print(help.render(CONF, compose_shipped(overrides)))


def compose_shipped(overrides: Sequence[str]) -> DictConfig:
    """Compose a configuration of the choices that ship."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", list(overrides))


def run_task_command(command: str, arguments: Sequence[str]) -> None:
    """Carry out ``tasks=list``, ``tasks=new`` or ``tasks=show``."""
    folders = config_dirs.named_by(arguments)
    if missing := [folder for folder in folders if not folder.is_dir() and command != "new"]:
        raise FileNotFoundError(f"--config-dir: no folder {str(missing[0])!r}; give one that is there")
    overrides = [text for text in arguments if "=" in text and text[0] != "-"]
    others = [text for text in overrides if not text.lstrip("+").startswith(("tasks=", "hydra"))]

    def compose(overrides: Sequence[str]) -> RunConfig:
        paths = ",".join(
            "'file://{}'".format(str(folder.absolute()).replace("'", r"\'")) for folder in folders
        )
        searched = [f"hydra.searchpath=[{paths}]"] if folders else []
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            composed = hydra.compose("train", [*searched, *overrides])
        config_dirs.anchor_paths(composed, folders)
        return typed(composed)

    task_commands.run(command, others, folders, CONF, compose)


def print_errors(message: str, where: str | None = None) -> None:
    """Print a message on stderr, each of its lines as an error of its own."""
    for line in message.splitlines():
        print(f"error: {f'{where}: ' if where else ''}{line}", file=sys.stderr)


def is_known(error: BaseException) -> bool:
    """Tell whether an error's message is written for the user: ours, Hydra's, or the file system's.

    Every other error is a defect and keeps its traceback; with MPT_TRACEBACK=1 all do.
    """
    if os.environ.get("MPT_TRACEBACK") == "1":
        return False
    return isinstance(error, (UserError, HydraException, OmegaConfBaseException, OSError))


def _make_other_processes_run_this_job(folder: Path) -> None:
    """Let Lightning start further processes of a job by this command line, which gives the same folder again.

    Of a sweep it would repeat the whole, and every other process would run every job.
    """
    hydra_config = HydraConfig.get()
    if hydra_config.mode == RunMode.MULTIRUN:
        sources = [
            source for source in hydra_config.runtime.config_sources if source.provider == "command-line"
        ]
        flags = [text for source in sources for text in ("--config-dir", source.path)]
        paths = [text for text in hydra_config.overrides.hydra if text.startswith("hydra.searchpath")]
        sys.argv[1:] = [*flags, *paths, *hydra_config.overrides.task, f"hydra.run.dir='{folder}'"]
    HydraConfig.instance().cfg = None


def _remove_if_empty(folder: Path) -> None:
    """Remove the folder that Hydra made for a refused job, and the empty ones above it."""
    for path in (folder, *folder.parents):
        if path == Path.cwd() or not path.is_dir() or any(path.iterdir()):
            return
        path.rmdir()
