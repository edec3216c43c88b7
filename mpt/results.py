"""One run, written and read: its name, config.yaml, metrics.json, the predictions, the table."""

import csv
import hashlib
import io
import json
import platform
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import OmegaConf

from mpt import __version__
from mpt.atomic import write_atomically

if TYPE_CHECKING:
    from rich.table import Table

Scores = dict[str, dict[str, float]]
"""Task (or ``average``) to its numbers."""

# What a run may say differently and still be the same run.
INCIDENTAL = {
    "logger",
    "output_root",
    "overwrite",
    "resume",
    "trainer.progress_bar",
    "trainer.threads",
    "distillation.cache",
    "optimized_metric",
}
# Runs that a run starts from or learns from.
GIVEN = ("source", "distill")
LIBRARIES = ("torch", "lightning", "transformers", "datasets", "tokenizers")
LONGEST_NAME = 80
FILES = ("config.yaml", "metrics.json", "metrics.csv", "draws.json", "similarity.csv", "similarity.png")
FOLDERS = ("prompt", "adapter", "predictions", "checkpoints", "wandb", "tensorboard")
"""What a run leaves in its folder, and all that ``overwrite=true`` removes."""


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give nested mappings as one level with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The dotted keys of a configuration that decide what a run computes, with their values."""
    return {
        key: value
        for key, value in flatten(config).items()
        if key not in INCIDENTAL and key.split(".", 1)[0] not in INCIDENTAL
    }


def run_name(config: Mapping[str, Any]) -> str:
    """Name a run after its tasks and backbone, and six digits of a hash of its configuration.

    Args:
        config: The fields of :class:`mpt.config.RunConfig` as plain values.

    Returns:
        Such as ``sum+mt+dlg-tiny-3f2a9c``: the same under every process and restart.
    """
    names = list(config["tasks"])
    tasks = "+".join(names)
    if len(tasks) > LONGEST_NAME:
        tasks = f"{'+'.join(names[:3])}+{len(names) - 3}more"
    backbone = Path(str(config["backbone"].get("path") or config["backbone"].get("name"))).name
    told = json.dumps(identity(config), sort_keys=True, default=str)
    # The order of the tasks is the order of the task ids, so it counts.
    digits = hashlib.sha256(json.dumps([names, told]).encode()).hexdigest()[:6]
    return re.sub(r"[^\w.+-]", "_", f"{tasks or 'none'}-{backbone}-{digits}")


def write_config(folder: Path, config: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Write ``config.yaml``: the resolved configuration, and under ``run`` what else describes this run."""
    with write_atomically(folder / "config.yaml") as path:
        path.write_text(OmegaConf.to_yaml(OmegaConf.create({**config, "run": dict(run)})), encoding="utf-8")


def read_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Read ``config.yaml`` back.

    Returns:
        The configuration and its ``run`` part; None where the folder has no such file.

    Raises:
        ValueError: The file is not what :func:`write_config` writes.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        return None
    try:
        config = OmegaConf.to_container(OmegaConf.load(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged; overwrite=true runs the run again") from error
    if not isinstance(config, dict) or not isinstance(config.get("run"), dict):
        raise ValueError(f"{path}: not the configuration of a run; it must be a mapping with the key 'run'")
    values = {str(key): value for key, value in config.items()}
    run = values.pop("run")
    return values, run


def state_of(folder: Path, config: Mapping[str, Any]) -> str:
    """Tell how far a run has come: new, unfinished or finished.

    Raises:
        ValueError: The folder holds the run of another configuration; the keys that differ are named.
    """
    written = read_config(folder)
    if written is None:
        return "new"
    there, here = identity(written[0]), identity(config)
    if differing := sorted(key for key in there.keys() | here.keys() if there.get(key) != here.get(key)):
        told = ", ".join(f"{key} ({there.get(key)!r} there, {here.get(key)!r} here)" for key in differing[:5])
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise ValueError(
            f"{folder}: holds the run of another configuration, with another {told}{more}; "
            "give another hydra.run.dir, or overwrite=true"
        )
    return "unfinished" if read_metrics(folder) is None else "finished"


def finished(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The metrics of a run that is finished already and need not run again; otherwise None.

    Raises:
        ValueError: The folder holds another run, or what it learned from was trained anew since.
    """
    refuse_foreign(folder)
    if config["overwrite"] or state_of(folder, config) != "finished":
        return None
    _, run = read_config(folder) or ({}, {})
    for key, digest in _digests(config).items():
        if run.get(key) != digest:
            raise ValueError(
                f"{folder}: learned from {config[key.removesuffix('_prompt')]} before that was trained anew; "
                "overwrite=true runs it again"
            )
    return read_metrics(folder)


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder that holds something and is not a run: its files might be lost.

    Raises:
        ValueError: As said.
        NotADirectoryError: It is a file.
    """
    if not folder.exists() or (folder / "config.yaml").is_file():
        return
    # What a run that was killed while it wrote its config.yaml leaves.
    others = [path.name for path in folder.iterdir() if not re.match(r"\.[0-9a-f]{12}\.", path.name)]
    if others:
        raise ValueError(
            f"{folder}: is not the folder of a run (it has {', '.join(sorted(others)[:3])}, but no config.yaml); "
            "give hydra.run.dir a folder that is new, empty, or a run's"
        )


def begin(folder: Path, config: Mapping[str, Any], *, fingerprint: str) -> None:
    """Make a folder that of a new run: empty of an older one's files, with ``config.yaml``.

    Args:
        folder: The run folder.
        config: The resolved configuration.
        fingerprint: The backbone's.
    """
    clear(folder)
    versions = {"mpt": __version__, "python": platform.python_version()}
    versions |= {library: metadata.version(library) for library in LIBRARIES}
    run = {
        "id": secrets.token_hex(4),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "fingerprint": fingerprint,
        **_digests(config),
        "versions": versions,
        "git": _git_revision(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, config, run)
    (folder / "checkpoints").mkdir()


def _digests(config: Mapping[str, Any]) -> dict[str, str | None]:
    """Hashes of the prompts that a run starts from or learns from."""
    return {f"{key}_prompt": prompt_digest(Path(config[key])) for key in GIVEN if config.get(key) is not None}


def prompt_digest(folder: Path) -> str | None:
    """A hash of the prompt in a run folder, a prompt folder or a file; None where there is none."""
    for path in (folder / "prompt", folder):
        for file in (path / "adapter_model.safetensors", path / "adapter_model.bin", path):
            if file.is_file():
                return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return None


def clear(folder: Path) -> None:
    """Remove what a run left in its folder, and nothing else."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


def averaged(scores: Scores) -> Scores:
    """Add ``average``: the mean over tasks of score, before and oracle, each where all tasks have it."""
    average: dict[str, float] = {"n": sum(int(task["n"]) for task in scores.values())}
    if all("n_available" in task for task in scores.values()):
        average["n_available"] = sum(int(task["n_available"]) for task in scores.values())
    for key in ("score", "before", "oracle"):
        values = [task[key] for task in scores.values() if key in task]
        if len(values) == len(scores):
            average[key] = sum(values) / len(values)
    return {**scores, "average": average}


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write ``metrics.json``; it stands only when the run is finished."""
    write_json(folder / "metrics.json", metrics)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """Read ``metrics.json``; None where the run is not finished.

    Raises:
        ValueError: The file is damaged.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        return None
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); overwrite=true runs the run again") from error
    if not isinstance(metrics, dict):
        raise ValueError(f"{path}: not the metrics of a run; overwrite=true runs the run again")
    return metrics


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, making the folder that the file lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows]
    with write_atomically(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def table(metrics: Mapping[str, Any]) -> "Table":
    """The result of a run for the terminal: per task the score before, after, the oracle's, and n.

    Args:
        metrics: What :func:`write_metrics` wrote.
    """
    from rich.table import Table  # not needed to refuse a run

    test: Scores = metrics["test"]
    columns = [key for key in ("before", "score", "oracle") if any(key in row for row in test.values())]
    shown = Table()
    shown.add_column("task")
    shown.add_column("metric")
    for key in columns:
        shown.add_column({"score": "after"}.get(key, key), justify="right")
    shown.add_column("n", justify="right")
    for name, row in test.items():
        if name == "average":
            shown.add_section()
        cells: Sequence[str] = [f"{row[key]:.3f}" if key in row else "–" for key in columns]
        count, available = int(row["n"]), int(row.get("n_available", row["n"]))
        rows = f"{count:,}" if count == available else f"{count:,} of {available:,}"
        shown.add_row(name, metrics.get("metric", {}).get(name, ""), *cells, rows)
    return shown


def _git_revision() -> str | None:
    """The commit of the checkout that this file lies in, with ``+changes`` where files differ from it."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    told = []
    for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            answer = subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if answer.returncode != 0:
            return None
        told.append(answer.stdout.strip())
    return told[0] + ("+changes" if told[1] else "")
