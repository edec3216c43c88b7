"""Parts from outside: the page's own module is named as a plugin, installed as a package, and used as any other."""

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml

import mpt
from mpt.errors import UserError
from mpt.registry import Registry
from mpt.run.record import read_metrics
from mpt.study import __main__ as study
from tests.runs import run_cli

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
SMALL = (
    "trainer.max_steps=3", "trainer.batch_size=4", "evaluation.test_rows=6", "logger=csv", "trainer=cpu",
    "trainer.progress_bar=false", "evaluation.before=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the files of the page, and a package that offers the same parts by entry points."""
    root = tmp_path_factory.mktemp("lab")
    for _, place, text in re.findall(r"^```(python|yaml)\n# (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "my_lab" / "__init__.py").touch()
    (root / "mine" / "experiment").mkdir()
    (root / "mine" / "experiment" / "lab.yaml").write_text(
        "# @package _global_\nplugins: [my_lab.prompts]\ndefaults:\n  - override /task: target\n"
        "  - override /tasks: [parity]\n  - override /method: lab_scaled\nfew_shot:\n  k: 4\n"
    )
    groups = re.search(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert groups
    points = re.sub(r'\[project.entry-points."(.*)"\]', r"[\1]", groups[1]).replace('"', "")
    about = root / "installed" / "my_lab-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-lab\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(points)
    (root / "installed" / "my_lab").symlink_to(root / "my_lab")
    return root


def python(lab: Path, code: str, *words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Code in a process of its own, which knows nothing of other tests; not in the plugin's folder."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, filter(None, [ROOT, path])))}
    return subprocess.run(
        [sys.executable, "-c", code, *words], cwd=lab / "mine", env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip


def command(lab: Path, *words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    code = f"import os, sys; os.chdir({str(lab)!r}); sys.argv[0] = 'train.py'; from mpt.cli.main import main; main()"
    return python(lab, code, *words, path=path)


def commands_of_the_page() -> list[str]:
    return [line for line in PAGE.splitlines() if line.startswith("python train.py ")]


@pytest.mark.slow
@pytest.mark.parametrize("line", commands_of_the_page())
def test_commands_of_the_page_run_as_printed(line: str, lab: Path) -> None:
    """A method, a metric, a callback and a reader take part, alone and in a fused sweep beside one that ships."""
    made = command(lab, *shlex.split(line)[2:], *SMALL, "output_root=page")
    assert made.returncode == 0, made.stderr
    folders = [path.parent for path in (lab / "page").rglob("metrics.json")]
    configs = {folder: yaml.safe_load((folder / "config.yaml").read_text()) for folder in folders}
    scaled = [folder for folder in folders if configs[folder]["method"]["name"] == "lab_scaled"]
    assert scaled
    for folder in scaled:
        metrics = read_metrics(folder)
        lines = [json.loads(text) for text in (folder / "predictions" / "parity.jsonl").open()]
        right = [each["prediction"][:1] == each["references"][0][:1] for each in lines]
        assert metrics["test"]["parity"]["lab_first_letter"] == pytest.approx(sum(right) / len(right))
        assert metrics["test"]["parity"]["n_available"] == 12  # rows.options reached the reader
        assert configs[folder]["prompt"]["num_virtual_tokens"] == 4  # of the method's own defaults, with no YAML
        if "callbacks=" in line:
            assert json.loads((folder / "steps.json").read_text()) == 3


@pytest.mark.slow
def test_installed_package_needs_no_naming_and_is_imported_only_when_asked_for(lab: Path) -> None:
    words = (
        "--config-dir",
        "mine",
        "task=target",
        "+tasks=[parity]",
        "few_shot.k=4",
        *SMALL,
        "output_root=installed_runs",
    )
    made = command(lab, *words, "method=lab_scaled", "callbacks=[lab_steps]", path=lab / "installed")
    assert made.returncode == 0, made.stderr
    run = next((lab / "installed_runs").rglob("metrics.json")).parent
    code = (
        "import sys, mpt, mpt.methods; list(mpt.methods.METHODS); print('my_lab.prompts' in sys.modules);"
        "print(type(mpt.PromptedModel.load(sys.argv[1]).adapter).__name__)"
    )
    loaded = python(lab, code, str(run), path=lab / "installed")
    assert loaded.stdout.split() == ["False", "Scaled"], loaded.stderr
    # What was saved runs no code: without the package, the method is named as missing.
    refused = python(lab, code, str(run))
    assert "the method 'lab_scaled' is not known here; name the module that brings it in plugins=" in refused.stderr


def test_experiment_and_study_name_plugins(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lab)
    assert run_cli(monkeypatch, "--config-dir", "mine", "experiment=lab", *SMALL, "output_root=experiment") == 0
    assert len(list((lab / "experiment").rglob("metrics.json"))) == 1
    (lab / "study.yaml").write_text(
        "question: Does a number help?\nplugins: [my_lab.prompts]\nconfig_dir: [mine]\n"
        f"common: [few_shot.k=4, {', '.join(SMALL)}, evaluation.validate_every=3]\n"
        "targets: [parity]\ndraws: 2\nmethods:\n"
        "  ours: {overrides: [method=lab_scaled]}\n  plain: {overrides: [prompt=plain, prompt.init=VOCABULARY]}\n"
        "compare: [[ours, plain]]\n"
    )
    assert study.main(["study.yaml"]) == 0
    cells = [json.loads(line) for line in (lab / "results" / "cells.jsonl").open()]
    assert len(cells) == 4
    assert all("error" not in cell or not cell["error"] for cell in cells)


def test_plugin_that_another_file_names_is_refused_and_not_imported(lab: Path) -> None:
    folder = lab / "theirs" / "backbone"
    folder.mkdir(parents=True)
    (folder / "odd.yaml").write_text("# @package _global_\nplugins: [my_lab.broken]\nbackbone:\n  name: tiny\n")
    refused = command(lab, "--config-dir", "theirs", "task=source", "+tasks=[sum]", "backbone=odd")
    assert refused.returncode == 2
    assert (
        "plugins: my_lab.broken is named where nothing is imported from; name it on the command line" in refused.stderr
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("plugins=[my_lab.broken]",), "error: plugins: my_lab.broken cannot be imported (ZeroDivisionError: "),
        (("plugins=[my_lab.missing]",), "error: plugins: my_lab.missing cannot be imported (ModuleNotFoundError: "),
        (("plugins=[my-lab]",), "error: plugins: 'my-lab' is no module; write it as Python imports it"),
        (("-m", "plugins=my_lab.prompts,os"), "plugins are imported once, for all jobs; write plugins=[a,b]"),
        (("plugins=[my_lab.twice]",), "mpt.metrics: 'accuracy' is entered by mpt.metrics.exact.accuracy, and again by"),
        (("method=lab_other",), "method: unknown 'lab_other'; choose one of adept, "),
        (("callbacks=[lab_other]",), "callbacks: unknown 'lab_other'; there are none, or name the module that brings"),
    ],
)
def test_plugin_that_fails_is_named(words: tuple[str, ...], message: str, lab: Path) -> None:
    (lab / "my_lab" / "broken.py").write_text("1 / 0\n")
    (lab / "my_lab" / "twice.py").write_text(
        "import mpt\n\n@mpt.metric()\ndef accuracy(predictions, references, rules):\n    return {'accuracy': 1.0}\n"
    )
    refused = command(lab, "task=target", "+tasks=[sum]", *words)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr


def test_reader_that_fails_or_gives_no_rows_is_named() -> None:
    from mpt.tasks.readers import read_own

    def fail(split: str, path: str = "there") -> list[dict[str, str]]:
        raise OSError(f"no {path}")

    def lists(split: str) -> Any:
        return [["a"]]

    mpt.reader("test_fails")(fail)
    mpt.reader("test_lists")(lists)

    with pytest.raises(
        UserError, match=r"tasks.x.rows.reader: the reader 'test_fails' failed on 'train' \(OSError: no y"
    ):
        list(read_own("test_fails", "train", {"path": "y"}, "tasks.x.rows.reader"))
    with pytest.raises(UserError, match=r"failed on 'train' \(TypeError: .*unexpected keyword argument 'other'"):
        list(read_own("test_fails", "train", {"other": "y"}, "tasks.x.rows.reader"))
    with pytest.raises(UserError, match="reader test_lists, test row 0: is a list; a row is a mapping"):
        list(read_own("test_lists", "test", {}, "tasks.x.rows.reader"))


def test_defined_again_takes_the_place_of_the_old_one_and_another_of_that_name_is_refused() -> None:
    registry: Registry[int] = Registry("part", "mpt.parts")

    def make() -> object:
        def part() -> None: ...

        return part

    registry.enter("a", 1, make())
    registry.enter("a", 2, make())  # the same cell of a notebook, run again
    assert registry["a"] == 2

    def other() -> None: ...

    with pytest.raises(UserError, match=r"mpt.parts: 'a' is entered by .*part, and again by .*other; rename one"):
        registry.enter("a", 3, other)
    assert list(registry) == ["a"]
    assert "b" not in registry
    with pytest.raises(KeyError):
        registry["b"]


def test_packages_that_offer_one_name_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("x", "one.module", "mpt.parts"), EntryPoint("x", "two.module", "mpt.parts")]
    monkeypatch.setattr("mpt.registry.points_of", lambda group, path: points)
    registry: Registry[int] = Registry("part", "mpt.parts")
    with pytest.raises(UserError, match=r"the part 'x' of package .* has the name of one of package"):
        list(registry)
    monkeypatch.setattr("mpt.registry.points_of", lambda group, path: points[:1])
    shipped: Registry[int] = Registry("part", "mpt.parts", {"x": "mpt.errors"})
    with pytest.raises(UserError, match="has the name of one of mpt itself"):
        list(shipped)
    monkeypatch.setattr("mpt.registry.points_of", lambda group, path: [EntryPoint("y", "json", "mpt.parts")])
    with pytest.raises(UserError, match=r"json of package .* enters no part 'y'; decorate it"):
        registry["y"]
