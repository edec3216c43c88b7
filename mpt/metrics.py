"""Answers to scores: each metric from a library, over all rows.

A metric imports its library when it is used: together they take seconds, and a run uses one or two.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from mpt.errors import UserError

Texts = Sequence[str]
References = Sequence[tuple[str, ...]]
Scores = dict[str, float]
ROUGE_KINDS = ("rougeL", "rouge1", "rouge2")
OF_CLASSES = ("accuracy", "macro_f1", "f1_true", "matthews")
"""Tasks whose first metric is one of these have classes: few-shot draws and carved splits keep them in proportion."""
LOWER_IS_BETTER = ("ter",)
NO_SHARE = ("nist",)
"""Metrics with a range of their own, which no average of shares can hold."""
TOKENIZERS = ("auto", "13a", "intl", "char", "zh", "ja-mecab", "ko-mecab", "none")
"""What BLEU and ROUGE count as words: sacrebleu's names, and auto."""
PACKAGES = {"ja-mecab": ("MeCab", "sacrebleu[ja]"), "ko-mecab": ("mecab_ko", "sacrebleu[ko]")}
"""Tokenizer to the module that it needs, and what to install."""
_LATIN = re.compile("[A-Za-z\u00aa-\u024f\u1e00-\u1eff]")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese letters: their words are not separated by spaces."""
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True)
class Rules:
    """What a metric has to know of a task besides its rows.

    Attributes:
        labels: The words that a class may be; empty where they are not known.
        tokenizer: One of :data:`TOKENIZERS` but auto.
    """

    labels: tuple[str, ...] = ()
    tokenizer: str = "13a"


def choose_tokenizer(name: str, references: References) -> str:
    """Choose what counts as a word under ``auto``: by the letters of the references.

    13a knows the Latin script, and ROUGE's own tokenizer drops all other letters, so that two equal Chinese texts would
    score 0.
    """
    if name != "auto":
        return name
    text = "".join(reference for accepted in references for reference in accepted)
    letters = len(_LETTER.findall(text)) + len(_UNSPACED.findall(text)) / 4  # some of these count as marks
    if len(_UNSPACED.findall(text)) > letters / 4:
        return "char"
    return "13a" if 2 * len(_LATIN.findall(text)) >= letters else "intl"


class _Words:
    """Splits texts for ROUGE as sacrebleu's tokenizer of this name does, in lower case and without punctuation."""

    def __init__(self, name: str) -> None:
        self._split = _sacrebleu_tokenizer(name)

    def tokenize(self, text: str) -> list[str]:
        """List the words of a text."""
        words: list[str] = self._split(text).split()
        return [word for word in words if any(character.isalnum() for character in word)] or words


@cache
def _sacrebleu_tokenizer(name: str) -> Callable[[str], str]:
    from sacrebleu.metrics import BLEU

    tokenizer: Callable[[str], str] = BLEU(tokenize=name).tokenizer
    return tokenizer


@cache
def _rouge_scorer(tokenizer: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    if tokenizer == "13a":
        return RougeScorer(list(ROUGE_KINDS), use_stemmer=True)
    return RougeScorer(list(ROUGE_KINDS), tokenizer=_Words(tokenizer))


def _same(prediction: str, references: tuple[str, ...]) -> bool:
    return prediction.strip() in {reference.strip() for reference in references}


def accuracy(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Share of answers that are, but for spaces around them, an accepted label word."""
    return {"accuracy": _exact(predictions, references)}


def exact_match(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Share of answers that are, but for spaces around them, an accepted target."""
    return {"exact_match": _exact(predictions, references)}


def _exact(predictions: Texts, references: References) -> float:
    return sum(map(_same, predictions, references)) / len(predictions)


def token_f1(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Mean SQuAD F1 over words; of several references the best one counts."""
    return {"token_f1": squad(predictions, references, rules)["squad_f1"]}


def squad(predictions: Texts, references: References, rules: Rules) -> Scores:
    """SQuAD's exact match and F1 (Rajpurkar et al. 2016), which ignore case, articles and punctuation."""
    # The same text is right, also where nothing is left of it without articles and punctuation, which scores 0 there.
    same = list(map(_same, predictions, references))
    rest = [row for row, right in enumerate(same) if not right]
    f1 = exact = float(sum(same))
    if rest:
        from torchmetrics.functional.text import squad as squad_scores

        predicted = [{"prediction_text": predictions[row], "id": str(row)} for row in rest]
        wanted: Any = [
            {
                "answers": {"answer_start": [0] * len(references[row]), "text": list(references[row])},
                "id": str(row),
            }
            for row in rest
        ]
        scores = squad_scores(predicted, wanted)
        f1 += float(scores["f1"]) / 100 * len(rest)
        exact += float(scores["exact_match"]) / 100 * len(rest)
    return {"squad_f1": f1 / len(same), "squad_em": exact / len(same)}


def rouge(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Mean F of ROUGE-L, ROUGE-1 and ROUGE-2, Latin texts stemmed; of several references the best one counts."""
    scorer = _rouge_scorer(rules.tokenizer)
    sums = dict.fromkeys(ROUGE_KINDS, 0.0)
    for text, accepted in zip(predictions, references, strict=True):
        row = None if _same(text, accepted) else scorer.score_multi(list(accepted), text)
        for kind in ROUGE_KINDS:
            # Equal texts are equal also where the tokenizer knows none of their characters, or finds no two words.
            sums[kind] += 1.0 if row is None else row[kind].fmeasure
    return {kind: total / len(predictions) for kind, total in sums.items()}


def _columns(references: References) -> list[list[str | None]]:
    """Lay references out as sacrebleu takes them: the first ones of all examples, the second ones, ..."""
    most = max(map(len, references))
    return [[accepted[i] if i < len(accepted) else None for accepted in references] for i in range(most)]


def bleu(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Corpus BLEU of sacrebleu, divided by 100; of texts that are all shorter than four words up to their length."""
    from sacrebleu.metrics import BLEU

    measure = BLEU(tokenize=rules.tokenizer, effective_order=True)
    score = measure.corpus_score(list(predictions), _columns(references)).score
    return {"bleu": min(1.0, score / 100)}  # rounding takes it a hair above 1


def chrf(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Corpus chrF2 of sacrebleu, divided by 100."""
    from sacrebleu.metrics import CHRF

    score = CHRF().corpus_score(list(predictions), _columns(references)).score
    return {"chrf": min(1.0, score / 100)}


def ter(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Translation edit rate of sacrebleu, divided by 100: lower is better, and it may exceed 1."""
    from sacrebleu.metrics import TER

    score = TER().corpus_score(list(predictions), _columns(references)).score
    return {"ter": score / 100}


def nist(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Corpus NIST-5 as mteval-v13a computes it (Doddington 2002): from 0, and no share.

    Of several references all count: each n-gram may be matched as often as one of them has it, what it tells is
    measured over all of them, and their mean length is the one that an answer should have. Words are those of
    sacrebleu's 13a with their case, as under mteval's -c, which the E2E challenge uses.
    """
    split = _sacrebleu_tokenizer("13a")
    answers = [split(text).split() for text in predictions]
    wanted = [[split(text).split() for text in accepted] for accepted in references]
    orders = range(1, 6)
    counts: Counter[tuple[str, ...]] = Counter()
    for text in (text for accepted in wanted for text in accepted):
        for order in orders:
            counts.update(_ngrams(text, order))
        counts[()] += len(text)
    total = 0.0
    for order in orders:
        told, written = 0.0, 0
        for answer, accepted in zip(answers, wanted, strict=True):
            most: Counter[tuple[str, ...]] = Counter()
            for text in accepted:
                most |= Counter(_ngrams(text, order))
            found = Counter(_ngrams(answer, order))
            written += found.total()
            for ngram, count in (found & most).items():
                told += count * math.log2(counts[ngram[:-1]] / counts[ngram])
        total += told / max(1, written)
    length = sum(map(len, answers))
    meant = sum(sum(map(len, accepted)) / len(accepted) for accepted in wanted)
    ratio = min(1.0, length / meant) if meant else 1.0
    if not ratio:
        return {"nist": 0.0}
    # An answer of two thirds of the length is worth half.
    penalty = math.exp(math.log(0.5) / math.log(1.5) ** 2 * math.log(ratio) ** 2)
    return {"nist": total * penalty}


def _ngrams(words: Sequence[str], order: int) -> list[tuple[str, ...]]:
    return [tuple(words[begin : begin + order]) for begin in range(len(words) - order + 1)]


def matthews(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Matthews correlation of the classes, -1 to 1; an answer that is no class is a class of its own."""
    from sklearn.metrics import matthews_corrcoef

    wanted = [accepted[0].strip() for accepted in references]
    return {"matthews": float(matthews_corrcoef(wanted, [text.strip() for text in predictions]))}


def macro_f1(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Mean F1 of the task's label words, as SuperGLUE's CB; an answer that is no class is wrong for each.

    A class that the rows lack and an answer names counts with 0, one that neither has is left out. Where the label
    words are not known, the classes are those of the rows.
    """
    from sklearn.metrics import f1_score

    wanted = [accepted[0].strip() for accepted in references]
    answered = [text.strip() for text in predictions]
    classes = sorted(set(wanted) | (set(rules.labels) & set(answered)))
    found = f1_score(wanted, answered, labels=classes, average="macro", zero_division=0.0)
    return {"macro_f1": float(found)}


def f1_true(predictions: Texts, references: References, rules: Rules) -> Scores:
    """F1 of the class ``true`` over all rows, as MultiRC's over its answers.

    An answer that is no class is the wrong one, as in T5's code (``f1_score_with_invalid``): otherwise it would
    count as "false". 0 when no row is true or is answered so.
    """
    from sklearn.metrics import f1_score

    wanted = [accepted[0].strip() == "true" for accepted in references]
    known = {"true", *(rules.labels or ("false",))}
    answered = [
        text.strip() == "true" if text.strip() in known else not right
        for text, right in zip(predictions, wanted, strict=True)
    ]
    return {"f1_true": float(f1_score(wanted, answered, zero_division=0.0))}


def pearson(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Pearson correlation, -1 to 1; see :func:`_numbers` for answers that are no number."""
    from scipy.stats import pearsonr

    return {"pearson": _correlation(pearsonr, predictions, references)}


def spearman(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Spearman rank correlation, -1 to 1; see :func:`_numbers` for answers that are no number."""
    from scipy.stats import spearmanr

    return {"spearman": _correlation(spearmanr, predictions, references)}


def _correlation(measure: Callable[..., object], predictions: Texts, references: References) -> float:
    predicted, wanted = _numbers(predictions, references)
    if len(set(predicted)) < 2 or len(set(wanted)) < 2:
        # Nothing varies, so nothing goes together.
        return 0.0
    return float(measure(predicted, wanted).statistic)  # type: ignore[attr-defined]


def _numbers(predictions: Texts, references: References) -> tuple[list[float], list[float]]:
    """Read answers as numbers.

    An answer that is no number counts as the wanted value that is farthest from the row's own: the worst guess,
    so that a model gains nothing by silence, and no row is skipped.

    Raises:
        UserError: A reference is no number.
    """
    wanted = []
    for accepted in references:
        number = _number(accepted[0])
        if number is None:
            raise UserError(
                f"metrics: the target {accepted[0]!r} is no number; pearson and spearman need numbers"
            )
        wanted.append(number)
    low, high = min(wanted), max(wanted)
    predicted = []
    for text, right in zip(predictions, wanted, strict=True):
        number = _number(text)
        predicted.append(number if number is not None else (high if right - low < high - right else low))
    return predicted, wanted


def _number(text: str) -> float | None:
    if not re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


METRICS: dict[str, Callable[[Texts, References, Rules], Scores]] = {
    "accuracy": accuracy,
    "exact_match": exact_match,
    "macro_f1": macro_f1,
    "f1_true": f1_true,
    "token_f1": token_f1,
    "rouge": rouge,
    "bleu": bleu,
    "chrf": chrf,
    "ter": ter,
    "nist": nist,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "squad": squad,
}
"""Name to metric; the first number of each is its primary one."""


def score(
    names: Sequence[str], predictions: Texts, references: References, rules: Rules | None = None
) -> Scores:
    """Score the answers of one task.

    Args:
        names: Metrics; the first one's primary number is the task's score.
        predictions: One answer per row.
        references: All accepted targets of each row.
        rules: Label words and tokenizer; None: no label words, and the tokenizer that fits the references.

    Returns:
        ``n``, ``score``, and each metric's numbers; shares lie in 0..1, correlations in -1..1.

    Raises:
        UserError: No rows, not as many answers as references, a row without a reference, an unknown metric.
    """
    if not predictions:
        raise UserError("metrics: there are no rows to score; give at least one")
    if len(predictions) != len(references):
        raise UserError(f"metrics: {len(predictions)} predictions, but {len(references)} rows of references")
    if empty := [row for row, accepted in enumerate(references) if not accepted]:
        raise UserError(f"metrics: row {empty[0]} has no reference; every row needs one")
    if unknown := [name for name in names if name not in METRICS]:
        raise UserError(f"metrics: unknown metric {unknown[0]!r}; choose one of {', '.join(METRICS)}")
    if not names:
        raise UserError(f"metrics: there are none; choose from {', '.join(METRICS)}")
    rules = rules or Rules(tokenizer=choose_tokenizer("auto", references))
    found: Scores = {}
    primary = None
    for name in names:
        numbers = METRICS[name](predictions, references, rules)
        primary = next(iter(numbers.values())) if primary is None else primary
        found |= numbers
    assert primary is not None
    return {"n": len(predictions), "score": primary, **found}
