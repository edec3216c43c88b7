"""The README and its neighbors: links lead somewhere, targets exist, commands and Python blocks run as printed."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import hydra
import pytest
import yaml

from mpt.cli import help
from mpt.cli import main as cli
from mpt.cli.check import check
from mpt.cli.compose import CONF, compose_shipped, register_schema, typed
from mpt.cli.hydra_versions import VERSION_BASE

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
TEXTS = sorted(path for path in ROOT.rglob("*.md") if not {".venv", "runs", "site"} & set(path.parts))
SMALL = [
    "trainer.max_steps=2", "evaluation.validate_every=2", "evaluation.validation_rows=4", "evaluation.test_rows=4",
    "evaluation.before=false", "evaluation.oracle=false", "logger=csv", "trainer=cpu", "trainer.threads=1",
    "trainer.progress_bar=false", "hydra/job_logging=none", "hydra/hydra_logging=none",
]  # fmt: skip
SOURCE = "python train.py task=source '+tasks=[sum,mt,dlg]'"
TARGET = "python train.py task=target source=RUN_FOLDER '+tasks=[reply_polite]'"


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks that name a language, in order, as (language, content)."""
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands_of_the_tables() -> list[str]:
    """Every command in backticks in a table row, with what its first word stands for."""
    found = []
    for line in [*README.splitlines(), *COMMANDS.splitlines()]:
        if line.startswith("|"):
            for command in re.findall(r"`([^`]*)`", line):
                if command.startswith(("python train.py ", "... ", "TARGET ")):
                    found.append(re.sub(r"^\.\.\.", SOURCE, re.sub("^TARGET", TARGET, command)))
    return found


def headings_of(path: Path) -> set[str]:
    """The anchors that a page's headings make."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        place, _, anchor = link.partition("#")
        target = path.parent / place if place else path
        assert target.exists(), link
        assert not anchor or anchor in headings_of(target), link


def test_every_target_of_make_that_a_text_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    sources = [*TEXTS, *ROOT.glob("mpt/**/*.py"), *ROOT.glob("experiments/**/*.py"), *ROOT.glob("conf/**/*.yaml")]
    for path in sources:
        for named in re.findall(r"(?:`|^)make ([a-z-]+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert named in targets, f"{path}: make {named}"


def test_the_tables_have_commands() -> None:
    assert len(commands_of_the_tables()) > 30


@pytest.mark.parametrize("command", commands_of_the_tables())
def test_a_command_of_a_table_is_accepted(command: str, tmp_path: Path) -> None:
    words = shlex.split(command)[2:]
    overrides = [text for text in words if text not in ("-m", "--help") and not text.startswith("hydra/")]
    if not overrides or overrides[0] in ("tasks=list", "tasks=new", "tasks=show"):
        return
    # A sweep is its first job here; a run folder is one that is there.
    swept = {
        "prompt.init=AVERAGE_SOURCE_TASKS,VOCABULARY": "prompt.init=VOCABULARY",
        "few_shot.k=4,16": "few_shot.k=4",
        "seed=0,1,2": "seed=0",
        "seeds.order=0,1,2": "seeds.order=0",
    }
    overrides = [swept.get(text, text).replace("RUN_FOLDER", str(tmp_path)) for text in overrides]
    register_schema()
    with hydra.initialize_config_dir(str(CONF), **VERSION_BASE):
        config = typed(hydra.compose("train", overrides))
    assert check(config) == []


def test_every_command_of_the_exchange_page_is_accepted() -> None:
    from mpt.export.exporting import parse_arguments

    page = (ROOT / "docs" / "exchange.md").read_text(encoding="utf-8")
    commands = re.findall(r"`python -m mpt\.export ([^`]*)`", page)
    assert len(commands) >= 8
    for command in commands:
        words = shlex.split(command)
        if words != ["--help"]:
            assert parse_arguments(words).command == words[0]


@pytest.mark.slow
def test_blocks_run_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tickets = re.search(r"```python\n(.*?)```", TUTORIAL, re.DOTALL)  # the file that the README speaks of
    assert tickets
    exec(compile(tickets[1], "tutorial.md", "exec"), {})
    ran = run_blocks(README, monkeypatch)
    assert ran.count("bash") >= 4
    assert ran.count("python") >= 1
    assert Path("runs/target.html").is_file()
    assert "0 failed" in capsys.readouterr().out


@pytest.mark.slow
def test_tutorial_runs_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run_blocks(TUTORIAL, monkeypatch)
    assert ran == ["python", "bash", "bash", "bash", "python"]
    assert Path("runs/tickets.html").is_file()
    # The answers of the model and of the server are label words, whatever two steps have taught it.
    assert capsys.readouterr().out.strip().splitlines()[-1] in ("['clothes']", "['tools']")
    [command] = re.findall(r"^python -m mpt\.serve (.*)$", TUTORIAL, re.MULTILINE)
    [(path, body)] = re.findall(r"^curl http://127\.0\.0\.1:8000(\S+) .* -d '(.*)'$", TUTORIAL, re.MULTILINE)
    words = [sys.executable, "-W", "ignore", "-m", "mpt.serve", *shlex.split(command), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            address = server.stdout.readline().split()[1].removesuffix("/v1")
            asked = urllib.request.Request(address + path, body.encode(), {"Content-Type": "application/json"})
            with urllib.request.urlopen(asked) as response:
                assert json.load(response)["choices"][0]["text"] in ("clothes", "tools")
        finally:
            server.terminate()


def run_blocks(text: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run the Python and shell blocks of a page in order; their languages."""
    ran = []
    for language, content in blocks(text):
        if language == "python":
            exec(compile(content, "a page", "exec"), {"__name__": "page"})
        elif language == "bash":
            for line in content.splitlines():
                run_line(line, monkeypatch)
        ran.append(language)
    return ran


def run_line(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a line of a shell block in this process, shrunk to seconds."""
    words = shlex.split(line)
    if words[0] == "source":
        return
    if words[:2] == ["python", "-m"]:
        module = importlib.import_module(f"{words[2]}.__main__")
        assert module.main(words[3:]) == 0
        return
    assert words[:2] == ["python", "train.py"], line
    shrunk = [] if words[2] in ("tasks=new", "tasks=show") else SMALL
    monkeypatch.setattr(sys, "argv", [*words[1:], *shrunk])
    cli.main()


def test_reference_of_the_keys_is_that_of_the_schema() -> None:
    """Written by ``python train.py --help=markdown > docs/configuration.md``."""
    register_schema()
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == help.render_reference(compose_shipped([]))


def test_readme_is_short() -> None:
    assert len(README.splitlines()) < 200


def test_every_page_is_part_of_the_site_and_the_site_builds(tmp_path: Path) -> None:
    """Built with every warning an error: a link or an anchor that leads nowhere is one."""
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    named = {
        page
        for entry in config["nav"]
        for pages in entry.values()
        for page in ([pages] if isinstance(pages, str) else pages)
    }
    assert named == {path.name for path in (ROOT / "docs").glob("*.md")}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "tutorial" / "index.html").is_file()


def commands_of_the_blocks() -> list[tuple[str, str]]:
    """Every training command in a shell block of a page of docs/ that is not run as a whole, as (page, command)."""
    found = []
    for path in sorted((ROOT / "docs").glob("*.md")):
        if path.name not in ("tutorial.md", "plugins.md"):  # tests/test_plugins.py runs the latter
            for content in re.findall(r"^```\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
                lines = content.replace("\\\n", " ").splitlines()
                found += [(path.name, line) for line in lines if line.startswith("python train.py ")]
    return found


@pytest.mark.parametrize(("page", "command"), commands_of_the_blocks())
def test_a_command_of_a_page_is_accepted(page: str, command: str, tmp_path: Path) -> None:
    words = shlex.split(command, comments=True)[2:]
    if words[0].startswith("tasks="):
        assert words[0] in ("tasks=new", "tasks=show", "tasks=list")
        return
    folders = r"RUN_FOLDER|FOLDER|DATA|runs/[\w./+-]*"
    overrides = [re.sub(f"=({folders})$", f"={tmp_path}", text) for text in words if text != "-m"]
    # A sweep is its first job here.
    first = [
        re.sub(r"^(\+?[\w.]+=(?:\[[^\]]*\]|[^\[,]*)),.*$", r"\1", text)
        for text in overrides
        if not text.startswith("hydra")
    ]
    register_schema()
    with hydra.initialize_config_dir(str(CONF), **VERSION_BASE):
        config = typed(hydra.compose("train", first))
    assert check(config) == []


REPORTS = re.findall(
    r"^python -m mpt\.(report|dashboard) (.*)$", (ROOT / "docs" / "dashboards.md").read_text(), re.MULTILINE
)


@pytest.mark.parametrize(("module", "arguments"), REPORTS)
def test_commands_of_the_dashboards_page_run(
    module: str, arguments: str, source_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mpt import dashboard
    from mpt.report import __main__ as report

    words = shlex.split(arguments)
    monkeypatch.chdir(tmp_path)
    if module == "dashboard":
        assert dashboard.main([word for word in words if word not in ("--save", "--entity", "ME")]) == 0
        return
    names = {"reply_polite=polite reply": "one=polite reply", "few_shot.k": "task", "few_shot.k=k": "task=k"}
    words = [names.get(word, word).replace("runs/target", str(source_run)) for word in words]
    assert report.main(words) == 0
    assert list(tmp_path.glob("study.html")) or list(tmp_path.glob("paper/figure.pdf"))
