"""The command line: compose the configuration, check all of it, refuse early, run one stage."""

import os
import sys
from collections.abc import Sequence

import hydra

from mpt import __version__, config_dirs, deferred, plugins
from mpt.cli import help, task_commands
from mpt.cli.compose import CONF, compose_shipped, register_schema, tasks_of, typed
from mpt.cli.composing import compose_faster
from mpt.cli.hydra_versions import MAIN, VERSION_BASE
from mpt.cli.job import hydra_job, sweep_job
from mpt.cli.worker import send_to_worker
from mpt.command import run_command
from mpt.config import RunConfig
from mpt.errors import FailedJobError
from mpt.sweep import launcher
from mpt.sweep import sweep_record as sweep


def main() -> None:
    """Run what the command line asks for, and exit; with 2 and one message where it asks for something wrong."""
    try:
        code = run_command(_run)
    except FailedJobError as error:
        code = error.code
    if code:
        sys.exit(code)


def _run() -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra shortens errors before we see them
    # OpenMP's threads wait for each other in a loop: beside one other busy process a step on two cores took ten
    # times as long, and with this bound twice (experiments/LOG.md). Read when torch is imported, so before.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    deferred.defer()
    compose_faster()
    register_schema()
    launcher.register(typed, sweep_job, send_to_worker)
    sys.argv[1:] = help.arrange(sys.argv[1:])
    if "--version" in sys.argv:
        print(f"mpt {__version__}")
        return
    plugins.begin(sys.argv[1:], [*config_dirs.searched_by_command(sys.argv[1:]), CONF])
    if "--help=markdown" in sys.argv:
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
            hydra.main(config_path=str(CONF), config_name="train", **MAIN)(hydra_job)()
        finally:
            sweep.finish()


def print_help(arguments: Sequence[str]) -> None:
    """Print the help; Hydra's own needs a second and a half for the choices by themselves."""
    overrides = [text for text in arguments if "=" in text and text[0] != "-"]
    print(help.render(CONF, compose_shipped(overrides)))


def run_task_command(command: str, arguments: Sequence[str]) -> None:
    """Carry out ``tasks=list``, ``tasks=new`` or ``tasks=show``."""
    folders = config_dirs.named_by(arguments)
    if missing := [folder for folder in folders if not folder.is_dir() and command != "new"]:
        raise FileNotFoundError(f"--config-dir: no folder {str(missing[0])!r}; give one that is there")
    overrides = [text for text in arguments if "=" in text and text[0] != "-"]
    others = [text for text in overrides if not text.lstrip("+").startswith(("tasks=", "hydra"))]

    def compose(overrides: Sequence[str]) -> RunConfig:
        paths = ",".join("'file://{}'".format(str(folder.absolute()).replace("'", r"\'")) for folder in folders)
        searched = [f"hydra.searchpath=[{paths}]"] if folders else []
        with hydra.initialize_config_dir(str(CONF), **VERSION_BASE):
            composed = hydra.compose("train", [*searched, *overrides])
        config_dirs.anchor_paths(composed, folders)
        return typed(composed)

    task_commands.run(command, others, folders, CONF, compose)
