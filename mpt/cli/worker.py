"""A piece of a sweep in another process, or on another machine that has the same package and the same files."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobStatus
from omegaconf import DictConfig

from mpt import plugins
from mpt.errors import FailedJobError

PASSED_ON = ("HF_", "HYDRA_", "MPT_", "WANDB_")
"""How variables begin that a worker on another machine has to have too."""

Ended = tuple[bool, float | tuple[str, int]]
"""Whether a job ended well, and its ``optimized_metric``, or else the message and the code of its failure."""


@dataclass(frozen=True)
class Parcel:
    """All that a worker has to know of its jobs, as plain values.

    Attributes:
        jobs: Number in the sweep, and overrides, of each.
        options: Hydra's own part of the command line.
        search_path: Provider and path of each place of choices.
        plugins: Modules that bring parts of their own.
        folder: The working folder.
        variables: Of the environment.
    """

    jobs: Sequence[tuple[int, Sequence[str]]]
    options: Sequence[str]
    search_path: Sequence[tuple[str, str]]
    plugins: Sequence[str]
    folder: str = field(default_factory=os.getcwd)
    variables: Mapping[str, str] = field(
        default_factory=lambda: {key: value for key, value in os.environ.items() if key.startswith(PASSED_ON)}
    )


def send_to_worker(
    jobs: Sequence[tuple[int, Sequence[str]]], config: DictConfig, loader: ConfigLoader, modules: Sequence[str]
) -> tuple[Callable[[Parcel], list[Ended]], tuple[Parcel]]:
    """Build what a worker calls for some jobs of a sweep.

    Args:
        jobs: Number and overrides of each.
        config: The sweep's.
        loader: Knows where its choices lie.
        modules: Plugins.
    """
    places = [(each.provider, each.path) for each in loader.get_search_path().get_path()]
    return run_parcel, (Parcel(jobs, list(config.hydra.overrides.hydra), places, modules),)


def run_parcel(parcel: Parcel) -> list[Ended]:
    """Run jobs as a sweep does in its own process.

    Returns:
        What became of each.

    Raises:
        Interrupted: A signal stopped them.
    """
    from mpt.cli.many import open_search_path  # which sends parcels itself

    os.chdir(parcel.folder)
    os.environ.update(parcel.variables)
    plugins.load(parcel.plugins)
    plugins.enter_choices()
    found: list[Ended] = []
    with open_search_path(parcel.search_path) as jobs:
        numbers, overrides = [number for number, _ in parcel.jobs], [list(words) for _, words in parcel.jobs]
        for returned in jobs.launch(overrides, numbers, parcel.options):
            error = returned._return_value
            if returned.status == JobStatus.COMPLETED:
                found.append((True, error))
            elif isinstance(error, FailedJobError):
                found.append((False, (str(error.args[0]), error.code)))
            else:
                found.append((False, (f"{type(error).__name__}: {error}", 1)))
    sys.stdout.flush()
    return found
