"""The project's own files: what the wheel carries, what is pinned, what make offers."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

import mpt
from mpt.config import RunConfig

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.lower().replace("_", "-").split("==") for line in lines if line and not line.startswith("#"))


def requirements():
    extras = PROJECT["project"]["optional-dependencies"]
    listed = [*PROJECT["project"]["dependencies"], *extras["dev"]]
    return [re.match(r"[\w.-]+", text).group().lower().replace("_", "-") for text in listed]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    place = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = place.glob("mpt-*.whl")
    return path


def test_wheel_carries_the_configuration_and_the_world(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"mpt/{path.relative_to(ROOT)}" in names
    for path in (ROOT / "mpt" / "world" / "tiny").iterdir():
        assert str(path.relative_to(ROOT)) in names
    assert "mpt/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any("/runs/" in name or name.startswith("tests/") for name in names)


def test_the_unpacked_wheel_runs_without_the_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "import sys; sys.argv = ['mpt', '--help']; from mpt.cli import main as cli; print(cli.CONF); cli.main()"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(tmp_path / "mpt" / "conf"))
    assert "backbone: flan-t5-base" in done.stdout


def test_every_dependency_is_pinned():
    assert set(requirements()) <= set(pins())


def test_what_is_pinned_is_what_is_installed():
    from importlib import metadata

    installed = {name: metadata.version(name).partition("+")[0] for name in requirements()}
    assert installed == {name: pins()[name] for name in requirements()}


def test_no_pin_names_a_place():
    text = (ROOT / "constraints.txt").read_text()
    assert not re.search(r"https?://|--index|--find-links|@|\+cpu|\+cu", text)


def test_make_prints_its_targets():
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^([a-z-]+) ", done, re.MULTILINE)
    assert {"help", "setup", "train", "test", "lint", "format", "clean"} <= set(targets)


def test_make_finds_the_folder_of_the_first_run():
    command = [sys.executable, "train.py", "experiment=demo_source", "--cfg", "all", "--package", "hydra.run.dir"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"runs/source/sum\+mt\+dlg[\w+]*-tiny-[0-9a-f]{6}\n", done)
    assert " ".join(command[1:]) in (ROOT / "Makefile").read_text()


def test_ci_runs_the_tests_then_lint():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.findall(r"^make (\w+)$", script.read_text(), re.MULTILINE) == ["test", "slow", "catalog", "lint"]


def test_no_public_name_is_that_of_a_module():
    modules = {path.stem for path in (ROOT / "mpt").glob("*.py")} | {path.name for path in (ROOT / "mpt").iterdir()}
    assert not set(mpt.PUBLIC) & modules
    for name in mpt.PUBLIC:
        assert getattr(mpt, name) is not None


def test_every_module_has_its_layer():
    (contract,) = PROJECT["tool"]["importlinter"]["contracts"]
    layers = {name.strip() for row in contract["layers"] for name in row.split("|")}
    modules = {path.stem for path in (ROOT / "mpt").glob("*.py")} | {
        path.parent.name for path in (ROOT / "mpt").glob("*/__init__.py")
    }
    assert layers == modules - {"__init__"}


def test_import_of_the_package_is_light():
    code = "import sys, mpt; print('torch' in sys.modules); mpt.MultitaskPromptEmbedding; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_first_lines_of_configurations_say_how_to_use_them():
    for path in (ROOT / "conf").glob("*/*.yaml"):
        head = path.read_text().splitlines()[:3]
        assert any(re.search(r"python train\.py", line) for line in head), path


def test_defaults_are_the_same_in_both_places():
    shipped = yaml.safe_load((ROOT / "conf" / "train.yaml").read_text())
    typed = OmegaConf.to_container(OmegaConf.structured(RunConfig))
    compared = 0

    def compare(values, defaults, path):
        nonlocal compared
        for key, value in values.items():
            if isinstance(value, dict):
                compare(value, defaults[key], f"{path}{key}.")
            elif not str(value).startswith("${"):
                assert defaults[key] == value, f"{path}{key}: conf/train.yaml and mpt/config.py differ"
                compared += 1

    for section in ("defaults", "hydra"):
        shipped.pop(section)
    compare(shipped, typed, "")
    assert compared > 30
