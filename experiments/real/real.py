"""A real language model on a held-out task, with a source and without: `python experiments/real/real.py --data DIR`."""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from study import Cell, Source, run_study  # noqa: E402

from mpt.report.estimate import estimate  # noqa: E402
from mpt.report.pairs import compare  # noqa: E402
from mpt.report.tables import markdown  # noqa: E402

RUNS = Path("runs") / "real"
TEXT = ("prompt.init=TEXT", "prompt.init_text='Read the text and choose the right label for it.'")
"""The start that the source itself had."""
METHODS = {"mpt": (), "control": TEXT, "plain": ("prompt=plain", *TEXT)}
"""MPT from the source; its form with nothing from a source; plain prompt tuning. The same rates and steps for all."""


def cells(data: str | None, draws: int, source: Source) -> list[Cell]:
    """A run for each method and draw of 16 examples."""
    rows = () if data is None else (f"data_root={data}",)
    return [
        Cell(
            {"method": method, "seed": str(draw)},
            (
                *("experiment=real_target", f"source={source.folder}", f"seed={draw}", "evaluation.test_rows=200"),
                # The oracle is the same in every run.
                *(f"evaluation.oracle={str(method == 'mpt' and draw == 0).lower()}", *overrides, *rows),
            ),
            RUNS / method / f"draw-{draw}",
            source,
        )
        for draw in range(draws)
        for method, overrides in METHODS.items()
    ]


def main() -> None:
    """Run what is missing, and write results/table.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="FOLDER/<task>/{train,validation,test}.jsonl; default: the hub")
    parser.add_argument("--draws", type=int, default=6)
    arguments = parser.parse_args()
    rows = () if arguments.data is None else (f"data_root={arguments.data}",)
    source = Source(RUNS / "source", ("experiment=real_source", *rows))
    path = HERE / "results" / "runs.csv"
    lines = run_study(path, cells(arguments.data, arguments.draws, source))
    summary = [
        [
            method,
            *(
                estimate([line[key] for line in lines if line["method"] == method and key in line])
                for key in ("before", "score", "fit_seconds")
            ),
        ]
        for method in METHODS
    ]
    slim = [{key: line[key] for key in ("task", "method", "seed", "score")} for line in lines]
    _, pairs = compare(slim, "method", "plain", "score")
    oracle = next(line["oracle"] for line in lines if "oracle" in line)
    text = (
        f"sst2, 16 examples, 200 test rows; a written instruction without a prompt scores {oracle:.3f}\n"
        "mean [95 % interval over draws] (number of draws)\n"
        f"{markdown(['method', 'before', 'score', 'seconds of training'], summary)}\n\n"
        "score minus that of plain prompt tuning on the same draws (number of pairs)\n"
        f"{markdown(['task', 'method', 'difference'], [[*pair, found] for pair, found in pairs.items()])}\n"
    )
    (HERE / "results" / "table.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
