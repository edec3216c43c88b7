"""Do the held-out targets leave room between methods? `python experiments/room/room.py`: k = 16, three draws."""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from study import Cell, Source, run_study, table_of  # noqa: E402

from mpt.report.estimate import estimate  # noqa: E402
from mpt.report.pairs import compare  # noqa: E402
from mpt.report.tables import markdown  # noqa: E402
from mpt.world.tasks import TARGET_TASKS  # noqa: E402

RUNS = Path("runs") / "room"
SOURCE = Source(
    RUNS / "source" / "run",
    (
        "task=source",
        "tasks=[sum,mt,dlg,sum_lumi,mt_taro,keywords,question,where_kesh,list_who_what,feeling,intent,polite]",
        "trainer.max_steps=400",
    ),
)
# What differs between methods, and whether it starts from the source; "untrained" is MPT's form with nothing from it.
METHODS = {
    "mpt": ((), True),
    "mpt_frozen": (("prompt.freeze_shared=true",), True),
    "untrained": (("prompt.init=VOCABULARY",), False),
    "plain": (("prompt=plain", "prompt.init=VOCABULARY"), False),
}


def cells(draws: int) -> list[Cell]:
    """A run for each method, target and draw."""
    return [
        Cell(
            {"method": method, "target": target, "seed": str(draw)},
            (
                *("task=target", f"tasks=[{target}]", "few_shot.k=16", f"few_shot.seed={draw}", *changes),
                *("evaluation.validation_rows=16", "evaluation.oracle=false", "few_shot.validation=split"),
                *((f"source={SOURCE.folder}",) if from_source else ()),
            ),
            RUNS / "target" / method / f"{target}-{draw}",
            SOURCE if from_source else None,
        )
        for method, (changes, from_source) in METHODS.items()
        for target in TARGET_TASKS
        for draw in range(draws)
    ]


def main() -> None:
    """Run what is missing, and write results/table.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    arguments = parser.parse_args()
    lines = run_study(HERE / "results" / "runs.csv", cells(arguments.draws), jobs=arguments.jobs)
    header, rows = table_of(lines, "task", "method", lambda found: estimate([line["score"] for line in found]))
    slim = [{key: line[key] for key in ("task", "method", "seed", "score")} for line in lines]
    _, pairs = compare(slim, "method", "plain", "score")
    text = (
        "score: mean [95 % interval over draws] (number of draws)\n"
        f"{markdown(header, rows)}\n\nscore minus that of plain on the same draws (number of pairs)\n"
        f"{markdown(['task', 'method', 'difference'], [[*pair, found] for pair, found in pairs.items()])}\n"
    )
    (HERE / "results" / "table.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
