"""Scores over classes, through scikit-learn."""

from mpt.metrics.metric import References, Rules, Scores, Texts, metric


@metric(range=(-1.0, 1.0), needs_classes=True)
def matthews(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Matthews correlation of the classes, -1 to 1; an answer that is no class is a class of its own."""
    from sklearn.metrics import matthews_corrcoef

    wanted = [accepted[0].strip() for accepted in references]
    return {"matthews": float(matthews_corrcoef(wanted, [text.strip() for text in predictions]))}


@metric(needs_classes=True)
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


@metric(needs_classes=True)
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
