"""NIST over a corpus."""

import math
from collections import Counter
from collections.abc import Sequence

from mpt.metrics.metric import References, Rules, Scores, Texts, metric
from mpt.metrics.words import sacrebleu_tokenizer


@metric(range=(0.0, math.inf))
def nist(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Corpus NIST-5 as mteval-v13a computes it (Doddington 2002): from 0, and no share.

    Of several references all count: each n-gram may be matched as often as one of them has it, what it tells is
    measured over all of them, and their mean length is the one that an answer should have. Words are those of
    sacrebleu's 13a with their case, as under mteval's -c, which the E2E challenge uses.
    """
    split = sacrebleu_tokenizer("13a")
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
        information, written = 0.0, 0
        for answer, accepted in zip(answers, wanted, strict=True):
            most: Counter[tuple[str, ...]] = Counter()
            for text in accepted:
                most |= Counter(_ngrams(text, order))
            found = Counter(_ngrams(answer, order))
            written += found.total()
            for ngram, count in (found & most).items():
                information += count * math.log2(counts[ngram[:-1]] / counts[ngram])
        total += information / max(1, written)
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
