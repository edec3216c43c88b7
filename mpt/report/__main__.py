"""``python -m mpt.report FOLDER...``: one table of many run folders, with intervals.

It reads what runs left, and nothing else: config.yaml and metrics.json, and the records of sweeps.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mpt.atomic import write_atomically
from mpt.report.estimate import compare, summarize
from mpt.report.figures import draw
from mpt.report.gather import default_groups, gather
from mpt.report.tables import markdown, pivot
from mpt.run.record import write_csv


def report(arguments: argparse.Namespace) -> str:
    """Carry out one command line.

    Returns:
        What it prints.

    Raises:
        FileNotFoundError: As :func:`gather`.
        ValueError: As :func:`summarize` and :func:`compare`.
    """
    lines, unfinished = gather(arguments.folders, arguments.split)
    parts = [f"{len({line['run'] for line in lines})} finished runs"]
    parts += [f"left out, not finished: {run}" for run in unfinished]
    by = arguments.by or default_groups(lines)
    by += [key for key in (arguments.across, arguments.x) if key and key not in by]
    groups = summarize(lines, by, arguments.metric)
    header = [*by, "mean", "sd", "half_width", "runs"]
    rows = [[*group, found.mean, found.sd, found.half_width, found.runs] for group, found in groups.items()]
    listed = [[*map(str, group), str(found)] for group, found in groups.items()]
    shown = pivot(groups, by, arguments.across) if arguments.across else ([*by, arguments.metric], listed)
    parts.append(
        f"{arguments.metric}: mean ± half of the 95 % interval over runs (number of runs)\n"
        + markdown(*shown)
    )
    if arguments.against:
        key, _, base = arguments.against.partition("=")
        grouping, pairs = compare(lines, key, base, arguments.metric)
        parts.append(
            f"{arguments.metric} minus that of {key}={base} on the same draws and seeds (number of pairs)\n"
            + markdown(
                ["task", *grouping, key, "difference"], [[*pair, found] for pair, found in pairs.items()]
            )
        )
    text = "\n\n".join(parts) + "\n"
    if arguments.output:
        columns = list(dict.fromkeys(key for line in lines for key in line))
        write_csv(
            arguments.output / "runs.csv", columns, ([line.get(key, "") for key in columns] for line in lines)
        )
        write_csv(arguments.output / "table.csv", header, rows)
        with write_atomically(arguments.output / "table.md") as temporary:
            temporary.write_text(text, encoding="utf-8")
        if arguments.x:
            draw(groups, by, arguments.x, arguments.metric, arguments.output / "figure.svg")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 2 and one message where it asks for something wrong."""
    parser = argparse.ArgumentParser(
        "python -m mpt.report", description="One table of many run folders, with intervals."
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, help="run folders, folders of them, or sweeps/NAME.jsonl"
    )
    parser.add_argument(
        "--by", nargs="+", metavar="KEY", help="group by these; default: all that differs but the seeds"
    )
    parser.add_argument("--across", metavar="KEY", help="put this key's values side by side")
    parser.add_argument(
        "--against", metavar="KEY=VALUE", help="paired differences to the runs with this value"
    )
    parser.add_argument("--x", metavar="KEY", help="draw figure.svg over this key; needs --output")
    parser.add_argument(
        "--metric",
        default="score",
        help="score, before, best_step, curve_mean (of all validations: who learns sooner has more), fit_seconds, "
        "trained_parameters, or a metric's name",
    )
    parser.add_argument("--split", default="test", choices=("test", "validation"))
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="also write runs.csv, table.csv and table.md there"
    )
    arguments = parser.parse_args(argv)
    if arguments.x and not arguments.output:
        parser.error("--x: draws a figure, so give --output FOLDER")
    if arguments.against and "=" not in arguments.against:
        parser.error("--against: write KEY=VALUE, as in prompt.init=RANDOM")
    try:
        print(report(arguments), end="")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())


if __name__ == "__main__":
    sys.exit(main())
