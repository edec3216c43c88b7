"""What a prompt holds: the words that it was made of are found again, and what W makes of P is counted by hand."""

import subprocess
import sys

import pytest
import torch

from mpt import MultitaskPromptEmbedding, MultitaskPromptTuningConfig, PromptedModel
from mpt.backbone import load_backbone
from mpt.config import BackboneConfig
from mpt.errors import UserError
from mpt.explain.carried import compare, what_is_carried
from mpt.explain.explaining import main
from mpt.explain.words import chance_cosine, mean_norm, nearest_words, word_ids
from mpt.report.explained import read_explanation
from mpt.report.reporting import main as report


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(BackboneConfig(name="tiny"))


def test_words_are_found_again(backbone):
    ids = backbone.tokenizer("translate hat red", add_special_tokens=False).input_ids
    vectors = 3 * backbone.word_embeddings(torch.tensor(ids)).detach()
    found = nearest_words(backbone, vectors, 2)
    assert [near[0].text for near in found] == ["translate", "hat", "red"]
    assert [near[0].cosine for near in found] == pytest.approx([1, 1, 1], abs=1e-5)
    assert all(near[0].cosine > near[1].cosine for near in found)


def test_nearest_words_are_those_of_the_whole_matrix(backbone, monkeypatch):
    vectors = torch.randn(5, backbone.token_dim, generator=torch.Generator().manual_seed(1))
    ids = word_ids(backbone)
    weight = backbone.word_embeddings.weight[ids].detach()
    cosines = torch.nn.functional.cosine_similarity(vectors[:, None], weight[None], dim=2)
    best = cosines.topk(3, dim=1)
    monkeypatch.setattr("mpt.explain.words.PIECE", 7)
    found = nearest_words(backbone, vectors, 3)
    assert [[word.cosine for word in near] for near in found] == [pytest.approx(row) for row in best.values.tolist()]
    texts = [[backbone.tokenizer.decode([int(ids[place])]) for place in row] for row in best.indices]
    assert [[word.text for word in near] for near in found] == texts
    assert not set(backbone.tokenizer.all_special_ids) & set(ids.tolist())
    assert mean_norm(backbone) == pytest.approx(float(weight.norm(dim=1).mean()), rel=1e-5)
    assert 0 < chance_cosine(backbone) < 0.6


def make(form, **values):
    config = MultitaskPromptTuningConfig(
        task_names=["a", "b"], num_virtual_tokens=2, num_ranks=1, token_dim=2, form=form
    )
    prompt = MultitaskPromptEmbedding(config)
    with torch.no_grad():
        for name, value in values.items():
            prompt.get_parameter(name.replace("embedding", "embedding.weight")).copy_(torch.tensor(value))
    return prompt


def test_what_w_makes_of_p_is_counted_by_hand():
    shared = [[1.0, 2.0], [2.0, 4.0]]
    # W of a: 1 1 / 1 1, twice over; W of b: 3 -3 / 3 -3
    factors = {"prefix_task_cols": [[[1.0], [1.0]], [[1.0], [1.0]]], "prefix_task_rows": [[[2.0, 2.0]], [[3.0, -3.0]]]}
    found = what_is_carried(make("product", embedding=shared, **factors))
    assert found["a"] == pytest.approx((10.0, 1.0, 2.0, 0.0, 0.0, 0.0))
    b = found["b"]  # T is 3 -6 / 6 -12; its product with P is 3 - 12 + 12 - 48 = -45, of lengths 15 and 5
    assert (b.length, b.mean, b.turned) == pytest.approx((15.0, 0.0, 0.5))
    assert (b.cosine_to_shared, b.left) == pytest.approx((-0.6, 0.64))
    assert b.deviation == pytest.approx(3 * (4 / 3) ** 0.5)
    compared = compare(make("product", embedding=shared, **factors), "a", "b")
    assert (compared.prompts, compared.own, compared.same_sign) == pytest.approx((-0.6, 0.0, 0.5))
    assert compared.tokens == pytest.approx([-0.6, -0.6])


def test_a_residual_w_is_measured_with_its_ones_and_compared_without():
    same = {"prefix_task_cols": [[[1.0], [1.0]], [[1.0], [1.0]]], "prefix_task_rows": [[[0.5, 0.5]], [[0.5, -0.5]]]}
    prompt = make("residual", embedding=[[1.0, 1.0], [1.0, 1.0]], **same)
    assert what_is_carried(prompt)["a"].mean == pytest.approx(1.5)
    assert compare(prompt, "a", "b").own == pytest.approx(0.0)
    assert what_is_carried(make("independent")) == {}
    with pytest.raises(UserError, match="no task 'c'"):
        compare(prompt, "a", "c")


def test_a_run_is_explained_and_its_page_shows_it(source_run, tmp_path, capsys):
    to = source_run / "explanation.json"
    try:
        assert main([str(source_run), "--tasks", "one", "two", "--words", "2"]) == 0
        printed = capsys.readouterr().out
        assert "nearest words; a random direction comes to" in printed
        assert "what each W makes of P" in printed
        assert "one / two: cosine of the prompts" in printed
        explained = read_explanation(source_run)
        prompt = PromptedModel.load(source_run).adapter
        assert [*explained["words"]] == ["P", "one", "two"]
        assert [len(near) for near in explained["words"]["one"]] == [2] * prompt.num_virtual_tokens
        length = float(prompt.prompts()[0].norm())
        assert explained["carried"]["one"]["length"] == pytest.approx(length, rel=1e-5)
        assert report([str(source_run), "--html", str(tmp_path / "page.html")]) == 0
        page = (tmp_path / "page.html").read_text()
        assert "Words near the virtual tokens" in page
        assert "What each W makes of P" in page
        to.write_text("{}")
        with pytest.raises(UserError, match=r"explanation\.json: damaged \(no "):
            read_explanation(source_run)
    finally:
        to.unlink(missing_ok=True)


def test_what_cannot_be_explained_is_refused(source_run, tmp_path):
    with pytest.raises(UserError, match="--tasks: no task 'three'; choose from one, two"):
        main([str(source_run), "--tasks", "one", "three"])
    with pytest.raises(UserError, match="--words: is 0; it must be at least 1"):
        main([str(source_run), "--words", "0"])
    with pytest.raises(FileNotFoundError):
        main([str(tmp_path / "nothing")])


@pytest.mark.slow
def test_the_command(shipped_prompt):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mpt", "explain", str(shipped_prompt), "--words", "1"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "translate 1.00" in done.stdout
    assert not (shipped_prompt / "explanation.json").exists()  # it is not the folder of a run
