"""ROUGE, through rouge_score."""

from functools import cache
from typing import Any

from mpt.metrics.metric import References, Rules, Scores, Texts, is_accepted, metric
from mpt.metrics.words import Words

ROUGE_KINDS = ("rougeL", "rouge1", "rouge2")


@metric(scores_one_example=True)
def rouge(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Mean F of ROUGE-L, ROUGE-1 and ROUGE-2, Latin texts stemmed; of several references the best one counts."""
    scorer = _rouge_scorer(rules.tokenizer)
    sums = dict.fromkeys(ROUGE_KINDS, 0.0)
    for text, accepted in zip(predictions, references, strict=True):
        row = None if is_accepted(text, accepted) else scorer.score_multi(list(accepted), text)
        for kind in ROUGE_KINDS:
            # Equal texts are equal also where the tokenizer knows none of their characters, or finds no two words.
            sums[kind] += 1.0 if row is None else row[kind].fmeasure
    return {kind: total / len(predictions) for kind, total in sums.items()}


@cache
def _rouge_scorer(tokenizer: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    if tokenizer == "13a":
        return RougeScorer(list(ROUGE_KINDS), use_stemmer=True)
    return RougeScorer(list(ROUGE_KINDS), tokenizer=Words(tokenizer))
