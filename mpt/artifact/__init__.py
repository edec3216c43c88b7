"""Trained prompts and baselines on disk: one ``save``, and loads that tell from a folder what it holds."""

from mpt.artifact.baseline_folder import load_baseline
from mpt.artifact.load import SavedPrompt, check_fits, input_settings, load_prompt, read_answers
from mpt.artifact.save import save

__all__ = ["SavedPrompt", "check_fits", "input_settings", "load_baseline", "load_prompt", "read_answers", "save"]
