"""Score what was there before the training: the prompt as it starts (*before*), and the natural prefixes (*oracle*)."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import lightning

from mpt.adapter import Adapter
from mpt.answering.answers import Scores, predict, score_answers
from mpt.answering.kept import predict_once
from mpt.config import EvaluationConfig, TaskConfig
from mpt.errors import UserError
from mpt.run.checkpoint import RESUME_NEVER
from mpt.run.console import is_main
from mpt.run.folder import RunFolder
from mpt.run.progress import track_batches
from mpt.run.record import write_json
from mpt.training.module import MPTModule


class StartScores:
    """Scores the start once, when all processes are up; a resumed run reads the scores back.

    Args:
        tasks: The tasks.
        evaluation: Says which of the two to compute.
        folder: The run folder.
        clock: Seconds that the run has used.

    Attributes:
        scores: Task to ``before`` and ``oracle``, each where it is computed.
        seconds: How long it took.
    """

    def __init__(
        self,
        tasks: Mapping[str, TaskConfig],
        evaluation: EvaluationConfig,
        folder: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tasks, self.evaluation, self.clock = tasks, evaluation, clock
        self.path = RunFolder(folder).start_scores
        self.scores: Scores = {}
        self.seconds = 0.0

    def read(self) -> None:
        """Read the scores of a run that is resumed.

        Raises:
            UserError: The file is damaged.
        """
        if self.path.is_file():
            try:
                self.scores = json.loads(self.path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"{self.path}: damaged, so the run cannot go on; {RESUME_NEVER}") from error

    def compute(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Score, and leave no trace in the training, whose random numbers follow from seed and step."""
        assert isinstance(module, MPTModule)
        began = self.clock()
        if not self.scores:
            self.scores = {name: {} for name in self.tasks}
            if self.evaluation.before:
                self._add("before", module, module.adapter)
            if self.evaluation.oracle:
                self._add("oracle", module, None)
            if is_main():
                write_json(self.path, self.scores)
        self.seconds = self.clock() - began

    def _add(self, key: str, module: MPTModule, adapter: Adapter | None) -> None:
        loader = module.data.eval_loader("test", prefixed=adapter is None, shared_out=True)
        doing = "scoring the start" if adapter is not None else "scoring the oracle"
        batches = track_batches(loader, doing, len(loader))
        examples = module.data.examples_of("test")
        if adapter is None and self.evaluation.keep_answers:
            predictions = predict_once(adapter, module.backbone, loader, batches, examples, "oracle")
        else:
            predictions = predict(adapter, module.backbone, batches, examples)
        for name, of_task in score_answers(self.tasks, predictions, module.data.classes).items():
            self.scores[name][key] = of_task["score"]
