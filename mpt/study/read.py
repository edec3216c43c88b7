"""Read the file of a study, and say everything that is wrong with it at once, each with its line."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from mpt.config_dirs import MOST_NODES, count_nodes
from mpt.errors import UserError, unknown
from mpt.study.file import Method, Source, Study, Tune


def load_study(path: Path) -> Study:
    """Read the file of a study.

    Raises:
        FileNotFoundError: It is not there.
        UserError: Everything that is wrong with it, each with its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None and count_nodes(node, {}) > MOST_NODES:
            raise UserError(f"{path}: its anchors stand for more than {MOST_NODES:,} values; write out what is meant")
        values = yaml.safe_load(text)
    except RecursionError as error:
        raise UserError(f"{path}: its lists lie too deep in each other; a study needs three levels") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(f"{where}: not YAML ({getattr(error, 'problem', error)})") from error
    reader = _Reader(path, node)
    study = reader.read(values)
    if reader.errors:
        raise UserError("\n".join(reader.errors))
    assert study is not None
    return study


MOST = 10_000
"""Most draws, and seeds of a source."""


class _Reader:
    """Turns a file's values into a :class:`Study`, and collects what is wrong."""

    def __init__(self, path: Path, node: yaml.Node | None) -> None:
        self.path, self.errors = path, list[str]()
        self.lines: dict[tuple[str, ...], int] = {}
        self._index(node, ())

    def _index(self, node: yaml.Node | None, at: tuple[str, ...]) -> None:
        """Note the line of each key, and refuse one that stands twice, of which YAML would keep the last."""
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                name = (*at, str(key.value))
                if name in self.lines:
                    self.refuse(name, "is listed twice; keep one of the two", key.start_mark.line + 1)
                self.lines[name] = key.start_mark.line + 1
                self._index(value, name)

    def refuse(self, at: tuple[str, ...], message: str, line: int | None = None) -> None:
        """Note an error."""
        nearest = next((self.lines[at[:end]] for end in range(len(at), 0, -1) if at[:end] in self.lines), 1)
        self.errors.append(f"{self.path}:{line or nearest}: {': '.join(at)}{': ' if at else ''}{message}")

    def read(self, values: Any) -> Study | None:
        if not isinstance(values, dict):
            self.refuse((), "is no mapping; write question, targets, methods and draws")
            return None
        known = [each.name for each in fields(Study) if each.name != "path"]
        for key in values:
            if key not in known:
                self.refuse((str(key),), unknown("study", str(key), known, "no key").partition(": ")[2])
        for key in ("question", "targets", "methods", "draws"):
            if values.get(key) in (None, "", [], {}):
                self.refuse((key,), "is missing" if key not in values else "is empty")
        sources = {
            name: Source(
                self.texts(("sources", name, "overrides"), value), self.count(("sources", name, "seeds"), value)
            )
            for name, value in self.mappings("sources", values, Source)
        }
        methods = {name: self.method(name, value, sources) for name, value in self.mappings("methods", values, Method)}
        study = Study(
            path=self.path,
            question=str(values.get("question", "")).strip(),
            targets=self.texts(("targets",), values, distinct=True),
            methods=methods,
            draws=self.count(("draws",), values),
            common=self.texts(("common",), values),
            target_overrides=self.target_overrides(values),
            sources=sources,
            vary=self.vary(values.get("vary") or {}),
            compare=tuple(self.comparisons(values.get("compare") or [], methods)),
            tune=self.tune(values.get("tune"), methods),
            success=self.success(values.get("success")),
            plugins=self.texts(("plugins",), values, distinct=True),
            config_dir=self.texts(("config_dir",), values),
        )
        for name in sources:
            if methods and name not in {method.source for method in methods.values()}:
                self.refuse(
                    ("sources", name), "no method starts from it; name it as a method's source, or leave it out"
                )
        self.pair_with_enough(study)
        return study

    def target_overrides(self, values: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        """The overrides of single targets, each of which has to be one."""
        found = values.get("target_overrides") or {}
        if not isinstance(found, dict):
            self.refuse(("target_overrides",), f"is {found!r}; write a mapping of targets to lists of overrides")
            return {}
        listed = values.get("targets")
        targets = [str(target) for target in listed] if isinstance(listed, list) else []
        for target in found:
            if str(target) not in targets:
                message = unknown("targets", str(target), targets, "no target").partition(": ")[2]
                self.refuse(("target_overrides", str(target)), message)
        return {str(target): self.texts(("target_overrides", str(target)), found) for target in found}

    def mappings(self, section: str, values: Mapping[str, Any], kind: type) -> Iterator[tuple[str, dict[str, Any]]]:
        """The entries of a section, each a mapping of the keys of a dataclass."""
        found = values.get(section) or {}
        if not isinstance(found, dict):
            self.refuse((section,), f"is {found!r}; write a mapping of names")
            return
        known = [each.name for each in fields(kind)]
        for name, value in found.items():
            at = (section, str(name))
            if not isinstance(value, dict):
                self.refuse(at, f"is {value!r}; write a mapping of {', '.join(known)}")
                continue
            for key in value:
                if key not in known:
                    self.refuse((*at, str(key)), f"is no key of {section}; choose one of {', '.join(known)}")
            yield str(name), value

    def method(self, name: str, values: dict[str, Any], sources: Mapping[str, Source]) -> Method:
        at, source = ("methods", name), values.get("source")
        if source is not None and (source := str(source)) not in sources:
            self.refuse((*at, "source"), unknown("sources", source, sources, "no source").partition(": ")[2])
        grid = values.get("grid") or []
        if not isinstance(grid, list) or not all(isinstance(each, list) for each in grid):
            self.refuse((*at, "grid"), f"is {grid!r}; write a list of overrides for each candidate, [[a=1], [a=2]]")
            grid = []
        return Method(
            self.texts((*at, "overrides"), values),
            source,
            tuple(tuple(map(str, each)) for each in grid),
            self.count((*at, "draws"), values) if values.get("draws") is not None else None,
        )

    def texts(self, at: tuple[str, ...], values: Mapping[str, Any], distinct: bool = False) -> tuple[str, ...]:
        """A list of texts."""
        found = values.get(at[-1])
        if found is None:
            return ()
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            self.refuse(at, f"is {found!r}; write a list of texts, [a, b]")
            return ()
        if distinct and (twice := sorted({each for each in found if found.count(each) > 1})):
            self.refuse(at, f"lists {', '.join(twice)} twice; name each once")
        return tuple(found)

    def count(self, at: tuple[str, ...], values: Mapping[str, Any]) -> int:
        """A whole number from 1; more than :data:`MOST` is a slip."""
        found = values.get(at[-1], 1)
        if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= MOST:
            self.refuse(at, f"is {found!r}; write a whole number from 1 to {MOST:,}")
            return 1
        return found

    def vary(self, values: Any) -> dict[str, tuple[Any, ...]]:
        if not isinstance(values, dict):
            self.refuse(("vary",), f"is {values!r}; write keys and the values of each, few_shot.k: [4, 16]")
            return {}
        found = {}
        for key, of_key in values.items():
            if not isinstance(of_key, list) or not of_key or any(of_key.count(each) > 1 for each in of_key):
                self.refuse(("vary", str(key)), f"is {of_key!r}; write a list of values, each once")
            elif key in ("seed", "few_shot.seed", "source", "task", "tasks", "output_root"):
                self.refuse(("vary", str(key)), "is the study's own to set; vary another key")
            else:
                found[str(key)] = tuple(of_key)
        return found

    def comparisons(self, values: Any, methods: Mapping[str, Method]) -> Iterator[tuple[str, str]]:
        for pair in values if isinstance(values, list) else [values]:
            named = isinstance(pair, list) and all(isinstance(each, (str, int, float)) for each in pair)
            if not named or len(pair) != 2 or pair[0] == pair[1]:
                self.refuse(("compare",), f"has {pair!r}; write pairs of two methods, [[A, B], [A, C]]")
                continue
            for name in map(str, pair):
                if name not in methods:
                    self.refuse(("compare",), unknown("compare", name, methods, "no method").partition(": ")[2])
            yield str(pair[0]), str(pair[1])

    def tune(self, values: Any, methods: Mapping[str, Method]) -> Tune | None:
        if values is None:
            for name, method in methods.items():
                if method.grid:
                    self.refuse(("methods", name, "grid"), "is never tried without tune; add tune: {draws: 3}")
            return None
        if not isinstance(values, dict):
            self.refuse(("tune",), f"is {values!r}; write draws and rates, {{draws: 3, rates: [0.33, 1, 3]}}")
            return None
        for key in values:
            if key not in ("draws", "rates"):
                self.refuse(("tune", str(key)), "is no key of tune; choose one of draws, rates")
        rates = values.get("rates") or []
        if not isinstance(rates, list) or not all(
            isinstance(each, (int, float)) and not isinstance(each, bool) and 0 < each < math.inf for each in rates
        ):
            self.refuse(("tune", "rates"), f"is {rates!r}; write factors above 0, [0.33, 1, 3]")
            rates = []
        if rates != sorted(set(rates)):
            self.refuse(("tune", "rates"), f"is {rates!r}; list each factor once, the smallest first")
        sizes = {name: len(method.grid) or len(rates) for name, method in methods.items()}
        for name, size in sizes.items():
            if size == 0:
                self.refuse(("methods", name), "has no candidates; add tune.rates, or a grid of the method's own")
        if len(set(sizes.values()) - {0}) > 1:
            shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
            self.refuse(("tune",), f"gives methods different numbers of candidates ({shown}); give each as many")
        return Tune(self.count(("tune", "draws"), values), tuple(float(each) for each in rates))

    def success(self, value: Any) -> float | None:
        if value is not None and (not isinstance(value, (int, float)) or isinstance(value, bool)):
            self.refuse(("success",), f"is {value!r}; write a score, such as 0.9")
            return None
        return None if value is None else float(value)

    def pair_with_enough(self, study: Study) -> None:
        """Refuse draws that cannot pair every source seed."""
        for name, method in study.methods.items():
            source = study.sources.get(method.source or "")
            if method.source is not None and source is not None and source.seeds > study.draws_of(name):
                self.refuse(
                    ("sources", method.source, "seeds"),
                    f"is {source.seeds}, and {name} has {study.draws_of(name)} draws, each of "
                    "which starts from one seed; give at most as many",
                )
