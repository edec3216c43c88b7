"""The end of a command: its exit code, its one line where it was stopped, its errors in the user's words."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType

from mpt.errors import UserError

PLACES = {
    "RANK": "WORLD_SIZE", "LOCAL_RANK": "LOCAL_WORLD_SIZE", "NODE_RANK": "GROUP_WORLD_SIZE",
    "SLURM_PROCID": "SLURM_NTASKS", "SLURM_NODEID": "SLURM_NNODES", "SLURM_LOCALID": "SLURM_NTASKS_PER_NODE",
}  # fmt: skip
"""Variables by which a launcher tells a process its number, and those that say how many there are."""


class Terminated(SystemExit):
    """SIGTERM, where nothing else listens for it: exit code 143."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


@contextmanager
def listening() -> Iterator[None]:
    """Turn SIGTERM into :class:`Terminated`, so that what is open is closed and nothing half-written stays.

    Entered as the first thing, so that the seconds of imports are covered as well.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python gives signals to the main thread alone
        return

    def end(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would break the clean-up off
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_command(run: Callable[[], int | None], hint: str = "") -> int:
    """Run a command to its exit code: 2 and one line for each error, 130 or 143 and one line where it was stopped.

    Args:
        run: The command; None is 0.
        hint: What follows "stopped", such as how it goes on.

    Raises:
        Exception: A defect, which keeps its traceback.
    """
    try:
        with listening():
            check_place(os.environ)
            return run() or 0
    except KeyboardInterrupt:
        print(f"stopped{hint}", file=sys.stderr)
        return 128 + signal.SIGINT
    except Terminated as end:
        print(f"stopped{hint}", file=sys.stderr)
        return int(end.code or 0)
    except BrokenPipeError:  # who reads has enough, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if not is_known(error):
            raise
        from mpt.phrase import phrase  # after the imports that it explains errors of

        print_errors(phrase(error))
        return 2


def check_place(environment: Mapping[str, str]) -> None:
    """Refuse variables of a launcher that are no numbers, or a number beyond the last.

    The libraries read them while they are imported, and take a process with a number above 0 for a helper of another:
    it would end with success, and nothing done.

    Raises:
        UserError: As said.
    """
    for names in PLACES.items():
        found = {name: environment[name] for name in names if environment.get(name)}
        if wrong := next((name for name, value in found.items() if not value.isdecimal()), None):
            raise UserError(f"{wrong}: is {found[wrong]!r}, and a launcher sets it to a number; unset {wrong}")
        number, count = names
        if number in found and count in found and int(found[number]) >= int(found[count]):
            raise UserError(
                f"{number}: is {found[number]}, of {count}={found[count]} processes, which count from 0; unset both, "
                "or let the launcher set them"
            )
        if number in ("RANK", "SLURM_PROCID") and int(found.get(number, 0)) and count not in found:
            raise UserError(f"{number}: is {found[number]}, and {count} is not set; unset {number}, or set both")
    tasks = environment.get("SLURM_NTASKS") or "1"
    in_a_shell = environment.get("SLURM_JOB_NAME") in ("bash", "interactive")  # of an allocation, without srun
    if int(tasks) > 1 and "SLURM_NTASKS_PER_NODE" not in environment and not in_a_shell:
        raise UserError(
            f"SLURM_NTASKS: is {tasks}, from --ntasks, which does not say how many run on a node; use --ntasks-per-node"
        )


def print_errors(message: str, where: str | None = None) -> None:
    """Print a message on stderr, each of its lines as an error of its own."""
    for line in message.splitlines():
        # What data and names bring must not steer the terminal.
        whole = f"{where}: {line}" if where else line
        print("error:", "".join(each if each.isprintable() else repr(each)[1:-1] for each in whole), file=sys.stderr)


def is_known(error: BaseException) -> bool:
    """Tell whether an error's message is written for the user: ours, Hydra's, YAML's, or the file system's.

    Every other error is a defect and keeps its traceback; with MPT_TRACEBACK=1 all do.
    """
    if os.environ.get("MPT_TRACEBACK") == "1":
        return False
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    return isinstance(error, (UserError, HydraException, OmegaConfBaseException, YAMLError, OSError))


def run_module(name: str, argv: Sequence[str] | None, hint: str = "") -> int:
    """Run the ``main`` of a module, whose imports take seconds, as a command."""
    return run_command(lambda: int(import_module(name).main(argv)), hint)


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables for a while: some libraries read a setting nowhere else, and new processes have it."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
