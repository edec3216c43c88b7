"""Loggers: metrics.csv always, W&B (offline without an account), TensorBoard as an option."""

from mpt.loggers.curves import CurvesFile
from mpt.loggers.open import check_tensorboard, close_loggers, open_loggers
from mpt.loggers.run_results import log_results
from mpt.loggers.wandb_run import tags, wandb_mode

__all__ = ["CurvesFile", "check_tensorboard", "close_loggers", "log_results", "open_loggers", "tags", "wandb_mode"]
