"""``task=target``: adapt the prompt of a source run, or as a control a fresh one, to new tasks."""

from mpt.stages import Stage


class TargetAdaptation(Stage):
    """TargetAdaptation adaptation (Wang et al. 2023, section 3.3)."""

    name = "target"
    source = "by method"


STAGE = TargetAdaptation
