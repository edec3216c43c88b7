"""The share of answers that are an accepted target."""

from mpt.metrics.metric import References, Rules, Scores, Texts, is_accepted, metric


@metric(needs_classes=True, scores_one_example=True)
def accuracy(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Share of answers that are, but for spaces around them, an accepted label word."""
    return {"accuracy": _exact(predictions, references)}


@metric(scores_one_example=True)
def exact_match(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Share of answers that are, but for spaces around them, an accepted target."""
    return {"exact_match": _exact(predictions, references)}


def _exact(predictions: Texts, references: References) -> float:
    return sum(map(is_accepted, predictions, references)) / len(predictions)
