"""SQuAD's exact match and F1."""

from typing import Any

from mpt.metrics.metric import References, Rules, Scores, Texts, is_accepted, metric


@metric(scores_one_example=True)
def token_f1(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Mean SQuAD F1 over words; of several references the best one counts."""
    return {"token_f1": squad(predictions, references, rules)["squad_f1"]}


@metric(scores_one_example=True)
def squad(predictions: Texts, references: References, rules: Rules) -> Scores:
    """SQuAD's exact match and F1 (Rajpurkar et al. 2016), which ignore case, articles and punctuation."""
    # The same text is right, also where nothing is left of it without articles and punctuation, which scores 0 there.
    same = list(map(is_accepted, predictions, references))
    rest = [row for row, right in enumerate(same) if not right]
    f1 = exact = float(sum(same))
    if rest:
        from torchmetrics.functional.text import squad as squad_scores

        predicted = [{"prediction_text": predictions[row], "id": str(row)} for row in rest]
        wanted: Any = [
            {"answers": {"answer_start": [0] * len(references[row]), "text": list(references[row])}, "id": str(row)}
            for row in rest
        ]
        scores = squad_scores(predicted, wanted)
        f1 += float(scores["f1"]) / 100 * len(rest)
        exact += float(scores["exact_match"]) / 100 * len(rest)
    return {"squad_f1": f1 / len(same), "squad_em": exact / len(same)}
