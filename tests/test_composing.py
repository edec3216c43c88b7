"""Configurations that are composed faster are those that Hydra composes by itself."""

from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import OmegaConf

from mpt.cli.compose import CONF, register_schema
from mpt.cli.composing import ConfigLoader, compose_faster, gather
from mpt.cli.many import open_jobs

register_schema()


def loaders(folder: Path | None = None) -> list[ConfigLoaderImpl]:
    """Return Hydra's own loader and ours, over the same choices."""
    found = []
    for kind in (ConfigLoaderImpl, ConfigLoader):
        path = create_config_search_path(str(CONF))
        if folder:
            path.prepend("command-line", f"file://{folder}")
        found.append(kind(path))
    return found


@pytest.fixture
def own_tasks(tmp_path):
    """A folder with a task of the user's, one that is not in the package of its name, and a broken one."""
    (tmp_path / "tasks" / "lab").mkdir(parents=True)
    (tmp_path / "tasks" / "mine.yaml").write_text("# @package tasks.mine\ninput: '{a}'\ntarget: '{b}'\nweight: 2\n")
    (tmp_path / "tasks" / "more.yaml").write_text("# @package tasks.mine\nweight: 3\nprefix: more\n")
    (tmp_path / "tasks" / "wrong.yaml").write_text("# @package tasks.wrong\nweight: [1]\n")
    return tmp_path


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["tasks=[mt]", "task=target", "few_shot.k=4"],
        ["tasks=[sum,mt,dlg]", "tasks.mt.weight=2", "prompt=residual", "tasks.sum.max_source_tokens=20"],
        ["tasks=[mt,sum]", "experiment=demo_source"],
        ["tasks=[sum,mine,mt]"],
        ["tasks=[mine,sum,more,mt]"],
        ["tasks=[mine,more]", "tasks.mine.prefix=other", "~tasks.mine"],
    ],
)
def test_the_same_is_composed(overrides, own_tasks):
    slow, fast = loaders(own_tasks)
    wanted = slow.load_configuration("train", list(overrides), RunMode.RUN)
    for _ in range(2):  # from the files, and from what is kept
        found = fast.load_configuration("train", list(overrides), RunMode.RUN)
        assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(wanted)
        assert {name: OmegaConf.get_type(found.tasks[name]) for name in found.tasks} == {
            name: OmegaConf.get_type(wanted.tasks[name]) for name in wanted.tasks
        }
    assert list(found.tasks) == list(wanted.tasks)


def test_jobs_do_not_change_each_other():
    _, fast = loaders()
    first = fast.load_configuration("train", ["tasks=[mt]", "tasks.mt.weight=5", "seed=3"], RunMode.RUN)
    second = fast.load_configuration("train", ["tasks=[mt]"], RunMode.RUN)
    assert (first.tasks.mt.weight, first.seed, second.tasks.mt.weight, second.seed) == (5, 3, 1, 0)


def test_a_mistake_is_said_of_its_own_file(own_tasks):
    messages = []
    for loader in loaders(own_tasks):
        with pytest.raises(ConfigCompositionException) as error:
            loader.load_configuration("train", ["tasks=[mt,sum,wrong]"], RunMode.RUN)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert "tasks/wrong" in messages[0]


def test_files_are_merged_at_once_where_they_set_a_task_each(own_tasks):
    _, loader = loaders(own_tasks)
    overrides = ["tasks=[sum,mine,more,mt]"]
    defaults = loader.compute_defaults_list("train", overrides, RunMode.RUN).defaults
    firsts, together = gather(defaults)
    assert {path: [each.config_path for each in found] for path, found in together.items()} == {
        "tasks/sum": ["tasks/mine"],  # more sets the keys of mine again, so it comes after,
        "tasks/mt": [],  # and mt after it
    }
    assert len(firsts) == len(defaults) - 1


def test_programs_compose_so_and_keep_their_own_hydra():
    from hydra._internal import hydra as hydra_module

    before = vars(hydra_module)["ConfigLoaderImpl"]
    with open_jobs() as jobs:
        assert type(jobs.hydra.config_loader) is ConfigLoader
    assert vars(hydra_module)["ConfigLoaderImpl"] is before


def test_the_command_composes_so(monkeypatch):
    from hydra._internal import hydra as hydra_module

    monkeypatch.setattr(hydra_module, "ConfigLoaderImpl", ConfigLoaderImpl)
    compose_faster()
    path = create_config_search_path(str(CONF))
    assert type(hydra_module.Hydra.create_main_hydra2("mpt", path).config_loader) is ConfigLoader
    GlobalHydra.instance().clear()
