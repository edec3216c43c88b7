"""How many numbers a prompt holds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ParameterCount:
    """How many numbers a prompt holds; printed as a table."""

    shared: int
    """Numbers of P, all groups."""
    per_task: int
    """Numbers of one task's cols and rows."""
    factors: int
    """Numbers of all tasks' cols and rows."""
    total: int
    independent: int
    """What one plain prompt per task would hold."""
    ratio: float
    """``total / independent``."""

    def __str__(self) -> str:
        rows = {
            "shared prompt": f"{self.shared:,}",
            "factors, per task": f"{self.per_task:,}",
            "factors, all tasks": f"{self.factors:,}",
            "total": f"{self.total:,}",
            "independent prompts": f"{self.independent:,}",
            "total / independent": f"{self.ratio:.3f}",
        }
        width = max(len(number) for number in rows.values())
        return "\n".join(f"{name:<20}{number:>{width + 1}}" for name, number in rows.items())
