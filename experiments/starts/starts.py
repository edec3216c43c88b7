"""Which start of a target? `python experiments/starts/starts.py`: three and a control, k = 16."""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from study import Cell, Source, run_study, table_of  # noqa: E402

from mpt.report.estimate import estimate  # noqa: E402
from mpt.report.pairs import compare  # noqa: E402
from mpt.report.tables import markdown  # noqa: E402

RUNS = Path("runs") / "starts"
SOURCE = Source(
    RUNS / "source" / "run",
    (
        "task=source",
        "tasks=[sum,mt,dlg,sum_lumi,mt_taro,keywords,question,where_kesh,list_who_what,feeling,intent,polite]",
        "trainer.max_steps=400",
        "evaluation.test_rows=100",
    ),
)
# Targets that the room study found to have room at k = 16.
TARGETS = ("color_else", "future_question", "mt_kesh_lumi", "reply_polite")
CONTROL = "VOCABULARY"
"""MPT's form with nothing from a source."""
STARTS = ("AVERAGE_SOURCE_TASKS", "AVERAGE_PRODUCT", "NEAREST_SOURCE_TASK", CONTROL)


def cells(draws: int) -> list[Cell]:
    """A run for each start, target and draw."""
    return [
        Cell(
            {"start": start, "target": target, "seed": str(draw)},
            (
                *("task=target", f"tasks=[{target}]", "few_shot.k=16", f"few_shot.seed={draw}"),
                *(f"prompt.init={start}", "evaluation.oracle=false", "evaluation.test_rows=300"),
                f"source={SOURCE.folder}",
            ),
            RUNS / "target" / start / f"{target}-{draw}",
            SOURCE,
        )
        for start in STARTS
        for target in TARGETS
        for draw in range(draws)
    ]


def main() -> None:
    """Run what is missing, and write results/table.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    arguments = parser.parse_args()
    lines = run_study(HERE / "results" / "runs.csv", cells(arguments.draws), jobs=arguments.jobs)
    header, rows = table_of(lines, "task", "start", lambda found: estimate([line["score"] for line in found]))
    slim = [{key: line[key] for key in ("task", "start", "seed", "score")} for line in lines]
    _, pairs = compare(slim, "start", CONTROL, "score")
    text = (
        "score: mean [95 % interval over draws] (number of draws)\n"
        f"{markdown(header, rows)}\n\nscore minus that of {CONTROL} on the same draws (number of pairs)\n"
        f"{markdown(['task', 'start', 'difference'], [[*pair, found] for pair, found in pairs.items()])}\n"
    )
    (HERE / "results" / "table.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
