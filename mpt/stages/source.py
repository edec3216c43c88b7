"""``task=source``: train one shared prompt, and a factor pair for each task, on several tasks at once."""

from mpt.stages import Stage


class SourceTraining(Stage):
    """SourceTraining training (Wang et al. 2023, section 3.2)."""

    name = "source"
    takes_teachers = True


STAGE = SourceTraining
