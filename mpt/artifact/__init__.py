"""What a run has trained, on disk: one ``save``, and the loads that tell from a folder what it holds."""

from mpt.artifact.load import (
    SavedPrompt,
    check_fits,
    input_settings,
    load_baseline,
    load_prompt,
    read_answers,
)
from mpt.artifact.save import save

__all__ = [
    "SavedPrompt",
    "check_fits",
    "input_settings",
    "load_baseline",
    "load_prompt",
    "read_answers",
    "save",
]
