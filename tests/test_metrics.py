"""Scores against hand computation and the libraries that they come from."""

import math
from typing import Any

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from mpt.metrics import METRICS, Rules, score

TEXTS = st.lists(st.text("abc ", min_size=1, max_size=12), min_size=1, max_size=6)


def refs(*texts: str) -> list[tuple[str, ...]]:
    return [(text,) for text in texts]


def test_accuracy_and_exact_match_count_every_row() -> None:
    found = score(["accuracy", "exact_match"], ["yes", " no ", "maybe", ""], refs("yes", "no", "yes", "no"))
    assert found == {"n": 4, "score": 0.5, "accuracy": 0.5, "exact_match": 0.5}


def test_exact_match_takes_any_reference() -> None:
    assert score(["exact_match"], ["b"], [("a", "b")])["score"] == 1.0


def test_token_f1_by_hand() -> None:
    # "red hat" against "red coat": precision 1/2, recall 1/2; "hat" against "red hat": 1 and 1/2.
    found = score(["token_f1"], ["red hat", "hat"], refs("red coat", "red hat"))
    assert found["token_f1"] == pytest.approx((0.5 + 2 / 3) / 2)


def test_squad_ignores_case_articles_and_punctuation() -> None:
    found = score(["squad"], ["The Mill."], [("mill", "park")])
    assert found["squad_em"] == found["squad_f1"] == found["score"] == 1.0


def test_rouge_by_hand() -> None:
    # unigrams: 2 of 3 and 2 of 4; bigrams: 1 of 2 and 1 of 3; longest common subsequence: 2.
    found = score(["rouge"], ["anna found bread"], refs("anna found the hat"))
    assert found["rouge1"] == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert found["rouge2"] == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    assert found["score"] == found["rougeL"] == pytest.approx(found["rouge1"])


def test_bleu_and_chrf_equal_sacrebleu_with_uneven_references() -> None:
    predictions = ["the red hat is here now", "anna sold a very old drum"]
    references = [("the red hat is here", "a red hat is here now"), ("anna sold an old drum",)]
    columns = [[references[0][0], references[1][0]], [references[0][1], None]]
    found = score(["bleu", "chrf"], predictions, references)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(predictions, columns).score / 100)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(predictions, columns).score / 100)


def test_matthews_by_hand() -> None:
    # two right of each class, one wrong of each: (2*2 - 1*1) / sqrt(3*3*3*3)
    found = score(["matthews"], list("aabbba"), refs(*"aababb"))
    assert found["matthews"] == pytest.approx((2 * 2 - 1 * 1) / math.sqrt(81))


def test_correlations_by_hand() -> None:
    found = score(["pearson", "spearman"], ["1.0", "2.0", "4.0"], refs("1", "2", "3"))
    assert found["spearman"] == pytest.approx(1.0)
    assert found["pearson"] == pytest.approx(3 / math.sqrt(2 * (42 / 9)))


def test_f1_of_true_by_hand() -> None:
    # Rightly predicted true: 1; wrongly: 1; missed: 2.
    found = score(["f1_true"], ["true", "true", "false", "maybe"], refs("true", "false", "true", "true"))
    assert found["score"] == pytest.approx(2 * 1 / (2 * 1 + 1 + 2))
    assert score(["f1_true"], ["false"], refs("false"))["score"] == 0.0


def test_answer_that_is_no_number_counts_as_the_worst_guess() -> None:
    honest = score(["pearson"], ["0", "2", "5"], refs("0", "2", "5"))
    silent = score(["pearson"], ["0", "2", "nan"], refs("0", "2", "5"))
    guessed = score(["pearson"], ["0", "2", "0"], refs("0", "2", "5"))
    assert honest["score"] == pytest.approx(1.0)
    assert silent["score"] == guessed["score"] < 0


def test_constant_answers_correlate_with_nothing() -> None:
    assert score(["spearman"], ["3", "3", "3"], refs("1", "2", "3"))["score"] == 0.0


def test_reference_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="'high' is no number"):
        score(["pearson"], ["1"], refs("high"))


@pytest.mark.parametrize(
    ("names", "predictions", "references", "message"),
    [
        (["rogue"], ["a"], refs("a"), "unknown metric 'rogue'; choose one of accuracy"),
        (["accuracy"], [], [], "no rows"),
        (["accuracy"], ["a"], refs("a", "b"), "1 predictions, but 2 rows"),
        (["accuracy"], ["a"], [()], "row 0 has no reference"),
        ([], ["a"], refs("a"), "there are none"),
    ],
)
def test_bad_input_is_named(names: list[str], predictions: list[str], references: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(names, predictions, references)


@given(TEXTS)
def test_text_metrics_lie_between_zero_and_one_and_right_answers_are_best(texts: list[str]) -> None:
    names = ["exact_match", "accuracy", "token_f1", "rouge", "bleu", "chrf", "squad"]
    right = score(names, texts, refs(*texts))
    wrong = score(names, ["zzz"] * len(texts), refs(*texts))
    assert right["n"] == len(texts)
    assert right["exact_match"] == 1.0
    for key in right.keys() - {"n"}:
        assert 0.0 <= wrong[key] <= 1.0
        assert wrong[key] <= right[key] + 1e-9 <= 1.0 + 1e-9


def test_macro_f1_by_hand() -> None:
    # Of a: precision 1/2, recall 1/2; of b: 0, never answered; of c: precision 1, recall 1. "x" is no class.
    found = score(["macro_f1"], ["a", "x", "a", "c"], refs("a", "a", "b", "c"))
    assert found["macro_f1"] == pytest.approx((0.5 + 0.0 + 1.0) / 3)


def test_ter_counts_edits() -> None:
    # One word replaced, then one left out, of four and of two: two edits over six words.
    found = score(["ter"], ["a b c x", "a"], refs("a b c d", "a b"))
    assert found["ter"] == pytest.approx(2 / 6)


def test_nist_of_equal_texts_is_their_information_by_hand() -> None:
    # Four words, each once: log2(4) for each word, and nothing more for the longer n-grams that follow from them.
    found = score(["nist"], ["a b c d"], refs("a b c d"))
    assert found["nist"] == pytest.approx(2.0)
    assert score(["nist"], ["", ""], refs("a", "b"))["nist"] == 0.0


def test_first_metric_gives_the_score() -> None:
    for name in set(METRICS) - {"pearson", "spearman"}:
        found = score([name], ["a b c d"], refs("a b c d"))
        assert list(found)[:2] == ["n", "score"]
        assert found["score"] == found[list(found)[2]]


SCRIPTS = {
    "Chinese": ["你好，世界", "我喜欢喝茶"], "Japanese": ["今日は天気がいい", "駅まで歩く"], "Thai": ["สวัสดีชาวโลก",
    "ฉันชอบชา"], "Korean": ["안녕 세계 모두", "차를 좋아해요"], "Russian": ["Привет мир, как дела", "Я люблю чай"],
    "Arabic": ["مرحبا بالعالم", "أحب الشاي"], "Hebrew": ["שלום עולם", "אני אוהב תה"], "Hindi": ["नमस्ते दुनिया",
    "मुझे चाय पसंद है"], "Greek": ["Γειά σου Κόσμε", "μου αρέσει"], "Khmer": ["សួស្តី", "តែ"], "Georgian":
    ["გამარჯობა", "ჩაი"], "English": ["the", "a big red mill by the river"], "signs": ["?!", "👍"], "French": ["à",
    "où est l'été"],
}  # fmt: skip
OF_TEXTS = sorted(set(METRICS) - {"pearson", "spearman", "f1_true", "nist"})


@pytest.mark.parametrize("metric", OF_TEXTS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_equal_texts_have_the_best_score_in_every_script(metric: str, script: str) -> None:
    texts = SCRIPTS[script]
    assert score([metric], texts, refs(*texts))["score"] == (0.0 if metric == "ter" else pytest.approx(1.0))


@pytest.mark.parametrize("script", ["Chinese", "Japanese", "Thai", "Russian", "Arabic"])
def test_texts_that_share_half_score_something_in_between(script: str) -> None:
    text = SCRIPTS[script][0]
    half = text[: len(text) // 2] if script in ("Chinese", "Japanese", "Thai") else text.split()[0]
    for metric in ("rouge", "bleu", "chrf"):
        assert 0 < score([metric], [half], [(text,)])["score"] < 1


def test_a_tokenizer_may_be_chosen_and_is_sacrebleus() -> None:
    text, reference = "我喜欢喝绿茶和咖啡", "我喜欢喝红茶和咖啡"
    for name in ("zh", "char", "13a"):
        expected = sacrebleu.corpus_bleu([text], [[reference]], tokenize=name, use_effective_order=True).score
        found = score(["bleu"], [text], [(reference,)], Rules(tokenizer=name))["score"]
        assert found == pytest.approx(expected / 100)


def test_the_default_for_english_is_what_it_was() -> None:
    texts, references = (
        ["the cat sat on the mat today", "a dog barks loud now"],
        ["the cat is on the mat", "a dog barks now"],
    )
    expected = sacrebleu.corpus_bleu(texts, [references]).score
    assert score(["bleu"], texts, refs(*references))["score"] == pytest.approx(expected / 100)


def test_an_answer_that_is_no_class_is_the_wrong_one() -> None:
    # By T5's rule: 40 right, and 60 false rows that count as answered "true": precision .4, recall 1.
    wanted = refs(*["true"] * 40, *["false"] * 60)
    answers = ["true"] * 40 + ["paris"] * 60
    assert score(["f1_true"], answers, wanted)["score"] == pytest.approx(2 * 0.4 / 1.4)
    missed = ["paris"] * 40 + ["false"] * 60
    assert score(["f1_true"], missed, wanted)["score"] == 0.0
    assert score(["f1_true"], [*missed[:39], "true", *missed[40:]], wanted)["score"] == pytest.approx(2 / 41)


def test_macro_f1_counts_a_label_word_that_only_answers_have() -> None:
    # a: precision 1, recall 2/3; b: 1 and 1; c, which no row is: 0.
    answers, wanted = ["a", "a", "c", "b"], refs("a", "a", "a", "b")
    assert score(["macro_f1"], answers, wanted, Rules(("a", "b", "c")))["score"] == pytest.approx((0.8 + 1) / 3)
    assert score(["macro_f1"], answers, wanted)["score"] == pytest.approx((0.8 + 1) / 2)


def test_nist_of_several_references_is_mteval_v13as() -> None:
    """Both figures of mteval-v13a, whose example this is (Papineni et al. 2002 have the sentences)."""
    wanted = (
        "It is a guide to action that ensures that the military will forever heed Party commands",
        "It is the guiding principle which guarantees the military forces always being under the command of the Party",
        "It is the practical guide for the army always to heed the directions of the party",
    )
    one = "It is a guide to action which ensures that the military always obeys the commands of the party"
    other = "It is to insure the troops forever hearing the activity guidebook that party direct"
    assert score(["nist"], [one], [wanted])["score"] == pytest.approx(5.038, abs=5e-4)
    assert score(["nist"], [other], [wanted])["score"] == pytest.approx(2.114, abs=5e-4)


def test_nist_of_one_reference_is_nltks() -> None:
    from nltk.translate.nist_score import corpus_nist

    texts = ["the cat sat on a mat today", "a dog barked at me"]
    wanted = ["the cat sat on the mat", "a dog barked at the man loudly"]
    expected = corpus_nist([[text.split()] for text in wanted], [text.split() for text in texts], n=5)
    assert score(["nist"], texts, refs(*wanted))["score"] == pytest.approx(expected)
