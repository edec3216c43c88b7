"""The tasks that ship: one line each."""

from pathlib import Path

import yaml


def catalogue(folder: Path) -> list[tuple[str, str, str, str, str]]:
    """List the tasks of a folder of configurations.

    Returns:
        Name, family, where the rows come from, metrics, and the one-line description of each, by source and name.
    """
    found = []
    for path in sorted(folder.glob("*.yaml")):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        rows = config["rows"]
        if rows.get("world") is not None:
            source = "world, held out" if config.get("held_out") else "world"
        else:
            source = " ".join(filter(None, (rows.get("hub") or rows.get("files"), rows.get("subset"))))
        family, metrics = config.get("family", ""), ", ".join(config["metrics"])
        found.append((path.stem, family, source, metrics, config.get("about", "")))
    return sorted(found, key=lambda task: (not task[2].startswith("world"), task[2] == "world, held out", task[1]))
