"""Runs of a group end with the numbers of separate runs, whatever their neighbors; they fail and stop by themselves."""

import dataclasses
import json
import signal
import time
from functools import partial
from typing import ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from mpt.backbone import FrozenModel
from mpt.config import FusedConfig
from mpt.inputs import Inputs
from mpt.run.interrupt import Interrupted
from mpt.run.record import read_metrics
from mpt.sweep import group
from mpt.sweep.fused_backbone import Computation, unique_rows
from mpt.sweep.group import Job, group_of, reason_to_run_alone, run_group
from mpt.training.train import train
from tests.runs import curves, run_cli

KINDS = {
    "frozen, k=2": {"few_shot__k": 2, "prompt__freeze_shared": True, "prompt__init": "AVERAGE_SOURCE_TASKS"},
    "k=1, one task, constant": {"tasks": ["two"], "few_shot__k": 1, "optim__schedule": "constant"},
    "large batch, other rate": {"trainer__batch_size": 7, "optim__lr_prompt": 0.1, "seed": 3},
    "weighted, no clip": {"optim__clip": None, "optim__weight_decay": 0.1, "trainer__max_steps": 5},
    "stops early": {"evaluation__patience": 1, "evaluation__validate_every": 1, "optim__lr_prompt": 0.0,
                    "optim__lr_factors": 0.0},
    "two micro-batches": {"trainer__accumulate_grad_batches": 2, "seed": 5},
    "plain": {"prompt__form": "independent", "prompt__num_virtual_tokens": 6},
    "residual, long": {"prompt__form": "residual", "trainer__max_steps": 9},
    "dept": {"method__name": "dept", "method__num_ranks": 2, "prompt__form": "independent"},
    "adept": {"method__name": "adept", "method__num_ranks": 2, "prompt__form": "independent"},
    "ulpt": {"method__name": "ulpt", "method__num_ranks": 2, "prompt__form": "independent"},
    "attempt": {"method__name": "attempt", "method__num_ranks": 3, "prompt__form": "independent", "source": True},
    "each": {"mixture__sampling": "each", "prompt__form": "independent", "evaluation__best": "task"},
}  # fmt: skip


@pytest.fixture(scope="module")
def make(make_config, source_run):
    """A target's configuration without dropout, over a source where the start needs one."""

    def build(**changes):
        changes = {"tasks": ["one", "two"], "backbone__dropout": False, "prompt__init": "RANDOM"} | changes
        if changes.get("source") or "SOURCE" in changes["prompt__init"]:
            changes["source"] = str(source_run)
        return make_config("target", **changes)

    return build


def together(configs, folders, max_runs=16):
    """Run configurations as one group."""
    jobs = [
        Job(folder.name, config, partial(train, config, folder))
        for config, folder in zip(configs, folders, strict=True)
    ]
    return run_group(jobs, FusedConfig(max_runs))


def trained(run):
    """What a run has saved: the prompt, or the tensors of a baseline."""
    paths = [*run.glob("prompt/adapter_model.safetensors"), *run.glob("adapter/adapter.safetensors")]
    assert len(paths) == 1
    return load_file(paths[0])


def assert_alike(fused, separate, tolerance):
    """Parameters within a tolerance, the same best steps, predictions and lengths of the curves."""
    first, second = trained(fused), trained(separate)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=tolerance, atol=tolerance)
    ours, theirs = read_metrics(fused), read_metrics(separate)
    for key in ("best_step", "steps", "parameters", "metric", "truncated"):
        assert ours[key] == theirs[key]
    for task in ours["test"]:
        assert ours["test"][task] == pytest.approx(theirs["test"][task])
    for path in separate.glob("predictions/*.jsonl"):
        assert (fused / "predictions" / path.name).read_text() == path.read_text()
    assert [line["step"] for line in curves(fused)] == [line["step"] for line in curves(separate)]
    assert {path.name for path in fused.iterdir()} == {path.name for path in separate.iterdir()}


@pytest.fixture(scope="module")
def separate(make, tmp_path_factory):
    """Each kind of run by itself."""
    root = tmp_path_factory.mktemp("separate")
    for name, changes in KINDS.items():
        train(make(**changes), root / name)
    return root


class TestEquality:
    def test_every_kind_beside_every_other(self, make, separate, tmp_path):
        folders = [tmp_path / name for name in KINDS]
        results = together([make(**changes) for changes in KINDS.values()], folders)
        for name, folder, result in zip(KINDS, folders, results, strict=True):
            assert result == read_metrics(folder), name
            assert_alike(folder, separate / name, 1e-4)

    @settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=4, unique=True), st.integers(1, 3))
    def test_neighbors_change_nothing(self, make, separate, tmp_path_factory, names, max_runs):
        root = tmp_path_factory.mktemp("some")
        together([make(**KINDS[name]) for name in names], [root / name for name in names], max_runs)
        for name in names:
            assert_alike(root / name, separate / name, 1e-4)

    def test_mixed_precision_is_each_runs_own(self, make, tmp_path):
        """Rounding to three digits makes neighbors visible there; a run in float32 beside one does not see them."""
        changes = [{}, {"trainer__precision": "bf16-mixed"}, {"trainer__precision": "bf16-mixed", "seed": 1}]
        for place, of_run in enumerate(changes):
            train(make(**of_run), tmp_path / f"alone-{place}")
        together([make(**of_run) for of_run in changes], [tmp_path / f"fused-{place}" for place in range(3)])
        assert_alike(tmp_path / "fused-0", tmp_path / "alone-0", 1e-4)
        losses = [
            [float(line["train/loss"]) for line in curves(tmp_path / f"{kind}-{place}") if line.get("train/loss")]
            for place in range(3)
            for kind in ("fused", "alone")
        ]
        for fused, alone in (losses[2:4], losses[4:6]):
            assert fused == pytest.approx(alone, rel=0.02)
        assert losses[0] != losses[2]
        assert losses[0][0] == pytest.approx(losses[2][0], rel=0.02)

    def test_in_float64_to_ten_digits(self, make, tmp_path, monkeypatch):
        def load(config):
            backbone = load_backbone(config)
            backbone.model.double()
            return backbone

        from mpt.backbone import load_backbone

        monkeypatch.setattr("mpt.training.loading.load_or_copy", load)
        monkeypatch.setattr(group, "load_backbone", load)
        torch.set_default_dtype(torch.float64)
        try:
            names = ["k=1, one task, constant", "large batch, other rate", "residual, long", "two micro-batches"]
            configs = [make(**KINDS[name]) for name in names]
            for name, config in zip(names, configs, strict=True):
                train(config, tmp_path / "separate" / name)
            together(configs, [tmp_path / "fused" / name for name in names])
        finally:
            torch.set_default_dtype(torch.float32)
        for name in names:
            assert next(iter(trained(tmp_path / "fused" / name).values())).dtype == torch.float64
            assert_alike(tmp_path / "fused" / name, tmp_path / "separate" / name, 1e-10)

    def test_causal_models(self, make, causal_folder, tmp_path):
        configs = [make(backbone__path=str(causal_folder("llama")), optim__lr_prompt=0.1, seed=seed) for seed in (0, 1)]
        for seed, config in enumerate(configs):
            train(config, tmp_path / f"separate-{seed}")
        together(configs, [tmp_path / f"fused-{seed}" for seed in (0, 1)])
        for seed in (0, 1):
            assert_alike(tmp_path / f"fused-{seed}", tmp_path / f"separate-{seed}", 1e-4)

    def test_a_source_that_learns_from_teachers(self, make_config, tmp_path):
        plain = {"prompt__form": "independent", "mixture__sampling": "each", "evaluation__best": "task"}
        train(make_config("teachers", **plain), tmp_path / "teachers")
        configs = [
            make_config("source", backbone__dropout=False, distill=str(tmp_path / "teachers"), seed=seed)
            for seed in (0, 1)
        ]
        for seed, config in enumerate(configs):
            train(config, tmp_path / f"separate-{seed}")
        together(configs, [tmp_path / f"fused-{seed}" for seed in (0, 1)])
        for seed in (0, 1):
            assert_alike(tmp_path / f"fused-{seed}", tmp_path / f"separate-{seed}", 1e-4)

    def test_with_dropout_the_same_group_gives_the_same_numbers(self, make, tmp_path):
        configs = [make(backbone__dropout=True, seed=seed) for seed in (0, 1)]
        for name in ("first", "again"):
            together(configs, [tmp_path / name / str(seed) for seed in (0, 1)])
        for seed in ("0", "1"):
            assert_alike(tmp_path / "first" / seed, tmp_path / "again" / seed, 0.0)
            one, other = trained(tmp_path / "first" / "0"), trained(tmp_path / "first" / "1")
            assert not torch.equal(one["prefix_task_rows"], other["prefix_task_rows"])


class TestStopping:
    def test_a_stopped_group_goes_on_to_the_same_numbers(self, make, separate, tmp_path, monkeypatch):
        names = ["residual, long", "large batch, other rate", "frozen, k=2"]
        configs, folders = [make(**KINDS[name]) for name in names], [tmp_path / name for name in names]
        compute, steps = Computation.compute, []

        def stop_in_the_middle(self, requests):
            if requests[0].kind == "backward":
                steps.append(len(requests))
                if len(steps) == 4:
                    signal.raise_signal(signal.SIGTERM)
            return compute(self, requests)

        with monkeypatch.context() as patch:
            patch.setattr(Computation, "compute", stop_in_the_middle)
            with pytest.raises(Interrupted) as stopped:
                together(configs, folders)
        assert stopped.value.code == 143
        for folder in folders:
            assert (folder / "checkpoints" / "last.ckpt").is_file()
            assert read_metrics(folder) is None
        together(configs, folders)
        for name, folder in zip(names, folders, strict=True):
            assert_alike(folder, separate / name, 1e-4)

    def test_a_run_of_a_stopped_group_goes_on_by_itself(self, make, separate, tmp_path, monkeypatch):
        names = ["residual, long", "large batch, other rate"]
        configs, folders = [make(**KINDS[name]) for name in names], [tmp_path / name for name in names]
        compute, steps = Computation.compute, []

        def stop(self, requests):
            steps.extend([0] * (requests[0].kind == "backward"))
            if len(steps) == 4:
                signal.raise_signal(signal.SIGINT)
                steps.append(0)
            return compute(self, requests)

        with monkeypatch.context() as patch:
            patch.setattr(Computation, "compute", stop)
            with pytest.raises(Interrupted):
                together(configs, folders)
        train(configs[0], folders[0])
        assert_alike(folders[0], separate / names[0], 1e-4)

    def test_a_failing_run_touches_no_neighbor(self, make, separate, tmp_path):
        names = ["residual, long", "large batch, other rate"]
        bad = make(optim__lr_prompt=1e30, optim__lr_factors=1e30, optim__clip=None, optim__warmup=0.0)
        configs = [make(**KINDS[names[0]]), bad, make(**KINDS[names[1]])]
        folders = [tmp_path / names[0], tmp_path / "bad", tmp_path / names[1]]
        results = together(configs, folders)
        assert isinstance(results[1], ValueError)
        assert "the loss is not finite for" in str(results[1])
        for name in names:
            assert_alike(tmp_path / name, separate / name, 1e-4)

    def test_out_of_memory_halves_the_group_and_goes_on(self, make, separate, tmp_path, monkeypatch, capsys):
        names = ["residual, long", "large batch, other rate", "weighted, no clip"]
        losses = Computation._example_losses

        def crowded(self, requests):
            if len(requests) > 1:
                raise torch.OutOfMemoryError("out of memory")
            return losses(self, requests)

        monkeypatch.setattr(Computation, "_example_losses", crowded)
        together([make(**KINDS[name]) for name in names], [tmp_path / name for name in names])
        assert "out of memory with 3 runs at once; goes on with 1" in capsys.readouterr().err
        for name in names:
            assert_alike(tmp_path / name, separate / name, 1e-4)

    def test_out_of_memory_in_the_gradients_starts_the_runs_again_beside_fewer(
        self, make, separate, tmp_path, monkeypatch, capsys
    ):
        names = ["residual, long", "large batch, other rate", "weighted, no clip"]
        compute, steps = Computation.compute, []

        def crowded(self, requests):
            if requests[0].kind == "backward" and len(requests) > 1:
                steps.append(len(requests))
                if len(steps) == 4:  # after a validation, and with some gradients computed already
                    compute(self, requests[:1])
                    raise torch.OutOfMemoryError("out of memory")
            return compute(self, requests)

        monkeypatch.setattr(Computation, "compute", crowded)
        results = together([make(**KINDS[name]) for name in names], [tmp_path / name for name in names])
        assert not any(isinstance(result, BaseException) for result in results)
        assert "out of memory with 3 runs at once; goes on with 1" in capsys.readouterr().err
        for name in names:
            assert_alike(tmp_path / name, separate / name, 1e-4)


class TestComputation:
    def test_equal_questions_are_asked_once(self):
        ids = torch.tensor([[1, 2], [3, 4], [1, 2], [1, 2]])
        assert unique_rows(Inputs(ids, torch.ones_like(ids))) == ([0, 1], [0, 1, 0, 0])
        prompts = torch.zeros(4, 3, 5)
        prompts[2, 1, 1] = 1e-7
        assert unique_rows(Inputs(ids, torch.ones_like(ids), prompts)) == ([0, 1, 2], [0, 1, 2, 0])
        assert unique_rows(Inputs(ids, torch.ones_like(ids), None, prompts)) == ([0, 1, 2], [0, 1, 2, 0])

    def test_prompts_that_start_alike_are_scored_once(self, make, tmp_path, monkeypatch):
        rows = []
        generate = FrozenModel.generate

        def count(self, inputs, *arguments, **settings):
            rows.append(len(inputs))
            return generate(self, inputs, *arguments, **settings)

        monkeypatch.setattr(FrozenModel, "generate", count)
        configs = [make(optim__lr_prompt=rate, evaluation__oracle=False) for rate in (0.1, 0.2, 0.3)]
        separately = []
        for position, config in enumerate(configs):
            train(config, tmp_path / f"alone-{position}")
            separately.append(sum(rows))
            rows.clear()
        together(configs, [tmp_path / f"fused-{position}" for position in range(3)])
        (before,) = {sum(read_metrics(tmp_path / "fused-0")["test"][task]["n"] for task in ("one", "two"))}
        assert sum(rows) <= sum(separately) - 2 * before
        for position in range(3):
            alone, fused = (read_metrics(tmp_path / f"{kind}-{position}")["test"] for kind in ("alone", "fused"))
            assert alone == fused

    def test_steps_of_all_runs_are_computed_together(self, make, tmp_path, monkeypatch):
        sizes = []
        compute = Computation.compute

        def count(self, requests):
            if requests[0].kind == "backward":
                sizes.append(len(requests))
            return compute(self, requests)

        monkeypatch.setattr(Computation, "compute", count)
        configs = [make(seed=seed, few_shot__k=1 + seed % 2) for seed in range(4)]
        together(configs, [tmp_path / str(seed) for seed in range(4)])
        assert sizes == [4] * 6
        sizes.clear()
        together([make(seed=seed) for seed in range(4, 7)], [tmp_path / str(seed) for seed in range(4, 7)], 2)
        assert sizes == [2] * 6 + [1] * 6  # the third starts where one has made room

    def test_what_runs_alone(self, make, make_config):
        assert reason_to_run_alone(make()) is None
        for changes, reason in (
            ({"method__name": "lora", "method__num_ranks": 2}, "method=lora trains within the backbone"),
            ({"trainer__strategy": "ddp"}, "it may use several devices"),
            (
                {"trainer__precision": "16-mixed"},
                "trainer.precision=16-mixed would change the group's weights, or scales its losses",
            ),
        ):
            assert reason_to_run_alone(make(**changes)) == reason
        assert reason_to_run_alone(make_config("evaluate")) == "task=evaluate trains nothing"
        assert group_of(make(seed=1)) == group_of(make(optim__lr_prompt=0.1))
        assert group_of(make()) != group_of(make(backbone__dtype="bfloat16"))


class TestLauncher:
    def sweep(self, monkeypatch, tmp_path, source_run, *overrides, launcher="fused"):
        monkeypatch.chdir(tmp_path)
        return run_cli(
            monkeypatch, "-m", f"hydra/launcher={launcher}", "task=target", "prompt.init=VOCABULARY",
            "tasks=[when]", "few_shot.k=4", "trainer.max_steps=4", "evaluation.validate_every=2",
            "evaluation.test_rows=8", "trainer=cpu", "trainer.progress_bar=false", *overrides,
        )  # fmt: skip

    def test_jobs_leave_what_they_would_by_themselves(self, source_run, tmp_path, monkeypatch, capfd):
        alone, fused = tmp_path / "alone", tmp_path / "fused"
        for folder, launcher in ((alone, "basic"), (fused, "fused")):
            folder.mkdir()
            assert self.sweep(monkeypatch, folder, source_run, "seed=0,1", launcher=launcher) == 0
        runs = {path.name for path in (alone / "runs" / "target").iterdir()}
        assert runs == {path.name for path in (fused / "runs" / "target").iterdir()}
        for name in runs - {"sweeps"}:
            # AdamW makes a whole step of a gradient that is almost zero, whatever its rounding.
            assert_alike(fused / "runs" / "target" / name, alone / "runs" / "target" / name, 1e-3)
            offline = list((fused / "runs" / "target" / name / "wandb").glob("offline-run-*"))
            assert len(offline) == 1
        out, err = capfd.readouterr()
        assert "2 jobs in one training" in err
        assert out.count("2 jobs, 0 failed") == 2
        # A second time nothing is run again.
        stamp = next((fused / "runs" / "target").glob("when-*/metrics.json")).stat().st_mtime_ns
        assert self.sweep(monkeypatch, fused, source_run, "seed=0,1") == 0
        assert next((fused / "runs" / "target").glob("when-*/metrics.json")).stat().st_mtime_ns == stamp

    def test_what_cannot_be_fused_and_what_is_wrong(self, source_run, tmp_path, monkeypatch, capfd):
        code = self.sweep(
            monkeypatch, tmp_path, source_run, "logger=csv", "method=prompt,lora,dept", "few_shot.k=4,5000",
        )  # fmt: skip
        assert code == 2
        record = next((tmp_path / "runs" / "target" / "sweeps").glob("*.jsonl"))
        outcomes = {line["job"]: line for line in map(json.loads, record.read_text().splitlines())}
        assert [outcomes[job]["error"] is None for job in range(6)] == [True] * 3 + [False] * 3
        assert all("few_shot.k: is 5000" in outcomes[job]["error"] for job in (3, 4, 5))
        assert "6 jobs, 3 failed" in capfd.readouterr().out


class TestWholeRuns:
    """At the length that users run: AdamW makes much of a little rounding in 40 steps."""

    LONG: ClassVar = {
        "trainer__max_steps": 40,
        "trainer__batch_size": 8,
        "evaluation__validate_every": 10,
        "optim__lr_prompt": 0.1,
        "optim__lr_factors": 0.1,
    }

    def assert_the_same(self, first, second):
        one, other = trained(first), trained(second)
        assert all(torch.equal(one[name], other[name]) for name in one)
        for path in first.glob("predictions/*.jsonl"):
            assert path.read_text() == (second / "predictions" / path.name).read_text()
        assert read_metrics(first)["test"] == read_metrics(second)["test"]

    def test_after_forty_steps_the_answers_are_those_of_a_run_by_itself(self, make, tmp_path):
        configs = [make(few_shot__k=k, seed=seed, **self.LONG) for k in (1, 2) for seed in (0, 1)]
        for number, config in enumerate(configs):
            train(config, tmp_path / f"alone-{number}")
        together(configs, [tmp_path / f"fused-{number}" for number in range(4)])
        for number in range(4):
            self.assert_the_same(tmp_path / f"fused-{number}", tmp_path / f"alone-{number}")

    @pytest.mark.slow
    def test_on_the_embedded_backbone_with_4_and_16_examples(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        folders = {}
        for launcher in ("basic", "fused"):
            folders[launcher] = tmp_path / launcher
            code = run_cli(
                monkeypatch, "-m", f"hydra/launcher={launcher}", "task=target", "prompt.init=VOCABULARY",
                "tasks=[reply_polite]", "few_shot.k=4,16", "trainer.max_steps=40", "trainer.threads=1",
                "evaluation.test_rows=60", "evaluation.before=false", "evaluation.oracle=false", "logger=csv",
                "trainer=cpu", "trainer.progress_bar=false", f"hydra.sweep.dir={folders[launcher]}",
            )  # fmt: skip
            assert code == 0
        runs = [path.parent for path in folders["basic"].glob("*/metrics.json")]
        assert len(runs) == 2
        for run in runs:
            self.assert_the_same(folders["fused"] / run.name, run)

    def test_with_live_dropout_neither_a_neighbor_nor_a_stop_changes_a_run(self, make, tmp_path, monkeypatch):
        configs = [make(backbone__dropout=True, seed=seed, **self.LONG) for seed in (0, 1)]
        for seed, config in enumerate(configs):
            train(config, tmp_path / f"alone-{seed}")
        folders = [tmp_path / f"fused-{seed}" for seed in (0, 1)]
        compute, steps = Computation.compute, []

        def stop(self, requests):
            steps.extend([0] * (requests[0].kind == "backward"))
            if len(steps) == 25:
                signal.raise_signal(signal.SIGTERM)
                steps.append(0)
            return compute(self, requests)

        with monkeypatch.context() as patch:
            patch.setattr(Computation, "compute", stop)
            with pytest.raises(Interrupted):
                together(configs, folders)
        assert all(read_metrics(folder) is None for folder in folders)
        together(configs, folders)
        for seed in (0, 1):
            self.assert_the_same(tmp_path / f"fused-{seed}", tmp_path / f"alone-{seed}")

    def test_a_job_of_a_group_costs_its_own_share(self, make, tmp_path):
        config = make(trainer__max_steps=30, evaluation__validate_every=30)
        began = time.monotonic()
        together([dataclasses.replace(config, seed=seed) for seed in range(6)], [tmp_path / str(i) for i in range(6)])
        wall = time.monotonic() - began
        costs = [read_metrics(tmp_path / str(i))["seconds"] for i in range(6)]
        # A sum of shares is no more than there was; each used to be the whole.
        assert sum(sum(each[key] for key in ("setup", "before", "fit", "test")) for each in costs) <= wall
        assert all(0 < each["validation"] < each["fit"] for each in costs)


def test_equal_prompts_of_two_tasks_get_gradients_of_their_own(make_config, tmp_path):
    """What a few-shot batch repeats is told by task and example; by equal tensors, one task would get all."""
    rows = [{"text": "say red", "target": "red"}] * 3
    for split in ("train", "validation", "test"):
        for name in ("one", "two"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    alike = {
        "prompt__form": "independent",
        "prompt__init": "TEXT",
        "prompt__init_text": "red",
        "mixture__sampling": "equal",
    }
    config = make_config(data_root=str(tmp_path), trainer__max_steps=3, trainer__batch_size=8, **alike)
    train(config, tmp_path / "run")
    moved = read_metrics(tmp_path / "run")["moved"]
    assert min(moved["one"], moved["two"]) > 0.01
