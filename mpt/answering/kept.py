"""Answers that follow from the frozen backbone and the rows only, kept on the disk.

Those of the oracle, and of a method that trains nothing: a sweep asks for them once for each backbone, task, rows and
way to answer, and not once a run.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata

from lightning.pytorch.utilities import rank_zero_warn

from mpt.answering.answers import Conditioner, Predictions, predict, put_beside
from mpt.atomic import write_atomically
from mpt.backbone import Backbone
from mpt.cache import cache_folder
from mpt.data.batches import Batch, EvalLoader
from mpt.run.console import say
from mpt.tasks import Example

LIBRARIES = ("torch", "transformers", "tokenizers")
"""Libraries whose versions decide an answer, in its last digits."""


def predict_once(
    adapter: Conditioner | None,
    backbone: Backbone,
    loader: EvalLoader,
    batches: Iterable[Batch],
    examples: Mapping[str, Sequence[Example]],
    of_what: str,
) -> Predictions:
    """Answer as :func:`mpt.answering.answers.predict`, or take the answers that are kept.

    Args:
        adapter: Adds no numbers: None, or a method that trains nothing.
        backbone: The frozen model.
        loader: The examples, tokenized; its share of several processes is not kept.
        batches: The loader's, with whatever shows how far they are.
        examples: As of :func:`mpt.answering.answers.predict`.
        of_what: What to call the answers where they are taken from the disk.
    """
    if loader.world_size > 1:
        return predict(adapter, backbone, batches, examples)
    path = cache_folder("answers") / f"{digest_of_questions(backbone, loader)}.json"
    if path.is_file():
        try:
            texts: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
            found = {name: put_beside(name, examples[name], of_task) for name, of_task in texts.items()}
            say(f"{of_what}: answers as kept in {path.parent} (evaluation.keep_answers=false asks again)")
            return found
        except (ValueError, KeyError, AttributeError) as error:
            rank_zero_warn(f"{path}: damaged ({error}), so the answers are given again")
    predictions = predict(adapter, backbone, batches, examples)
    kept = {name: [each.prediction for each in of_task] for name, of_task in predictions.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as temporary:
            temporary.write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")
    except OSError as error:  # a cache that cannot be written costs time, and no run
        rank_zero_warn(f"{path.parent}: answers cannot be kept there ({error}); MPT_CACHE names another folder")
    return predictions


def digest_of_questions(backbone: Backbone, loader: EvalLoader) -> str:
    """Hash what the answers follow from: weights, device, libraries, tokens, and how they are searched for."""
    digest = hashlib.sha256()
    about = [backbone.fingerprint, str(backbone.word_embeddings.weight.dtype), backbone.device.type]
    about += [metadata.version(library) for library in LIBRARIES]
    digest.update(json.dumps(about).encode())
    for settings, inputs in loader.questions():
        digest.update(json.dumps([settings, inputs], sort_keys=True, default=str).encode())
    return digest.hexdigest()[:32]
