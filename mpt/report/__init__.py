"""Results over runs: gathered, estimated with intervals, compared in pairs, as tables and figures."""

from mpt.report.estimate import Estimate, compare, estimate, summarize
from mpt.report.gather import Line, gather, learning_curve
from mpt.report.tables import markdown

__all__ = ["Estimate", "Line", "compare", "estimate", "gather", "learning_curve", "markdown", "summarize"]
