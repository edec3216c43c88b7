"""PerLearnerAdamW against torch.optim.AdamW, and against one torch.optim.AdamW per learner."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpt.prompt import MultitaskPromptEmbedding, MultitaskPromptTuningConfig
from mpt.training import optim
from mpt.training.optim import PerLearnerAdamW

SETTINGS = {"lr": 0.05, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}


def make_params(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def give_grads(params, seed, absent=(), learners=1):
    generator = torch.Generator().manual_seed(seed)
    for param in params:
        grad = torch.randn(param.shape, generator=generator)
        grad.view(learners, -1)[list(absent)] = 0.0
        param.grad = grad


def test_all_present_is_adamw():
    ours, theirs = make_params((6, 4), (3, 2, 5)), make_params((6, 4), (3, 2, 5))
    optimizer, reference = (PerLearnerAdamW(ours, learners=3, **SETTINGS), torch.optim.AdamW(theirs, **SETTINGS))
    for seed in range(30):
        give_grads(ours, seed)
        give_grads(theirs, seed)
        optimizer.step()
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sets(st.integers(0, 7)), min_size=1, max_size=6), st.sampled_from([None, 0.5]))
def test_of_many_learners_only_those_that_are_there_are_computed(schedule, clip):
    results = []
    for many in (optim.MANY, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(optim, "MANY", many)
            params = make_params((16, 3), (8, 2, 2))
            optimizer = PerLearnerAdamW([{"params": params, "learners": 8, "clip": clip}], **SETTINGS)
            for seed, present in enumerate(schedule):
                give_grads(params, seed, absent=set(range(8)) - present, learners=8)
                optimizer.step()
            states = [optimizer.state[param] for param in params if param in optimizer.state]
            results.append((params, states))
            assert set(optimizer.state) <= set(params)
    for mine, other in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)
    for mine, other in zip(results[0][1], results[1][1], strict=False):
        for key in mine:
            torch.testing.assert_close(mine[key], other[key], rtol=1e-6, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(
    schedule=st.lists(st.sets(st.integers(0, 3)), min_size=1, max_size=8),
    clip=st.sampled_from([None, 0.5, 100.0]),
    beta1=st.sampled_from([0.0, 0.9]),
)
def test_each_learner_is_an_adamw_of_its_own(schedule, clip, beta1):
    learners, changed = 4, SETTINGS | {"betas": (beta1, 0.999)}
    params = make_params((8, 3), (4, 2, 2))  # the first holds two rows per learner
    alone = [
        [torch.nn.Parameter(param.detach().view(learners, -1)[row].clone()) for param in params]
        for row in range(learners)
    ]
    optimizer = PerLearnerAdamW([{"params": params, "learners": learners, "clip": clip}], **changed)
    references = [torch.optim.AdamW(rows, **changed) for rows in alone]
    for seed, present in enumerate(schedule):
        give_grads(params, seed, absent=set(range(learners)) - present, learners=learners)
        for row in present:
            for mine, param in zip(alone[row], params, strict=True):
                mine.grad = param.grad.view(learners, -1)[row].clone()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(alone[row], clip)
            references[row].step()
        optimizer.step()
    for row in range(learners):
        for mine, param in zip(alone[row], params, strict=True):
            torch.testing.assert_close(param.detach().view(learners, -1)[row], mine, rtol=1e-5, atol=1e-6)


def test_absent_learner_does_not_move():
    params = make_params((3, 4), (3, 2, 2))
    optimizer = PerLearnerAdamW(params, learners=3, **SETTINGS)
    give_grads(params, 0)
    optimizer.step()
    before = [param.detach().clone() for param in params]
    state = {key: value.clone() for key, value in optimizer.state[params[0]].items()}
    for seed in range(20):
        give_grads(params, seed, absent=[1], learners=3)
        optimizer.step()
    for param, old in zip(params, before, strict=True):
        assert torch.equal(param[1], old[1])
        assert not torch.isclose(param[0], old[0]).any()
    assert optimizer.state[params[0]]["steps"].tolist() == [21, 1, 21]
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(optimizer.state[params[0]][key][1], state[key][1])


def test_learner_with_a_gradient_in_one_parameter_is_present():
    cols, rows = make_params((2, 3), (2, 3))
    optimizer = PerLearnerAdamW([cols, rows], learners=2, **SETTINGS)
    before = cols.detach().clone()
    cols.grad, rows.grad = torch.zeros(2, 3), torch.tensor([[0.0] * 3, [1e-30] * 3])
    optimizer.step()
    assert torch.equal(cols[0], before[0])
    assert not torch.equal(cols[1], before[1])  # weight decay: the learner was there
    assert optimizer.state[cols]["steps"].tolist() == [0, 1]


def test_clip_is_per_learner_and_over_the_group():
    cols, rows = make_params((2, 2), (2, 2))
    optimizer = PerLearnerAdamW([cols, rows], learners=2, clip=1.0, lr=1.0, betas=(0.9, 0.99), weight_decay=0.0)
    cols.grad = torch.tensor([[30.0, 0.0], [0.3, 0.0]])
    rows.grad = torch.tensor([[40.0, 0.0], [0.0, 0.4]])
    optimizer.step()
    first = [optimizer.state[param]["exp_avg"] / 0.1 for param in (cols, rows)]
    torch.testing.assert_close(first[0], torch.tensor([[0.6, 0.0], [0.3, 0.0]]))
    torch.testing.assert_close(first[1], torch.tensor([[0.8, 0.0], [0.0, 0.4]]))
    assert cols.grad[0, 0] == 30.0  # the gradient itself stays


def test_frozen_parameter_and_its_group_stay():
    frozen, free = make_params((2, 2), (2, 2))
    optimizer = PerLearnerAdamW([{"params": [frozen]}, {"params": [free]}], learners=2, **SETTINGS)
    before = frozen.detach().clone()
    give_grads([free], 0)
    optimizer.step()
    assert torch.equal(frozen, before)
    assert frozen not in optimizer.state


def test_state_dict_round_trip_is_exact():
    def train(params, optimizer, seeds):
        for seed in seeds:
            give_grads(params, seed, absent=[seed % 3], learners=3)
            optimizer.step()

    straight, first = make_params((3, 4), (6, 2)), make_params((3, 4), (6, 2))
    one, two = (PerLearnerAdamW(params, learners=3, clip=1.0, **SETTINGS) for params in (straight, first))
    train(straight, one, range(10))
    train(first, two, range(4))
    resumed = [torch.nn.Parameter(param.detach().clone()) for param in first]
    three = PerLearnerAdamW(resumed, learners=3)
    three.load_state_dict(two.state_dict())
    train(resumed, three, range(4, 10))
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))


def test_schedule_scales_each_group():
    first, second = make_params((1, 1), (1, 1))
    optimizer = PerLearnerAdamW([{"params": [first], "lr": 0.4}, {"params": [second], "lr": 0.2}], weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    before = [first.item(), second.item()]
    first.grad = second.grad = torch.ones(1, 1)
    optimizer.step()
    schedule.step()
    assert math.isclose(before[0] - first.item(), 0.2, rel_tol=1e-5)
    assert math.isclose(before[1] - second.item(), 0.1, rel_tol=1e-5)


def test_closure_is_run_with_gradients():
    (param,) = make_params((2, 2))
    optimizer = PerLearnerAdamW([param], learners=2)

    def closure():
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    before = param.detach().clone()
    assert optimizer.step(closure).item() == pytest.approx(before.square().sum().item())
    assert not torch.equal(param, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": -0.1}, "parameter group 0: lr is -0.1; it must not be negative"),
        ({"eps": float("nan")}, "eps is nan; it must not be negative"),
        ({"betas": (0.9, 1.0)}, r"betas is \(0.9, 1.0\); it must be two numbers from 0 to below 1"),
        ({"clip": 0.0}, "clip is 0.0; it must be above 0, or None"),
        ({"learners": 0}, "learners is 0; it must be a whole number of at least 1"),
        ({"learners": 4}, r"shape \(3, 2\) does not hold 4 learners"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        PerLearnerAdamW(make_params((3, 2)), **changes)


def test_a_gradient_that_is_sparse_over_something_else_is_refused():
    embedding = torch.nn.Embedding(6, 2, sparse=True)
    optimizer = PerLearnerAdamW(embedding.parameters(), learners=3)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse over something else than the learners"):
        optimizer.step()


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("present", [3, 60])  # fewer and more than half of the tasks
def test_the_gradient_of_many_tasks_holds_those_of_the_batch_alone_and_leaves_the_same(monkeypatch, clip, present):
    def train(sparse_from):
        monkeypatch.setattr("mpt.prompt.picking.SPARSE_FROM", sparse_from)
        torch.manual_seed(0)
        config = MultitaskPromptTuningConfig(num_tasks=70, num_virtual_tokens=4, num_ranks=2, token_dim=6)
        prompt = MultitaskPromptEmbedding(config)
        groups = [{"params": group.params, "learners": group.learners} for group in prompt.learner_groups()]
        optimizer = PerLearnerAdamW(groups, clip=clip, **SETTINGS)
        generator = torch.Generator().manual_seed(1)
        for _ in range(40):
            task_ids = torch.randint(present, (9,), generator=generator)  # some tasks come twice
            wanted = torch.randn(9, 4, 6, generator=generator)
            ((prompt(None, task_ids) - wanted) ** 2).sum().backward()
            assert prompt.prefix_task_cols.grad.is_sparse == (sparse_from < 70)
            optimizer.step()
            optimizer.zero_grad()
        return prompt.snapshot(), optimizer.state_dict()["state"]

    (dense, dense_state), (sparse, sparse_state) = train(70), train(64)
    for name in dense:
        assert torch.equal(dense[name], sparse[name]), name
    for place, state in dense_state.items():
        for name, value in state.items():
            assert torch.equal(value, sparse_state[place][name]), (place, name)


def test_micro_batches_of_many_tasks_add_up():
    torch.manual_seed(0)
    prompt = MultitaskPromptEmbedding(MultitaskPromptTuningConfig(num_tasks=70, num_virtual_tokens=2, token_dim=3))
    optimizer = PerLearnerAdamW([prompt.prefix_task_cols, prompt.prefix_task_rows], learners=70, lr=0.1)
    before = prompt.snapshot()
    for ids in ([0, 1], [1, 5]):
        prompt(None, torch.tensor(ids)).sum().backward()
    optimizer.step()
    moved = {name: (prompt.snapshot()[name] != before[name]).flatten(1).any(1).nonzero().flatten().tolist()
             for name in ("prefix_task_cols", "prefix_task_rows")}  # fmt: skip
    assert moved == {"prefix_task_cols": [0, 1, 5], "prefix_task_rows": [0, 1, 5]}
