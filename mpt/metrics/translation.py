"""BLEU, chrF and TER over a corpus, through sacrebleu."""

import math

from mpt.metrics.metric import References, Rules, Scores, Texts, metric


@metric()
def bleu(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Corpus BLEU of sacrebleu, divided by 100; of texts that are all shorter than four words up to their length."""
    from sacrebleu.metrics import BLEU

    measure = BLEU(tokenize=rules.tokenizer, effective_order=True)
    score = measure.corpus_score(list(predictions), _columns(references)).score
    return {"bleu": min(1.0, score / 100)}  # rounding takes it a hair above 1


@metric(scores_one_example=True)
def chrf(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Corpus chrF2 of sacrebleu, divided by 100."""
    from sacrebleu.metrics import CHRF

    score = CHRF().corpus_score(list(predictions), _columns(references)).score
    return {"chrf": min(1.0, score / 100)}


@metric(range=(0.0, math.inf), higher_is_better=False)
def ter(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Translation edit rate of sacrebleu, divided by 100: lower is better, and it may exceed 1."""
    from sacrebleu.metrics import TER

    score = TER().corpus_score(list(predictions), _columns(references)).score
    return {"ter": score / 100}


def _columns(references: References) -> list[list[str | None]]:
    """Lay references out as sacrebleu takes them: the first ones of all examples, the second ones, ..."""
    most = max(map(len, references))
    return [[accepted[i] if i < len(accepted) else None for accepted in references] for i in range(most)]
