"""First values against PEFT's, under the same seed bit for bit; what PEFT gets wrong, by hand."""

import pickle

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from mpt.prompt import MultitaskPromptEmbedding, MultitaskPromptTuningConfig
from mpt.prompt.tensors import as_product, as_residual

N, R, D, VOCABULARY = 5, 2, 7, 11
NAMES = ["sum", "mt", "dlg"]


@pytest.fixture(scope="module")
def words():
    torch.manual_seed(3)
    return torch.nn.Embedding(VOCABULARY, D)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    vocabulary = {word: position for position, word in enumerate(["<pad>", "</s>", "<unk>", "tell", "me", "more"])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder = tmp_path_factory.mktemp("tokenizer")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>")
    fast.save_pretrained(folder)
    return str(folder)


def source_tensors(tasks=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        "prompt_embeddings": torch.randn(N, D, generator=generator),
        "prefix_task_cols": torch.randn(tasks, N, R, generator=generator),
        "prefix_task_rows": torch.randn(tasks, R, D, generator=generator),
    }


@pytest.fixture(scope="module")
def source_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "adapter_model.safetensors"
    save_file(source_tensors(), path)
    return str(path)


def make_prompt(words=None, source=None, source_weights=None, **changes):
    values = {"num_virtual_tokens": N, "num_ranks": R, "token_dim": D, "task_names": ["target"]}
    config = MultitaskPromptTuningConfig(**(values | changes))
    return MultitaskPromptEmbedding(config, words, source, source_weights)


def make_source(**changes):
    return make_prompt(task_names=NAMES, **changes)


def assert_equals_peft(words, seed=0, num_tasks=1, theirs_init=None, **changes):
    peft = pytest.importorskip("peft")
    from peft.tuners.multitask_prompt_tuning import MultitaskPromptEmbedding as Theirs

    shape = {"num_virtual_tokens": N, "num_ranks": R, "token_dim": D, "num_tasks": num_tasks}
    shape |= {"task_type": "SEQ_2_SEQ_LM", "num_transformer_submodules": 1}
    torch.manual_seed(seed)
    ours = MultitaskPromptEmbedding(MultitaskPromptTuningConfig(**shape, **changes), words)
    if theirs_init:
        changes["prompt_tuning_init"] = theirs_init
    torch.manual_seed(seed)
    theirs = Theirs(peft.MultitaskPromptTuningConfig(**shape, **changes), words)
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("num_tasks", [1, 4])
def test_random_equals_peft(words, num_tasks):
    assert_equals_peft(words, num_tasks=num_tasks)


def test_vocabulary_equals_pefts_sample_vocab(words):
    assert_equals_peft(words, num_tasks=3, prompt_tuning_init="VOCABULARY", theirs_init="SAMPLE_VOCAB")


@pytest.mark.parametrize("text", ["tell", "tell me more", "tell me more tell me", "tell me more tell me more tell me"])
def test_text_equals_peft(words, tokenizer_folder, text):
    assert_equals_peft(
        words,
        num_tasks=2,
        prompt_tuning_init="TEXT",
        prompt_tuning_init_text=text,
        tokenizer_name_or_path=tokenizer_folder,
    )


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("init", ["AVERAGE_SOURCE_TASKS", "EXACT_SOURCE_TASK"])
@pytest.mark.parametrize("task", [0, 2])
def test_source_tasks_equal_peft(words, tmp_path, suffix, init, task):
    path = tmp_path / f"source.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(source_tensors(), path)
    assert_equals_peft(
        words, prompt_tuning_init=init, prompt_tuning_init_state_dict_path=str(path), prompt_tuning_init_task=task
    )


def test_only_shared_equals_peft(words, source_file):
    assert_equals_peft(
        words, num_tasks=2, prompt_tuning_init="ONLY_SOURCE_SHARED", prompt_tuning_init_state_dict_path=source_file
    )


@pytest.mark.parametrize("init", ["AVERAGE_SOURCE_TASKS", "EXACT_SOURCE_TASK"])
def test_group_of_targets_starts_from_a_source(source_file, init):
    prompt = make_prompt(
        task_names=["a", "b", "c"],
        num_groups=2,
        task_groups=[0, 1, 1],
        prompt_tuning_init=init,
        prompt_tuning_init_task=1,
        prompt_tuning_init_state_dict_path=source_file,
    )
    tensors = source_tensors()
    cols, rows = tensors["prefix_task_cols"], tensors["prefix_task_rows"]
    factor = cols[1] @ rows[1] if init == "EXACT_SOURCE_TASK" else cols.mean(0) @ rows.mean(0)
    expected = (tensors["prompt_embeddings"] * factor).expand(3, N, D)
    torch.testing.assert_close(prompt.prompts().detach(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["product", "residual", "additive"])
def test_source_in_memory_gives_the_named_task(form):
    source = make_source(form=form)
    exact = make_prompt(source=source, form=form, prompt_tuning_init="EXACT_SOURCE_TASK", prompt_tuning_init_task="dlg")
    assert torch.equal(exact.prompts()[0], source.prompts()[2])
    mean = make_prompt(source=source, form=form, prompt_tuning_init="AVERAGE_SOURCE_TASKS")
    assert torch.equal(mean.prefix_task_cols[0], source.prefix_task_cols.mean(0))
    assert torch.equal(mean.embedding.weight, source.embedding.weight)


def test_source_is_copied_not_shared():
    source = make_source()
    target = make_prompt(source=source, prompt_tuning_init="ONLY_SOURCE_SHARED")
    with torch.no_grad():
        target.embedding.weight.zero_()
    assert source.embedding.weight.any()


def test_exact_task_takes_its_own_group():
    source = make_source(num_groups=2, task_groups=[0, 1, 1])
    target = make_prompt(source=source, prompt_tuning_init="EXACT_SOURCE_TASK", prompt_tuning_init_task="mt")
    assert torch.equal(target.prompts()[0], source.prompts()[1])
    with pytest.raises(ValueError, match="has 2 groups of P, so no one shared prompt"):
        make_prompt(source=source, prompt_tuning_init="ONLY_SOURCE_SHARED")


@pytest.mark.parametrize("form", ["product", "residual", "additive", "independent", "single"])
def test_plain_target_starts_from_whole_prompts(form):
    source = make_source(form=form)
    exact = make_prompt(
        source=source, form="independent", prompt_tuning_init="EXACT_SOURCE_TASK", prompt_tuning_init_task="mt"
    )
    torch.testing.assert_close(exact.prompts()[0], source.prompts()[1])
    mean = make_prompt(source=source, form="independent", prompt_tuning_init="AVERAGE_SOURCE_TASKS")
    torch.testing.assert_close(mean.prompts()[0], source.prompts().mean(0))


def test_plain_source_gives_p_and_leaves_the_factors_fresh():
    source = make_source(form="independent")
    target = make_prompt(
        source=source,
        factor_init="ones",
        num_ranks=1,
        prompt_tuning_init="EXACT_SOURCE_TASK",
        prompt_tuning_init_task=2,
    )
    assert torch.equal(target.prompts()[0], source.prompts()[2])


def test_forms_are_not_mixed(source_file):
    init = {"prompt_tuning_init": "AVERAGE_SOURCE_TASKS"}
    with pytest.raises(ValueError, match="its form is 'product', the target's 'residual'"):
        make_prompt(source=make_source(), form="residual", **init)
    with pytest.raises(ValueError, match="the factors are a product, not 1 plus a product"):
        make_prompt(form="residual", prompt_tuning_init_state_dict_path=source_file, **init)


def test_residual_target_reads_a_residual_file(tmp_path):
    source = make_source(form="residual")
    cols, rows = as_product(source.prefix_task_cols.detach(), source.prefix_task_rows.detach())
    tensors = {"prompt_embeddings": source.embedding.weight.detach(), "prefix_task_cols": cols}
    save_file(tensors | {"prefix_task_rows": rows}, tmp_path / "s.safetensors")
    target = make_prompt(
        form="residual",
        prompt_tuning_init="EXACT_SOURCE_TASK",
        prompt_tuning_init_task=1,
        prompt_tuning_init_state_dict_path=str(tmp_path / "s.safetensors"),
    )
    assert torch.equal(target.prompts()[0], source.prompts()[1])


def test_product_of_one_rank_more_is_the_residual():
    source = make_source(form="residual")
    parts = source.prefix_task_cols.detach(), source.prefix_task_rows.detach()
    cols, rows = as_product(*parts)
    assert cols.shape == (3, N, R + 1)
    torch.testing.assert_close(cols @ rows, 1 + parts[0] @ parts[1])
    assert all(torch.equal(a, b) for a, b in zip(as_residual(cols, rows, "here"), parts, strict=True))


def test_average_that_cannot_learn_is_refused():
    source = make_source()
    with torch.no_grad():  # the same W for both tasks
        source.prefix_task_cols[1], source.prefix_task_rows[1] = (
            -source.prefix_task_cols[0],
            -source.prefix_task_rows[0],
        )
        source.prefix_task_cols[2].zero_()
        source.prefix_task_rows[2].zero_()
    with pytest.raises(ValueError, match="average to exactly 0, where every gradient is 0"):
        make_prompt(source=source, prompt_tuning_init="AVERAGE_SOURCE_TASKS")


def products(prompt):
    return (prompt.prefix_task_cols @ prompt.prefix_task_rows).detach()


def regauged(source, seed):
    """The same W of every task, written as other factors."""
    torch.manual_seed(seed)
    other = make_source(factor_std=1.0)
    turn = torch.randn(3, R, R) + 2 * torch.eye(R)
    with torch.no_grad():
        other.embedding.weight.copy_(source.embedding.weight)
        other.prefix_task_cols.copy_(source.prefix_task_cols @ turn)
        other.prefix_task_rows.copy_(torch.linalg.solve(turn, source.prefix_task_rows))
    return other


@given(st.integers(0, 1000))
def test_average_product_does_not_depend_on_how_the_source_is_written(seed):
    source = make_source(factor_std=1.0)
    other = regauged(source, seed)
    assume(torch.dist(products(source), products(other)) < 1e-3)  # a turn that can hardly be undone
    torch.manual_seed(0)
    first = make_prompt(source=source, prompt_tuning_init="AVERAGE_PRODUCT")
    torch.manual_seed(0)
    second = make_prompt(source=other, prompt_tuning_init="AVERAGE_PRODUCT")
    torch.testing.assert_close(products(first), products(second), rtol=1e-2, atol=1e-3)


def test_average_product_is_the_nearest_of_its_rank():
    source = make_source(factor_std=1.0)
    mean = products(source).mean(0)
    target = make_prompt(source=source, prompt_tuning_init="AVERAGE_PRODUCT")
    tail = torch.linalg.svdvals(mean)[R:].norm()  # what no matrix of rank R can reach
    assert torch.dist(products(target)[0], mean) == pytest.approx(tail.item(), rel=1e-4)
    plain = make_prompt(source=source, prompt_tuning_init="AVERAGE_SOURCE_TASKS")
    assert torch.dist(products(plain)[0], mean) > tail
    wide = make_prompt(source=source, num_ranks=5, prompt_tuning_init="AVERAGE_PRODUCT")
    torch.testing.assert_close(products(wide)[0], mean, rtol=1e-4, atol=1e-5)


def test_average_product_lives_where_the_average_dies():
    source = make_source(factor_std=1.0)
    with torch.no_grad():
        source.prefix_task_cols[1:], source.prefix_task_rows[1:] = (
            -source.prefix_task_cols[:1],
            -source.prefix_task_rows[:1],
        )
        source.prefix_task_cols[2:].copy_(source.prefix_task_cols[:1])
        source.prefix_task_rows[2:].copy_(source.prefix_task_rows[:1])
    target = make_prompt(source=source, prompt_tuning_init="AVERAGE_PRODUCT")
    torch.testing.assert_close(products(target)[0], products(source)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("init", ["EXACT_SOURCE_TASK", "AVERAGE_PRODUCT", "AVERAGE_SOURCE_TASKS"])
def test_more_ranks_change_nothing_and_can_learn(init):
    source = make_source(factor_std=1.0)
    start = {"source": source, "prompt_tuning_init": init, "prompt_tuning_init_task": 1}
    wide = make_prompt(num_ranks=R + 5, **start)
    if init != "AVERAGE_PRODUCT":
        torch.testing.assert_close(products(wide), products(make_prompt(**start)), rtol=0, atol=1e-6)
    wide(None, torch.tensor([0])).square().sum().backward()
    # In every rank something moves: a zero column has rows that are not.
    assert (wide.prefix_task_cols.grad[0].abs().amax(0) + wide.prefix_task_rows.grad[0].abs().amax(1) > 0).all()


def test_fewer_ranks_are_the_nearest():
    source = make_source(factor_std=1.0)
    target = make_prompt(
        source=source, num_ranks=1, prompt_tuning_init="EXACT_SOURCE_TASK", prompt_tuning_init_task="mt"
    )
    tail = torch.linalg.svdvals(products(source)[1])[1:].norm()
    assert torch.dist(products(target)[0], products(source)[1]) == pytest.approx(tail.item(), rel=1e-4)


def test_weights_say_what_each_target_starts_from():
    source = make_source(factor_std=1.0)
    weights = torch.tensor([[0.0, 1.0, 0.0], [0.25, 0.0, 0.75]])
    target = make_prompt(
        source=source, task_names=["a", "b"], num_ranks=5, prompt_tuning_init="WEIGHTED_SOURCE_TASKS",
        source_weights=weights,
    )  # fmt: skip
    W = products(source)
    torch.testing.assert_close(products(target)[0], W[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(products(target)[1], 0.25 * W[0] + 0.75 * W[2], rtol=1e-4, atol=1e-5)
    nearest = make_prompt(source=source, prompt_tuning_init="NEAREST_SOURCE_TASK", source_weights=weights[:1])
    assert torch.equal(nearest.prompts()[0], source.prompts()[1])


def test_weights_mix_plain_prompts():
    source = make_source(form="independent")
    weights = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    target = make_prompt(
        source=source, form="independent", task_names=["a", "b"], prompt_tuning_init="WEIGHTED_SOURCE_TASKS",
        source_weights=weights,
    )  # fmt: skip
    own = source.prompts()
    torch.testing.assert_close(target.prompts(), torch.stack([(own[0] + own[1]) / 2, own[2]]))
    with pytest.raises(ValueError, match="give each target another P, and the targets share one"):
        make_prompt(
            source=source, task_names=["a", "b"], prompt_tuning_init="WEIGHTED_SOURCE_TASKS", source_weights=weights
        )


@pytest.mark.parametrize("weights", [None, torch.ones(1, 2), torch.ones(1, 3)])
def test_weights_must_be_given_and_sum_to_one(weights):
    with pytest.raises(ValueError, match=r"source_weights: .* needs shape .1, 3., each row summing to 1"):
        make_prompt(
            source=make_source(factor_std=1.0), prompt_tuning_init="NEAREST_SOURCE_TASK", source_weights=weights
        )


@pytest.mark.parametrize("num_ranks", [1, 4])
def test_ones_start_w_at_one(num_ranks):
    prompt = make_source(factor_init="ones", num_ranks=num_ranks)
    factors = (prompt.prefix_task_cols @ prompt.prefix_task_rows).detach()
    torch.testing.assert_close(factors, torch.ones(3, N, D), rtol=0, atol=0.02)
    assert (num_ranks == 1) == torch.equal(factors, torch.ones(3, N, D))


def test_residual_starts_near_one():
    prompt = make_source(form="residual")
    torch.testing.assert_close(
        prompt.prompts().detach(), prompt.embedding.weight.detach().expand(3, N, D), rtol=0.02, atol=1e-6
    )


def test_standard_deviations_are_those_asked_for():
    prompt = make_prompt(num_virtual_tokens=400, num_ranks=50, token_dim=100, init_std=0.5, factor_std=0.1)
    assert prompt.embedding.weight.std().item() == pytest.approx(0.5, rel=0.05)
    assert prompt.prefix_task_cols.std().item() == pytest.approx(0.1, rel=0.05)
    assert prompt.prefix_task_rows.std().item() == pytest.approx(0.1, rel=0.05)


def test_text_fills_every_group_and_vocabulary_draws_each(words):
    def tokenize(text):
        return {"input_ids": [len(word) for word in text.split()]}

    text = make_source(
        words=words, form="independent", prompt_tuning_init="TEXT", prompt_tuning_init_text="a bb", tokenizer=tokenize
    )
    assert torch.equal(text.prompts(), words.weight[[1, 2, 1, 2, 1]].expand(3, N, D))
    drawn = make_source(words=words, form="independent", prompt_tuning_init="VOCABULARY").prompts()
    assert not torch.equal(drawn[0], drawn[1])


def test_start_is_float32_and_detached_from_a_half_precision_backbone():
    words = torch.nn.Embedding(VOCABULARY, D, dtype=torch.bfloat16)
    prompt = make_prompt(words, prompt_tuning_init="VOCABULARY")
    assert {param.dtype for param in prompt.parameters()} == {torch.float32}
    prompt.prompts().sum().backward()
    assert words.weight.grad is None


def test_inference_mode_needs_nothing_but_the_shape():
    prompt = make_prompt(prompt_tuning_init="EXACT_SOURCE_TASK", inference_mode=True)
    assert prompt.shape == (1, N, R, D)


@pytest.mark.parametrize("task", [-1, 3])
def test_source_task_must_be_there(source_file, task):
    with pytest.raises(ValueError, match=f"prompt_tuning_init_task: is {task}; .* has the tasks 0 to 2"):
        make_prompt(
            prompt_tuning_init="EXACT_SOURCE_TASK",
            prompt_tuning_init_task=task,
            prompt_tuning_init_state_dict_path=source_file,
        )


def test_names_belong_to_a_source_in_memory(source_file):
    init = {"prompt_tuning_init": "EXACT_SOURCE_TASK", "prompt_tuning_init_task": "nl"}
    with pytest.raises(ValueError, match="'nl'; a file knows no names"):
        make_prompt(prompt_tuning_init_state_dict_path=source_file, **init)
    with pytest.raises(ValueError, match="no task 'nl'; choose one of sum, mt, dlg"):
        make_prompt(source=make_source(), **init)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("prefix_task_rows"), "no tensor prefix_task_rows; it holds prefix_task_cols, prompt_emb"),
        (lambda t: t.update(prompt_embedding=t.pop("prompt_embeddings")), "no tensor prompt_embeddings"),
        (lambda t: t.update(prefix_task_rows=torch.ones(3, R, D + 1)), r"prefix_task_rows \(3, 2, 8\)"),
        (lambda t: t.update(prefix_task_cols=torch.ones(2, N, R)), r"must be \(T, 5, R\) and \(T, R, 7\)"),
        (lambda t: t.update(prefix_task_cols=torch.ones(N, R)), r"prefix_task_cols has shape \(5, 2\)"),
        (lambda t: t.update(prompt_embeddings=torch.ones(N * D)), r"prompt_embeddings has shape \(35,\)"),
        (
            lambda t: t.update(prompt_embeddings=torch.ones(2 * N, D), prefix_task_cols=torch.ones(3, 2 * N, R)),
            "10 tokens; it must have num_virtual_tokens=5",
        ),
    ],
)
def test_bad_source_tensors(tmp_path, change, message):
    tensors = source_tensors()
    change(tensors)
    save_file(tensors, tmp_path / "source.safetensors")
    with pytest.raises(ValueError, match=message):
        make_prompt(
            prompt_tuning_init="AVERAGE_SOURCE_TASKS",
            prompt_tuning_init_state_dict_path=str(tmp_path / "source.safetensors"),
        )


class Mischief:
    def __reduce__(self):
        return (print, ("the pickle has run",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.safetensors", b"not a header", "a.safetensors: not a file of tensors"),
        ("a.pt", b"", "a.pt: not a file of tensors"),
        ("a.bin", pickle.dumps(Mischief(), protocol=2), "a.bin: not a file of tensors"),
    ],
    ids=["damaged", "empty", "pickle"],
)
def test_bad_source_files(tmp_path, capsys, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        make_prompt(prompt_tuning_init="ONLY_SOURCE_SHARED", prompt_tuning_init_state_dict_path=str(tmp_path / name))
    assert "the pickle has run" not in capsys.readouterr().out


def test_other_objects_and_missing_files(tmp_path):
    init = {"prompt_tuning_init": "ONLY_SOURCE_SHARED"}
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds list, not named tensors"):
        make_prompt(prompt_tuning_init_state_dict_path=str(tmp_path / "list.pt"), **init)
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors: no such file"):
        make_prompt(prompt_tuning_init_state_dict_path=str(tmp_path / "gone.safetensors"), **init)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_tuning_init_text": "  "}, "prompt_tuning_init_text: '  ' has no tokens"),
        ({"prompt_tuning_init_text": None}, "prompt_tuning_init_text: is missing"),
        ({"prompt_tuning_init_text": "a", "tokenizer": None}, "tokenizer_name_or_path: is missing"),
        (
            {"prompt_tuning_init_text": "a", "tokenizer": None, "tokenizer_name_or_path": "/no/such/folder"},
            "tokenizer_name_or_path: no tokenizer at '/no/such/folder'",
        ),
    ],
)
def test_bad_text_starts(words, changes, message):
    values = {"prompt_tuning_init": "TEXT", "tokenizer": lambda text: {"input_ids": [1]}}
    with pytest.raises(ValueError, match=message):
        make_prompt(words, **(values | changes))
