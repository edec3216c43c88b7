"""Results over runs: gathered, estimated with intervals, compared in pairs, as tables and figures."""

from mpt.report.estimate import Estimate, estimate, summarize
from mpt.report.gather import Line, gather, learning_curve
from mpt.report.pairs import Difference, compare
from mpt.report.tables import markdown

__all__ = ["Difference", "Estimate", "Line", "compare", "estimate", "gather", "learning_curve", "markdown", "summarize"]
