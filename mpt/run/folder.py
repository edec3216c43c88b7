"""A run's folder: whose it is, how far the run has come, and the configuration in it."""

import hashlib
import platform
import re
import secrets
import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import yaml
from omegaconf import OmegaConf

from mpt import __version__, lock
from mpt.atomic import write_atomically
from mpt.errors import UserError
from mpt.run.identity import identity, reads_source
from mpt.run.origin import code_digest, describe_command, describe_machine, git_revision
from mpt.run.record import METRICS, read_metrics, write_metrics

# Runs that a run starts from or learns from.
OTHER_RUNS = ("source", "distill")
LIBRARIES = ("torch", "lightning", "transformers", "datasets", "tokenizers")
FILES = (
    "config.yaml",
    "metrics.json",
    "metrics.csv",
    "draws.json",
    "similarity.csv",
    "similarity.png",
    "explanation.json",
)
FOLDERS = ("prompt", "adapter", "predictions", "checkpoints", "wandb", "tensorboard")
"""Names that a run leaves in its folder; ``overwrite=true`` removes these and nothing else."""
WRITTEN = {
    "prompt": r"adapter_config\.json|(adapter_model|mpt|start)\.safetensors|mpt\.json",
    "predictions": r"((train|validation)/)?[\w.-]+\.jsonl",
    "checkpoints": r"last\.ckpt|best\.safetensors|before\.json",
}
"""Patterns of the file names in these folders; libraries write the others."""


class RunFolder:
    """A run on disk: where its parts lie, and how it begins, goes on and is finished.

    Args:
        path: The folder; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / METRICS
        self.curves = path / "metrics.csv"
        self.draws = path / "draws.json"
        self.similarity_table, self.similarity_figure = path / "similarity.csv", path / "similarity.png"
        self.explanation = path / "explanation.json"
        self.prompt, self.adapter = path / "prompt", path / "adapter"
        self.predictions = path / "predictions"
        self.checkpoints = path / "checkpoints"
        self.last_checkpoint = self.checkpoints / "last.ckpt"
        self.best_step = self.checkpoints / "best.safetensors"
        self.start_scores = self.checkpoints / "before.json"

    def predictions_of(self, split: str) -> Path:
        """The folder of a split's predictions; those of the test split lie first."""
        return self.predictions / ("" if split == "test" else split)

    def state(self, config: Mapping[str, Any]) -> str:
        """Return how far a run has come: new, unfinished or finished.

        Raises:
            UserError: The folder holds the run of another configuration; the keys that differ are named.
        """
        written = read_config(self.path)
        if written is None:
            return "new"
        there, here = identity(written[0]), identity(config)
        if differing := sorted(key for key in there.keys() | here.keys() if there.get(key) != here.get(key)):
            differences = ", ".join(
                f"{key} ({there.get(key)!r} there, {here.get(key)!r} here)" for key in differing[:5]
            )
            more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
            raise UserError(
                f"{self.path}: holds the run of another configuration, with another {differences}{more}; "
                "give another hydra.run.dir, or overwrite=true"
            )
        return "unfinished" if read_metrics(self.path) is None else "finished"

    def finished(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """The metrics of a run that is finished already and need not run again; otherwise None.

        Raises:
            UserError: The folder holds another run, or what it learned from was trained anew since.
        """
        self.refuse_foreign()
        if config["overwrite"] or self.state(config) != "finished":
            return None
        self.check_others(config, "overwrite=true runs it again")
        return read_metrics(self.path)

    def refuse_foreign(self) -> None:
        """Refuse a folder that holds something and is not a run: its files might be lost.

        Raises:
            UserError: As said.
            NotADirectoryError: It is a file.
        """
        if not self.path.exists():
            return
        config = self.config
        if config.is_file():
            text = config.read_text(encoding="utf-8", errors="replace")
            if all(re.search(rf"^{key}:", text, re.MULTILINE) for key in ("stage", "tasks", "run")):
                return
            raise UserError(
                f"{self.path}: is not the folder of a run (its config.yaml is that of another program); "
                "give hydra.run.dir a folder that is new, empty, or a run's"
            )
        # What a run that was killed while it wrote its config.yaml leaves.
        names = [path.name for path in self.path.iterdir()]
        others = [name for name in names if name != lock.NAME and not re.match(r"\.[0-9a-f]{12}\.", name)]
        if others:
            raise UserError(
                f"{self.path}: is not the folder of a run (it has {', '.join(sorted(others)[:3])}, but no "
                "config.yaml); give hydra.run.dir a folder that is new, empty, or a run's"
            )

    def begin(self, config: Mapping[str, Any], *, fingerprint: str, rows: Mapping[str, Any]) -> None:
        """Make a folder that of a new run: empty of an older one's files, with ``config.yaml``.

        Args:
            config: The resolved configuration.
            fingerprint: The backbone's.
            rows: Digests and stamps of the data.
        """
        self.clear()
        versions = {"mpt": __version__, "python": platform.python_version()}
        versions |= {library: metadata.version(library) for library in LIBRARIES}
        run = {
            "id": secrets.token_hex(4),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": describe_command(sys.argv),
            "fingerprint": fingerprint,
            **_digests(config),
            "rows": dict(rows),
            "versions": versions,
            "machine": describe_machine(),
            "git": git_revision(),
            "code": code_digest(),
        }
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_config(config, run)
        self.checkpoints.mkdir()

    def clear(self) -> None:
        """Remove what a run left in its folder, and nothing else.

        Raises:
            UserError: One of its folders holds something that no run writes, or is a link, whose target may be
                anybody's.
        """
        for name in FOLDERS:
            path = self.path / name
            if path.is_symlink():
                raise UserError(
                    f"{path}: is a link, and a run begins by emptying its folders; remove the link, or give another "
                    "hydra.run.dir"
                )
            pattern = WRITTEN.get(name)
            others = [] if pattern is None or not path.is_dir() else _others(path, pattern)
            if others:
                raise UserError(
                    f"{path}: holds {', '.join(others[:3])}, which no run writes; move it away, or give "
                    "another hydra.run.dir"
                )
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        for name in FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)

    def check_backbone(self, name: str, fingerprint: str) -> None:
        """Refuse to go on with other weights of the backbone than a run began with.

        Raises:
            UserError: As said.
        """
        _, run = read_config(self.path) or ({}, {})
        if run.get("fingerprint") != fingerprint:
            raise UserError(
                f"{self.path}: began with other weights of {name}, fingerprint {run.get('fingerprint')}, "
                f"not {fingerprint}; resume=never starts again"
            )

    def check_others(self, config: Mapping[str, Any], remedy: str) -> None:
        """Refuse a run that learned from another one, where that was trained anew since.

        Args:
            config: The configuration.
            remedy: What would be right, for the error.

        Raises:
            UserError: As said.
        """
        _, run = read_config(self.path) or ({}, {})
        for key, digest in _digests(config).items():
            if run.get(key) != digest:
                raise UserError(
                    f"{self.path}: learned from {config[key.removesuffix('_prompt')]} before that was trained anew; "
                    f"{remedy}"
                )

    def check_rows(self, digests: Mapping[str, Mapping[str, str]], remedy: str) -> None:
        """Refuse a run over other rows than it began with.

        Args:
            digests: Task to split to the digest of its rows, of those that are read now.
            remedy: What would be right, for the error.

        Raises:
            UserError: Some of them have another digest.
        """
        _, run = read_config(self.path) or ({}, {})
        recorded = (run.get("rows") or {}).get("digests") or {}
        changed = [
            f"tasks.{name} ({', '.join(others)})"
            for name, splits in digests.items()
            if (
                others := [
                    split for split, digest in splits.items() if recorded.get(name, {}).get(split, digest) != digest
                ]
            )
        ]
        if changed:
            raise UserError(
                f"{self.path}: was run over other rows of {', '.join(changed)}, which changed since; {remedy}"
            )

    def recorded_stamps(self) -> dict[str, str | None]:
        """Task to what :func:`mpt.tasks.stamp_rows` said when the run began; empty where nothing was recorded."""
        _, run = read_config(self.path) or ({}, {})
        return dict((run.get("rows") or {}).get("stamps") or {})

    def write_config(self, config: Mapping[str, Any], run: Mapping[str, Any]) -> None:
        """Write ``config.yaml``: the resolved configuration, and under ``run`` what else describes this run."""
        with write_atomically(self.config) as path:
            path.write_text(OmegaConf.to_yaml(OmegaConf.create({**config, "run": dict(run)})), encoding="utf-8")

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Write ``metrics.json``, with which the run is finished; see :func:`mpt.run.record.write_metrics`."""
        write_metrics(self.path, metrics)


_Fastest: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a PyYAML that was built without libyaml has none


class _Loader(_Fastest):  # type: ignore[misc]
    """Reads YAML as OmegaConf does, faster: no dates, and 1e-3 is a number."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in _Fastest.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Read ``config.yaml`` back.

    Returns:
        The configuration and its ``run`` part; None where the folder has no such file.

    Raises:
        UserError: The file is not what :meth:`RunFolder.write_config` writes.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        return None
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged; overwrite=true runs the run again") from error
    if not isinstance(config, dict) or not isinstance(config.get("run"), dict):
        raise UserError(f"{path}: not the configuration of a run; it must be a mapping with the key 'run'")
    values = {str(key): value for key, value in config.items()}
    run = values.pop("run")
    return values, run


def prompt_digest(folder: Path) -> str | None:
    """Hash the prompt in a run folder, a prompt folder or a file; None where there is none."""
    for path in (folder / "prompt", folder):
        for file in (path / "adapter_model.safetensors", path / "adapter_model.bin", path):
            if file.is_file():
                return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return None


def _others(folder: Path, pattern: str) -> list[str]:
    """The files below a folder that are not named as a run's; those of an interrupted write are."""
    named = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not path.is_dir())
    return [name for name in named if not re.fullmatch(rf"(.*/)?\.[0-9a-f]{{12}}\..*|{pattern}", name)]


def _digests(config: Mapping[str, Any]) -> dict[str, str | None]:
    """Hash the prompts that a run starts from or learns from."""
    return {
        f"{key}_prompt": prompt_digest(Path(config[key]))
        for key in OTHER_RUNS
        if config.get(key) is not None and (key != "source" or reads_source(config))
    }
