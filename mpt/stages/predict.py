"""``task=predict``: answer a file of inputs with a trained prompt."""

from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from mpt.config import ANSWERS, DTYPES, RunConfig
from mpt.errors import unknown
from mpt.hub import is_on_hub
from mpt.stages import RunArguments, Stage


class Predict(Stage):
    """Answers inputs; it leaves no run folder."""

    name = "predict"
    trains = False
    source = "always"
    leaves_folder = False

    @classmethod
    def run(cls, arguments: RunArguments) -> dict[str, Any]:
        """Answer; there are no metrics."""
        config, backbone = arguments.config, arguments.config.backbone
        answer_inputs = resolve_name("mpt.answering.answer_file:answer_inputs")
        answer_inputs(config.predict, config.source, backbone.dtype, backbone.path, config.seed)
        return {}

    @classmethod
    def check(cls, config: RunConfig) -> Iterator[str]:
        """Check everything that counts: the prompt, the inputs, and how they are answered."""
        if config.source is None:
            yield "source: is missing, and task=predict answers with its prompt; add source=RUN_FOLDER"
        elif not is_on_hub(config.source) and not Path(config.source).exists():
            yield f"source: no folder {config.source!r}; give one that is there"
        predict = config.predict
        if predict.input not in (None, "-"):
            path = Path(str(predict.input))  # a file, or a pipe such as <(command) and /dev/stdin
            if path.is_dir() or not path.exists():
                what = "is a folder" if path.is_dir() else "no file"
                yield f"predict.input: {what} {predict.input!r}; give a file, or none for standard input"
        if config.backbone.dtype not in DTYPES:
            yield unknown("backbone.dtype", config.backbone.dtype, DTYPES)
        if predict.answers not in (None, *ANSWERS):
            yield unknown("predict.answers", str(predict.answers), ANSWERS)
        if predict.choices is not None and not (predict.choices and all(predict.choices)):
            yield f"predict.choices: is {predict.choices}; name at least one text, and no empty one"
        for key in ("batch_size", "max_new_tokens"):
            if (getattr(predict, key) or 1) < 1 or getattr(predict, key) == 0:
                yield f"predict.{key}: is {getattr(predict, key)}; it must be at least 1"


STAGE = Predict
