"""Answers to scores: each metric from a library, over all rows.

A metric imports its library when it is used: together they take seconds, and a run uses one or two.
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

Texts = Sequence[str]
References = Sequence[tuple[str, ...]]
Scores = dict[str, float]
ROUGE_KINDS = ("rougeL", "rouge1", "rouge2")
OF_CLASSES = ("accuracy", "macro_f1", "f1_true", "matthews")
"""Tasks whose first metric is one of these have classes: few-shot draws and carved splits keep them in proportion."""
LOWER_IS_BETTER = ("ter",)


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(ROUGE_KINDS), use_stemmer=True)


def _same(prediction: str, references: tuple[str, ...]) -> bool:
    return prediction.strip() in {reference.strip() for reference in references}


def accuracy(predictions: Texts, references: References) -> Scores:
    """Share of answers that are, but for spaces around them, an accepted label word."""
    return {"accuracy": _exact(predictions, references)}


def exact_match(predictions: Texts, references: References) -> Scores:
    """Share of answers that are, but for spaces around them, an accepted target."""
    return {"exact_match": _exact(predictions, references)}


def _exact(predictions: Texts, references: References) -> float:
    return sum(map(_same, predictions, references)) / len(predictions)


def token_f1(predictions: Texts, references: References) -> Scores:
    """Mean SQuAD F1 over words; of several references the best one counts."""
    return {"token_f1": squad(predictions, references)["squad_f1"]}


def squad(predictions: Texts, references: References) -> Scores:
    """SQuAD's exact match and F1 (Rajpurkar et al. 2016), which ignore case, articles and punctuation."""
    from torchmetrics.functional.text import squad as squad_scores

    predicted = [{"prediction_text": text, "id": str(row)} for row, text in enumerate(predictions)]
    wanted: Any = [
        {"answers": {"answer_start": [0] * len(accepted), "text": list(accepted)}, "id": str(row)}
        for row, accepted in enumerate(references)
    ]
    scores = squad_scores(predicted, wanted)
    return {"squad_f1": float(scores["f1"]) / 100, "squad_em": float(scores["exact_match"]) / 100}


def rouge(predictions: Texts, references: References) -> Scores:
    """Mean F of ROUGE-L, ROUGE-1 and ROUGE-2 with stemming; of several references the best one counts."""
    rows = [
        _rouge_scorer().score_multi(list(accepted), text)
        for text, accepted in zip(predictions, references, strict=True)
    ]
    return {kind: sum(row[kind].fmeasure for row in rows) / len(rows) for kind in ROUGE_KINDS}


def _columns(references: References) -> list[list[str | None]]:
    """Lay references out as sacrebleu takes them: the first ones of all examples, the second ones, ..."""
    most = max(map(len, references))
    return [[accepted[i] if i < len(accepted) else None for accepted in references] for i in range(most)]


def bleu(predictions: Texts, references: References) -> Scores:
    """Corpus BLEU of sacrebleu, divided by 100."""
    from sacrebleu.metrics import BLEU

    score = BLEU().corpus_score(list(predictions), _columns(references)).score
    return {"bleu": min(1.0, score / 100)}  # rounding takes it a hair above 1


def chrf(predictions: Texts, references: References) -> Scores:
    """Corpus chrF2 of sacrebleu, divided by 100."""
    from sacrebleu.metrics import CHRF

    score = CHRF().corpus_score(list(predictions), _columns(references)).score
    return {"chrf": min(1.0, score / 100)}


def ter(predictions: Texts, references: References) -> Scores:
    """Translation edit rate of sacrebleu, divided by 100: lower is better, and it may exceed 1."""
    from sacrebleu.metrics import TER

    score = TER().corpus_score(list(predictions), _columns(references)).score
    return {"ter": score / 100}


def nist(predictions: Texts, references: References) -> Scores:
    """Corpus NIST-5 over words split at spaces (Doddington 2002), by nltk; from 0, and no share."""
    from nltk.translate.nist_score import corpus_nist

    wanted = [[text.split() for text in accepted] for accepted in references]
    answered = [text.split() for text in predictions]
    longest = max(map(len, answered))  # nltk divides by zero where no answer has n words
    return {"nist": float(corpus_nist(wanted, answered, n=min(5, longest))) if longest else 0.0}


def matthews(predictions: Texts, references: References) -> Scores:
    """Matthews correlation of the classes, -1 to 1; an answer that is no class is a class of its own."""
    from sklearn.metrics import matthews_corrcoef

    wanted = [accepted[0].strip() for accepted in references]
    return {"matthews": float(matthews_corrcoef(wanted, [text.strip() for text in predictions]))}


def macro_f1(predictions: Texts, references: References) -> Scores:
    """Mean F1 of the classes that the rows have, as SuperGLUE's CB; an answer that is no class is wrong for each."""
    from sklearn.metrics import f1_score

    wanted = [accepted[0].strip() for accepted in references]
    answered = [text.strip() for text in predictions]
    found = f1_score(wanted, answered, labels=sorted(set(wanted)), average="macro", zero_division=0.0)
    return {"macro_f1": float(found)}


def f1_true(predictions: Texts, references: References) -> Scores:
    """F1 of the class ``true`` over all rows, as MultiRC's over its answers; 0 when no row is or is predicted true."""
    from sklearn.metrics import f1_score

    wanted = [accepted[0].strip() == "true" for accepted in references]
    return {
        "f1_true": float(
            f1_score(wanted, [text.strip() == "true" for text in predictions], zero_division=0.0)
        )
    }


def pearson(predictions: Texts, references: References) -> Scores:
    """Pearson correlation, -1 to 1; see :func:`_numbers` for answers that are no number."""
    from scipy.stats import pearsonr

    return {"pearson": _correlation(pearsonr, predictions, references)}


def spearman(predictions: Texts, references: References) -> Scores:
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
        ValueError: A reference is no number.
    """
    wanted = []
    for accepted in references:
        number = _number(accepted[0])
        if number is None:
            raise ValueError(
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


METRICS: dict[str, Callable[[Texts, References], Scores]] = {
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


def score(names: Sequence[str], predictions: Texts, references: References) -> Scores:
    """Score the answers of one task.

    Args:
        names: Metrics; the first one's primary number is the task's score.
        predictions: One answer per row.
        references: All accepted targets of each row.

    Returns:
        ``n``, ``score``, and each metric's numbers; shares lie in 0..1, correlations in -1..1.

    Raises:
        ValueError: No rows, not as many answers as references, a row without a reference, an unknown metric.
    """
    if not predictions:
        raise ValueError("metrics: there are no rows to score; give at least one")
    if len(predictions) != len(references):
        raise ValueError(f"metrics: {len(predictions)} predictions, but {len(references)} rows of references")
    if empty := [row for row, accepted in enumerate(references) if not accepted]:
        raise ValueError(f"metrics: row {empty[0]} has no reference; every row needs one")
    if unknown := [name for name in names if name not in METRICS]:
        raise ValueError(f"metrics: unknown metric {unknown[0]!r}; choose one of {', '.join(METRICS)}")
    if not names:
        raise ValueError(f"metrics: there are none; choose from {', '.join(METRICS)}")
    found: Scores = {}
    primary = None
    for name in names:
        numbers = METRICS[name](predictions, references)
        primary = next(iter(numbers.values())) if primary is None else primary
        found |= numbers
    assert primary is not None
    return {"n": len(predictions), "score": primary, **found}
