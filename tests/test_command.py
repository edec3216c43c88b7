"""What a launcher tells a process of its place is checked before the libraries read it."""

import os
import subprocess
import sys

import pytest

from mpt.command import check_place
from mpt.errors import UserError


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SLURM_NTASKS": "abc"}, "SLURM_NTASKS: is 'abc', and a launcher sets it to a number; unset SLURM_NTASKS"),
        ({"SLURM_PROCID": "zz", "SLURM_NTASKS": "1"}, "SLURM_PROCID: is 'zz'"),
        ({"SLURM_LOCALID": "-1"}, "SLURM_LOCALID: is '-1'"),
        ({"LOCAL_RANK": "1.5"}, "LOCAL_RANK: is '1.5'"),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "2"}, "SLURM_PROCID: is 5, of SLURM_NTASKS=2 processes, which count"),
        ({"RANK": "3", "WORLD_SIZE": "3"}, "RANK: is 3, of WORLD_SIZE=3 processes"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "RANK: is 0, of WORLD_SIZE=0 processes"),
        ({"RANK": "5"}, "RANK: is 5, and WORLD_SIZE is not set; unset RANK, or set both"),
        ({"SLURM_NTASKS": "2"}, "SLURM_NTASKS: is 2, from --ntasks, which does not say .*use --ntasks-per-node"),
    ],
)
def test_nonsense_of_a_launcher_is_refused(environment, message):
    with pytest.raises(UserError, match=message):
        check_place(environment)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RANK": "", "LOCAL_RANK": "1"},  # of Lightning's own second process
        {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
        {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"},
        {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "interactive"},
    ],
)
def test_what_launchers_set_is_taken(environment):
    check_place(environment)


def test_a_command_ends_with_its_line():
    done = subprocess.run(
        [sys.executable, "-m", "mpt", "report", "nothing"],
        env=os.environ | {"LOCAL_RANK": "zz"}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: LOCAL_RANK: is 'zz', and a launcher sets it to a number; unset LOCAL_RANK\n"
