"""Pieces of a sweep: every job once, whatever is lost; a job that kills is found, and the others end."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpt.sweep.schedule import FEWEST, TRIES, LostWorkerError, Piece, StoppedError, cut, run_pieces

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "experiments" / "sweeps"))
from workers import simulate


class Workers:
    """An engine in which pieces end at once; some jobs kill their worker, always or the first few times."""

    def __init__(self, at_once: int | None, kills: dict[int, int], stops_after: int | None = None) -> None:
        self.at_once, self.kills, self.stops_after = at_once, dict(kills), stops_after
        self.sent: list[Piece] = []
        self.most = self.under_way = self.lost_workers = 0
        self.stopped: list[Piece] = []

    def send(self, pieces: Sequence[Piece]) -> list[Piece]:
        self.sent += pieces
        self.under_way += len(pieces)
        self.most = max(self.most, self.under_way)
        return list(pieces)

    def ended(self, handles: Sequence[Piece]) -> list[Piece]:
        return list(handles[:1])

    def result(self, piece: Piece) -> list[str]:
        self.under_way -= 1
        for job in piece.jobs:
            if self.kills.get(job, 0) > 0:
                self.kills[job] -= 1
                raise LostWorkerError("killed")
        return [f"job {job}" for job in piece.jobs]

    def stop(self, handles: Sequence[Piece]) -> None:
        self.stopped = list(handles)

    def is_stopped(self) -> bool:
        return self.stops_after is not None and len(self.sent) >= self.stops_after

    def lost(self, piece: Piece, error: LostWorkerError) -> None:
        self.lost_workers += 1


@given(jobs=st.integers(1, 300), most=st.integers(1, 20), workers=st.integers(1, 40))
def test_a_group_is_cut_into_pieces_that_hold_each_job_once(jobs: int, most: int, workers: int) -> None:
    pieces = cut(range(jobs), most, workers)
    assert [job for piece in pieces for job in piece.jobs] == list(range(jobs))
    assert all(min(most, FEWEST) <= len(piece.jobs) <= most for piece in pieces[:-1])


@given(
    kills=st.dictionaries(st.integers(0, 59), st.sampled_from([1, 2, 10**6]), max_size=4),
    at_once=st.one_of(st.none(), st.integers(1, 5)),
)
def test_every_job_ends_but_those_that_kill_their_worker_always(kills: dict[int, int], at_once: int | None) -> None:
    workers = Workers(at_once, kills)
    found = run_pieces(cut(range(60), 16, 2), workers)
    assert sorted(found) == list(range(60))
    for job, ended in found.items():
        if kills.get(job) == 10**6:
            assert isinstance(ended, LostWorkerError)
        elif not any(times == 10**6 for times in kills.values()):
            assert ended == f"job {job}"
    assert at_once is None or workers.most <= at_once


def test_a_job_that_kills_costs_the_others_no_result() -> None:
    workers = Workers(2, {5: 10**6})
    found = run_pieces(cut(range(16), 16, 1), workers)
    assert [job for job, ended in found.items() if isinstance(ended, LostWorkerError)] == [5]
    alone = [piece for piece in workers.sent if piece.jobs == (5,)]
    assert len(alone) <= TRIES


def test_an_engine_with_a_queue_of_its_own_gets_all_at_once() -> None:
    workers = Workers(None, {})
    run_pieces(cut(range(60), 10, 2), workers)
    assert workers.most == len(workers.sent) == len(cut(range(60), 10, 2))


def test_a_stop_sends_nothing_more_and_waits_for_what_is_under_way() -> None:
    workers = Workers(2, {}, stops_after=2)
    with pytest.raises(StoppedError):
        run_pieces(cut(range(60), 4, 2), workers)
    assert len(workers.sent) == 2
    assert len(workers.stopped) >= 1
    assert workers.under_way == 0


def test_what_a_worker_raises_is_raised_here() -> None:
    class Broken(Workers):
        def result(self, piece: Piece) -> list[str]:
            raise KeyError("a defect")

    with pytest.raises(KeyError, match="a defect"):
        run_pieces(cut(range(4), 4, 1), Broken(1, {}))


def test_the_simulation_loses_no_job_and_ends_near_its_bound() -> None:
    ratio, lost, given_up = simulate(jobs=2000, workers=8, losses=0.05, seed=0)
    assert 1 <= ratio < 1.05
    assert lost > 0
    assert given_up == 0
