"""``task=teachers``: train one plain prompt per task, each as in a run of its own, for a source to learn from."""

from collections.abc import Iterator

from mpt.config import RunConfig
from mpt.stages import Stage


class Teachers(Stage):
    """The teachers of prompt distillation (Wang et al. 2023, section 3.2)."""

    name = "teachers"

    @classmethod
    def check(cls, config: RunConfig) -> Iterator[str]:
        """Check that each teacher is a plain prompt, trained as in a run of its own."""
        if config.method.name != "prompt" or config.prompt.form != "independent":
            yield "prompt.form: teachers are plain prompts, one per task; use task=teachers as it is"
        if config.mixture.sampling != "each" or config.evaluation.best != "task":
            yield (
                "mixture.sampling: each teacher is trained as in a run of its own; use mixture.sampling=each and "
                "evaluation.best=task, as task=teachers has them"
            )


STAGE = Teachers
