"""The multitask prompt against a hand computation and against PEFT's own module."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpt.prompt import MultitaskPromptEmbedding, MultitaskPromptTuningConfig
from mpt.prompt.extend import add_tasks, join

FORMS = ["product", "residual", "additive", "independent", "single"]


def make_prompt(word_embeddings=None, source=None, **changes):
    values = {"task_names": ["sum", "mt", "dlg"], "num_virtual_tokens": 5, "num_ranks": 2, "token_dim": 7}
    return MultitaskPromptEmbedding(MultitaskPromptTuningConfig(**(values | changes)), word_embeddings, source)


def set_values(prompt, **values):
    with torch.no_grad():
        for name, value in values.items():
            prompt.get_parameter(name.replace("embedding", "embedding.weight")).copy_(torch.tensor(value))


def test_matches_hand_computation():
    prompt = make_prompt(task_names=["a", "b"], num_virtual_tokens=2, num_ranks=1, token_dim=2)
    set_values(
        prompt,
        embedding=[[1.0, 2.0], [3.0, 4.0]],
        prefix_task_cols=[[[1.0], [10.0]], [[0.0], [1.0]]],
        prefix_task_rows=[[[1.0, -1.0]], [[2.0, 3.0]]],
    )
    expected = torch.tensor([[[0.0, 0.0], [6.0, 12.0]], [[1.0, -2.0], [30.0, -40.0]]])
    assert torch.equal(prompt(None, torch.tensor([1, 0])), expected)


def test_residual_matches_hand_computation():
    prompt = make_prompt(form="residual", task_names=["a"], num_virtual_tokens=2, num_ranks=1, token_dim=2)
    set_values(
        prompt, embedding=[[1.0, 2.0], [3.0, 4.0]], prefix_task_cols=[[[1.0], [10.0]]], prefix_task_rows=[[[1.0, -1.0]]]
    )
    assert torch.equal(prompt.prompts(), torch.tensor([[[2.0, 0.0], [33.0, -36.0]]]))


def test_additive_matches_hand_computation():
    prompt = make_prompt(form="additive", task_names=["a"], num_virtual_tokens=2, num_ranks=1, token_dim=2)
    with torch.no_grad():
        prompt.embedding.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        prompt.prefix_task_cols.copy_(torch.tensor([[[1.0], [-1.0]]]))
        prompt.prefix_task_rows.copy_(torch.tensor([[[10.0, 20.0]]]))
    expected = torch.tensor([[[11.0, 22.0], [-7.0, -16.0]]])
    assert torch.equal(prompt(None, torch.tensor([0])), expected)
    start = prompt.snapshot()
    with torch.no_grad():
        prompt.prefix_task_cols.zero_()
    moved = prompt.displacement(start)["a"]
    assert moved == pytest.approx((torch.tensor([[10.0, 20], [-10, -20]]).norm() / expected.norm()).item())


def test_groups_and_plain_prompts_read_their_own_part():
    grouped = make_prompt(num_groups=2, task_groups=[1, 0, 1])
    shared = grouped.embedding.weight.view(2, 5, 7)
    factors = grouped.prefix_task_cols @ grouped.prefix_task_rows
    assert torch.equal(grouped.prompts(), shared[[1, 0, 1]] * factors)
    plain = make_prompt(form="independent")
    assert torch.equal(plain.prompts(), plain.embedding.weight.view(3, 5, 7))
    assert dict(plain.named_parameters()).keys() == {"embedding.weight"}


def peft_prompt(word_embeddings=None, **changes):
    peft = pytest.importorskip("peft")
    from peft.tuners.multitask_prompt_tuning import MultitaskPromptEmbedding as Theirs

    values = {
        "task_type": "SEQ_2_SEQ_LM",
        "num_virtual_tokens": 5,
        "num_tasks": 3,
        "num_ranks": 2,
        "num_transformer_submodules": 1,
        "token_dim": 7,
    }
    config = peft.MultitaskPromptTuningConfig(**(values | changes))
    return Theirs(config, word_embeddings or torch.nn.Embedding(11, 7))


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_outputs_and_gradients_equal_peft(num_ranks):
    theirs, ours = peft_prompt(num_ranks=num_ranks), make_prompt(num_ranks=num_ranks)
    ours.load_state_dict(theirs.state_dict())
    task_ids, indices = torch.tensor([2, 0, 2, 1, 2]), torch.arange(5).expand(5, 5)
    direction = torch.randn(5, 5, 7)
    outputs = [ours(indices, task_ids), ours(None, task_ids), theirs(indices, task_ids)]
    gradients = []
    for prompt, output in zip((ours, ours, theirs), outputs, strict=True):
        prompt.zero_grad()
        (output * direction).sum().backward()
        gradients.append({name: param.grad.clone() for name, param in prompt.named_parameters()})
    for output, gradient in zip(outputs[:2], gradients[:2], strict=True):
        torch.testing.assert_close(output, outputs[2], rtol=0, atol=0)
        torch.testing.assert_close(gradient, gradients[2], rtol=0, atol=0)


def test_indices_choose_positions():
    ours, task_ids = make_prompt(num_groups=2, task_groups=[0, 1, 1]), torch.tensor([1, 0])
    shifted = torch.arange(5).roll(1).expand(2, 5)
    factors = (ours.prefix_task_cols @ ours.prefix_task_rows)[task_ids]
    shared = ours.embedding.weight.view(2, 5, 7)[task_ids]
    assert torch.equal(ours(shifted, task_ids), shared.roll(1, dims=1) * factors)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "single"])
def test_batch_touches_only_its_tasks(form):
    prompt = make_prompt(form=form)
    prompt(None, torch.tensor([0, 2, 0])).square().sum().backward()
    tensors = [prompt.embedding.weight] if form == "independent" else [prompt.prefix_task_cols, prompt.prefix_task_rows]
    for tensor in tensors:
        touched = tensor.grad.view(3, -1).abs().sum(dim=1) > 0
        assert touched.tolist() == [True, False, True]


@settings(max_examples=30, deadline=None)
@given(
    ids=st.lists(st.integers(0, 2), min_size=1, max_size=8), form=st.sampled_from(FORMS), num_ranks=st.integers(1, 3)
)
def test_mixed_batch_is_its_rows_one_by_one(ids, form, num_ranks):
    prompt = make_prompt(form=form, num_ranks=num_ranks)
    mixed = prompt(None, torch.tensor(ids))
    for row, task in enumerate(ids):
        torch.testing.assert_close(mixed[row], prompt(None, torch.tensor([task]))[0])


@settings(max_examples=30, deadline=None)
@given(scale=st.sampled_from([-4.0, -1.0, 0.5, 8.0]), task=st.integers(0, 2))
def test_scaling_cols_against_rows_changes_nothing(scale, task):
    prompt = make_prompt()
    before = prompt.prompts().detach()
    with torch.no_grad():
        prompt.prefix_task_cols[task] *= scale
        prompt.prefix_task_rows[task] /= scale
    torch.testing.assert_close(prompt.prompts().detach(), before)


def test_prompt_is_float32_under_autocast():
    prompt, ids = make_prompt(num_ranks=3), torch.tensor([0, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = prompt(None, ids)
    assert lowered.dtype == torch.float32
    assert torch.equal(lowered, prompt(None, ids))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad_id", [-1, 3])
def test_id_out_of_range(form, bad_id):
    with pytest.raises(IndexError):
        make_prompt(form=form)(None, torch.tensor([0, bad_id]))


@pytest.mark.parametrize("bad_index", [-1, 5])
def test_index_of_another_group_is_refused(bad_index):
    indices = torch.tensor([[0, 1, 2, 3, bad_index]])
    with pytest.raises(IndexError, match=r"must be in 0\.\.4"):
        make_prompt(num_groups=2)(indices, torch.tensor([0]))


@pytest.mark.parametrize("task_ids", [None, torch.tensor(1), torch.tensor([[1]])])
def test_task_ids_must_be_one_per_row(task_ids):
    with pytest.raises(ValueError, match=r"task_ids.*; it must hold one task per example"):
        make_prompt()(None, task_ids)


def test_tasks_of_a_shared_prompt_are_all_p_itself():
    prompt = make_prompt(form="single")
    for own in prompt.prompts():
        assert torch.equal(own, prompt.embedding.weight)
    add_tasks(prompt, ["new"])
    assert torch.equal(prompt.prompts()[3], prompt.embedding.weight)
    assert [group.learners for group in prompt.learner_groups()] == [1]
    assert prompt.count_parameters().per_task == 0


@pytest.mark.parametrize("form", [form for form in FORMS if form != "single"])
@pytest.mark.parametrize("like", [(), ("mt",), ("sum", "dlg")])
def test_added_tasks_leave_every_number(form, like):
    prompt = make_prompt(form=form)
    before, outputs = prompt.snapshot(), prompt.prompts().detach()
    add_tasks(prompt, ["one", "two"], like=like)
    assert prompt.task_names == ["sum", "mt", "dlg", "one", "two"]
    for name, tensor in prompt.snapshot().items():
        assert torch.equal(tensor[: len(before[name])], before[name])
    assert torch.equal(prompt.prompts()[:3], outputs)
    assert prompt.prompts().shape == (5, 5, 7)
    assert [group.learners for group in prompt.learner_groups()] == ([5] if form == "independent" else [1, 5])
    tensors = ["embedding.weight"] if form == "independent" else ["prefix_task_cols", "prefix_task_rows"]
    for name in tensors:
        values = prompt.get_parameter(name).detach().view(5, -1)
        if like:
            start = values[[prompt.task_id(task) for task in like]].mean(0)
            torch.testing.assert_close(values[3:], start.expand(2, -1))
        else:
            assert not torch.equal(values[3], values[4])
    prompt(None, torch.tensor([4])).sum().backward()


@settings(max_examples=20, deadline=None)
@given(parts=st.lists(st.integers(1, 3), min_size=1, max_size=3), form=st.sampled_from(FORMS))
def test_adding_in_parts_keeps_every_prompt(parts, form):
    prompt = make_prompt(form=form)
    for position, count in enumerate(parts):
        before = prompt.prompts().detach()
        add_tasks(prompt, [f"new{position}_{task}" for task in range(count)])
        assert torch.equal(prompt.prompts()[: len(before)], before)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_frozen_stays_frozen_when_tasks_are_added(form):
    prompt = make_prompt(form=form).requires_grad_(False)
    add_tasks(prompt, ["new"])
    assert not any(param.requires_grad for param in prompt.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_joined_prompts_keep_every_prompt(form):
    first, second = make_prompt(form=form), make_prompt(form=form, task_names=["x", "y"])
    with torch.no_grad():
        if form != "independent":
            second.embedding.weight.copy_(first.embedding.weight)
    expected = torch.cat([first.prompts(), second.prompts()]).detach()
    names = [*first.task_names, "x", "y"]
    join(first, second)
    assert first.task_names == names
    assert torch.equal(first.prompts(), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"form": "residual"}, "form: is product in one prompt and residual in the other"),
        ({"num_ranks": 7}, "num_ranks: is . in one prompt and 7 in the other"),
        ({"num_groups": 2}, "num_groups: is more than 1"),
        ({}, "another P; train the second with P frozen"),
    ],
)
def test_prompts_that_do_not_fit_are_not_joined(changes, message):
    first = make_prompt()
    before = first.prompts().detach()
    with pytest.raises(ValueError, match=message):
        join(first, make_prompt(**({"task_names": ["x"]} | changes)))
    assert torch.equal(first.prompts(), before)


def test_added_task_joins_a_group():
    prompt = make_prompt(num_groups=2, task_groups=[0, 1, 1])
    with pytest.raises(ValueError, match="groups: is missing; the prompt has 2 groups"):
        add_tasks(prompt, ["new"])
    add_tasks(prompt, ["new"], groups=[1], like=["dlg"])
    assert torch.equal(prompt.prompts()[3], prompt.prompts()[2])


def test_plain_prompts_are_added_from_the_vocabulary():
    words = torch.nn.Embedding(11, 7)
    prompt = make_prompt(words, form="independent", prompt_tuning_init="VOCABULARY")
    with pytest.raises(ValueError, match="word_embeddings: are missing"):
        add_tasks(prompt, ["new"])
    assert prompt.task_names == ["sum", "mt", "dlg"]
    add_tasks(prompt, ["new"], word_embeddings=words)
    vocabulary = {tuple(row) for row in words.weight.tolist()}
    assert all(tuple(row) in vocabulary for row in prompt.prompts()[3].tolist())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["mt"]}, "task_names: repeats mt"),
        ({"names": []}, r"names: is \[\]; it must be a list of at least one new task"),
        ({"names": "new"}, "names: is 'new'"),
        ({"names": ["new"], "like": ["nl"]}, "no task 'nl'; choose one of sum, mt, dlg"),
        ({"names": ["new"], "groups": [1]}, r"task_groups: is \[0, 0, 0, 1\]"),
        ({"names": ["new"], "groups": [0, 0]}, "task_groups: is"),
    ],
)
def test_bad_additions_change_nothing(arguments, message):
    prompt = make_prompt()
    before = prompt.snapshot()
    with pytest.raises(ValueError, match=message):
        add_tasks(prompt, **arguments)
    assert prompt.task_names == ["sum", "mt", "dlg"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in prompt.snapshot().items())


def test_parameter_counts_of_the_paper_sized_prompt():
    names = [f"task{position}" for position in range(10)]
    prompt = make_prompt(task_names=names, num_virtual_tokens=20, num_ranks=8, token_dim=768)
    count = prompt.count_parameters()
    assert (count.factors, count.independent) == (63_040, 153_600)
    assert (count.shared, count.per_task, count.total) == (15_360, 6_304, 78_400)
    assert count.ratio == pytest.approx(78_400 / 153_600)
    assert count.total == sum(param.numel() for param in prompt.parameters())
    assert [line.split()[-1] for line in str(count).splitlines()] == [
        "15,360",
        "6,304",
        "63,040",
        "78,400",
        "153,600",
        "0.510",
    ]


@pytest.mark.parametrize(
    "changes", [{"form": "independent"}, {"form": "residual"}, {"form": "additive"}, {"num_groups": 3}]
)
def test_total_counts_every_parameter(changes):
    prompt = make_prompt(**changes)
    assert prompt.count_parameters().total == sum(param.numel() for param in prompt.parameters())


def test_learner_groups_divide_every_parameter():
    prompt = make_prompt(num_groups=2, task_groups=[0, 1, 1])
    groups = {group.name: group for group in prompt.learner_groups()}
    assert groups["prompt"].learners == 2
    assert groups["factors"].learners == 3
    assert torch.equal(groups["prompt"].params[0].view(2, -1)[1], prompt.embedding.weight[5:].flatten())
    listed = {id(param) for group in groups.values() for param in group.params}
    assert listed == {id(param) for param in prompt.parameters()}


def test_displacement_is_relative_and_per_task():
    prompt = make_prompt(factor_init="ones", num_ranks=1)
    start = prompt.snapshot()
    assert set(prompt.displacement(start).values()) == {0.0}
    with torch.no_grad():
        prompt.embedding.weight *= 1.5
        prompt.prefix_task_cols[1] *= 3
    moved = prompt.displacement(start)
    assert moved == pytest.approx({"prompt": 0.5, "sum": 0.0, "mt": 2.0, "dlg": 0.0})


def test_displacement_of_plain_prompts_and_from_zero():
    prompt = make_prompt(form="independent")
    start = prompt.snapshot()
    with torch.no_grad():
        prompt.embedding.weight[5:10] *= 2
    assert prompt.displacement(start)["mt"] == pytest.approx(1.0)
    assert prompt.displacement(start)["sum"] == 0.0
    zero = {"embedding.weight": torch.zeros(15, 7)}
    norm = prompt.embedding.weight.norm().item()
    assert prompt.displacement(zero)["prompt"] == pytest.approx(norm)


def test_snapshot_is_a_copy():
    prompt = make_prompt()
    start = prompt.snapshot()
    with torch.no_grad():
        prompt.embedding.weight.zero_()
    assert start["embedding.weight"].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_names": ["sum", "sum"]}, "task_names: repeats sum; give every task its own name"),
        ({"num_ranks": 0}, "num_ranks: is 0; it must be a whole number of at least 1"),
        ({"num_virtual_tokens": -3}, "num_virtual_tokens: is -3"),
        ({"num_ranks": 1.5}, "num_ranks: is 1.5; it must be a whole number"),
        ({"token_dim": 0}, "token_dim: is 0"),
        ({"num_tasks": 2}, "num_tasks: is 2, but task_names has 3"),
        ({"task_type": None}, "task_type: unknown value None; choose one of SEQ_2_SEQ_LM, CAUSAL_LM"),
        ({"form": "sum"}, "form: unknown value 'sum'; choose one of product, residual, additive, independent"),
        ({"prompt_tuning_init": "TXT"}, "prompt_tuning_init: unknown value 'TXT'; choose one of RANDOM, TEXT"),
        ({"factor_init": "zero"}, "factor_init: unknown value 'zero'; choose one of normal, ones"),
        ({"factor_std": -1.0}, "factor_std: is -1.0; it must not be negative"),
        ({"num_transformer_submodules": 2}, "num_transformer_submodules: is 2; it must be 1"),
        ({"task_groups": [0, 1, 0]}, r"task_groups: is \[0, 1, 0\]; .* from 0 to 0"),
        ({"task_groups": [0]}, r"task_groups: is \[0\]; it must give each of the 3 tasks"),
        ({"form": "independent", "task_groups": [0, 0, 1]}, "form=independent gives each task a prompt of its own"),
        ({"prompt_tuning_init": "EXACT_SOURCE_TASK"}, "prompt_tuning_init_state_dict_path: is missing"),
        ({"prompt_tuning_init": "TEXT"}, "word_embeddings: are missing, and prompt_tuning_init=TEXT"),
        ({"token_dim": None}, "token_dim: is missing"),
    ],
)
def test_bad_configs(changes, message):
    with pytest.raises(ValueError, match=message):
        make_prompt(**changes)


def test_width_must_be_the_backbones():
    words = torch.nn.Embedding(11, 8)
    with pytest.raises(ValueError, match="token_dim: is 7, but the word embeddings have 8"):
        make_prompt(words)
    assert make_prompt(words, token_dim=None).shape == (3, 5, 2, 8)


def test_given_config_is_not_changed():
    config = MultitaskPromptTuningConfig(num_virtual_tokens=5, task_names=["a"])
    before = replace(config)
    add_tasks(MultitaskPromptEmbedding(config, torch.nn.Embedding(11, 7)), ["b"])
    assert config == before


def test_unnamed_tasks_are_numbered():
    config = MultitaskPromptTuningConfig(num_tasks=2, token_dim=4)
    assert config.task_names == ["task_0", "task_1"]


def test_unknown_task_lists_known():
    with pytest.raises(ValueError, match="no task 'sql'; choose one of sum, mt, dlg"):
        make_prompt().task_id("sql")
