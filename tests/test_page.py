"""The page of a study: what it says in plain text, and in a real browser its charts, sorting, search and silence.

The browser is Chromium with its driver, from the system's packages; ``MPT_TEST_BROWSER=required`` makes its absence a
failure, as in ``.ci/run``.
"""

import base64
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpt.report.__main__ import main
from mpt.run.record import write_csv, write_lines
from mpt.sweep.sweep_record import Outcome
from tests.test_report import write_run

SCRIPT = "<script>document.title='broken'</script>"
HOSTILE = SCRIPT + "<img src=x onerror=\"document.title='broken'\"> </script> {{ 7 * 7 }}"
METHODS = {"fresh": "VOCABULARY", "average": "AVERAGE_SOURCE_TASKS"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two starts at three k and six draws; a run with a heat map; a job that failed, and a run that is not finished."""
    folder = tmp_path_factory.mktemp("study")
    for name, init in METHODS.items():
        for k in (4, 16, 64):
            for seed in range(6):
                run = folder / f"{name}-{k}-{seed}"
                score = 0.1 + k / 100 + 0.02 * seed + (0.05 if name == "average" else 0.0)
                scores = {"a": score, "b": min(1.0, score + 0.1)}
                few_shot = {"k": k, "seed": seed}
                write_run(run, scores, prompt={"init": init}, few_shot=few_shot, seed=seed, stage="target")
                for task in scores:
                    write_lines(run / "predictions" / f"{task}.jsonl", predictions(task, seed))
    write_csv(folder / "fresh-4-0" / "similarity.csv", ["task", "a", "b"], [["a", 1, -0.25], ["b", -0.25, 1]])
    (folder / "average-64-5" / "metrics.json").unlink()
    failed = Outcome(3, str(folder / "failed"), ["optim.lr_prompt=1e9"], error=f"loss is NaN {HOSTILE}")
    write_lines(folder / "sweeps" / "seed=0,1-3f2a9c.jsonl", [failed.__dict__])
    return folder


def predictions(task: str, seed: int) -> list[dict[str, Any]]:
    return [
        {"row_id": "test:0", "input": f"{HOSTILE} of {task}", "references": ["right", "correct"],
         "prediction": "right", "scores": {"exact_match": 1.0}},
        {"row_id": "test:1", "input": f"a zebra {seed}", "references": ["right"], "prediction": "wrong\nline",
         "scores": {"exact_match": 0.0}},
    ]  # fmt: skip


@pytest.fixture(scope="module")
def page(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "new" / "study.html"
    labels = ["--label", "VOCABULARY=no source", "--label", "a=Task A"]
    assert main([str(study), "--html", str(path), "--title", HOSTILE, *labels]) == 0
    return path


def test_a_page_is_one_file_that_fetches_nothing(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 2_500_000
    without_bundle = re.sub(r'<script id="vega">.*?</script>', "", text, flags=re.DOTALL)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", without_bundle)
    assert text.count("<script") == text.count('<script type="application/json"') + 2  # Vega once, and the page's own
    assert "default-src 'none'" in text


def test_hostile_text_stays_text(page: Path) -> None:
    text = re.sub(r'<script id="vega">.*?</script>', "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert "<script>document.title" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;document.title=" in text
    assert "{{ 7 * 7 }}" in text


def test_charts_are_of_the_numbers_in_the_table(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    spec = json.loads(
        re.search(r'<script type="application/json" id="over-labeled-0">(.*?)</script>', text, re.DOTALL)[1]
    )
    (points,) = {json.dumps(values) for values in find_values(spec)}
    found = {(point["method"], point["at"]): point for point in json.loads(points)}
    # 0.1 + 4 / 100 + 0.02 * (0 + ... + 5) / 6; sd of six steps of 0.02; t(5) = 2.570582
    assert found["no source", 4]["mean"] == pytest.approx(0.19)
    half = 2.570582 * 0.0374166 / 6**0.5
    assert found["no source", 4]["low"] == pytest.approx(0.19 - half, abs=1e-5)
    assert found["AVERAGE_SOURCE_TASKS", 64]["runs"] == 5
    # Points that do not hide each other stand at their value.
    assert found["no source", 4]["x"] == found["AVERAGE_SOURCE_TASKS", 4]["x"] == 4
    assert all(0 <= point["low"] <= point["mean"] <= point["high"] <= 1 for point in found.values())


def find_values(spec: Any) -> Iterator[list[dict[str, Any]]]:
    if isinstance(spec, dict):
        if isinstance(spec.get("values"), list) and spec["values"] and isinstance(spec["values"][0], dict):
            yield spec["values"]
        for each in spec.values():
            yield from find_values(each)
    elif isinstance(spec, list):
        for each in spec:
            yield from find_values(each)


def test_runs_of_several_versions_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, version in (("old", "0.1.0"), ("new", "0.2.0")):
        write_run(tmp_path / name, {"a": 0.5}, seed=len(name) + (name == "new"), versions={"mpt": version})
    assert main([str(tmp_path), "--html", str(tmp_path / "page.html")]) == 0
    assert "of different versions: 0.1.0; 0.2.0" in capsys.readouterr().out
    assert "These runs are of 2 versions: 0.1.0; 0.2.0." in (tmp_path / "page.html").read_text()


def test_a_damaged_prediction_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run", {"a": 0.5})
    write_lines(tmp_path / "run" / "predictions" / "a.jsonl", [{"input": "no row"}])
    assert main([str(tmp_path), "--html", str(tmp_path / "page.html")]) == 2
    assert "predictions/a.jsonl:1: not a prediction" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("predictions/a.jsonl", b"[1]\n", "predictions/a.jsonl:1: not a prediction"),
        ("metrics.csv", b"\xff\xfe", "metrics.csv: damaged ("),
        ("metrics.csv", b"step,validation/a/score\n1,high\n", "metrics.csv: damaged ("),
        ("similarity.csv", b"task,a,b\na,1\n", "similarity.csv: damaged (1 rows for 2 tasks)"),
    ],
)
def test_a_damaged_file_of_a_run_is_refused(
    tmp_path: Path, capsys: Any, name: str, content: bytes, message: str
) -> None:
    write_run(tmp_path / "run", {"a": 0.5})
    (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "run" / name).write_bytes(content)
    assert main([str(tmp_path), "--html", str(tmp_path / "page.html")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not found or not driver:
        if os.environ.get("MPT_TEST_BROWSER") == "required":
            pytest.fail("no Chromium with its driver, and MPT_TEST_BROWSER=required")
        pytest.skip("no Chromium with its driver; apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.binary_location = found
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(params=[(1200, "light"), (390, "dark")], ids=["desk", "phone"])
def opened(browser: Any, page: Path, request: pytest.FixtureRequest) -> Any:
    width, scheme = request.param
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(page.as_uri())
    browser.execute_async_script("Promise.all(charts.map(draw)).then(() => arguments[0]())")
    return browser


def test_page_opens_without_an_error_and_draws_every_chart(opened: Any) -> None:
    assert opened.get_log("browser") == []
    assert opened.title == HOSTILE
    # A mark without a color is there and cannot be seen.
    marks = opened.execute_script(
        "const shapes = '.role-mark path, .role-mark line, .role-mark rect';const paints = (shape) => ['fill', "
        "'stroke'].map((name) => shape.getAttribute(name));const seen = (paint) => paint && !['none', "
        "'transparent'].includes(paint);const count = (place) => [...place.querySelectorAll(shapes)].filter((shape) "
        "=> paints(shape).some(seen));return charts.map((place) => count(place).length)"
    )
    assert len(marks) >= 2 + 6 + 1
    assert all(count > 0 for count in marks)
    assert opened.execute_script("return document.querySelectorAll('.chart.failed').length") == 0
    # The page itself never scrolls sideways; wide tables do so inside their frames.
    assert opened.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


def test_page_is_dark_where_the_system_is_and_on_demand(opened: Any) -> None:
    background = "return getComputedStyle(document.body).backgroundColor"
    system_is_dark = opened.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches")
    before = opened.execute_script(background)
    assert (before == "rgb(255, 255, 255)") is not system_is_dark
    opened.find_element("id", "theme").click()
    assert opened.execute_script(background) != before


def test_tables_sort_by_number_and_by_text(opened: Any) -> None:
    column = "return [...document.querySelectorAll('#results-table tbody tr')].map((row) => row.cells[{}].textContent)"
    heading = "document.querySelectorAll('#results-table th button')[{}].click()"
    for index, key in ((3, float), (0, str.lower)):
        opened.execute_script(heading.format(index))
        values = [key(text) for text in opened.execute_script(column.format(index))]
        assert values == sorted(values)
        opened.execute_script(heading.format(index))
        assert [key(text) for text in opened.execute_script(column.format(index))] == values[::-1]


def test_answers_are_searched_and_filtered(opened: Any) -> None:
    from selenium.webdriver.support.ui import Select

    shown = "return [...document.querySelectorAll('#answers-table tbody tr')].filter((row) => !row.hidden).length"
    everything = 35 * 2 * 2
    assert opened.execute_script(shown) == everything
    search = opened.find_element("id", "search")
    search.send_keys("ZEBRA")
    assert opened.execute_script(shown) == everything / 2
    search.clear()
    search.send_keys("<script>")
    assert opened.execute_script(shown) == everything / 2
    Select(opened.find_element("id", "task")).select_by_visible_text("Task A")
    assert opened.execute_script(shown) == everything / 4
    assert opened.find_element("id", "found").text == "35 of 140"
    opened.find_element("id", "wrong").click()
    assert opened.execute_script(shown) == 0
    search.clear()
    search.send_keys(" ")
    assert opened.execute_script(shown) == everything / 4


def test_differences_are_to_the_base_that_is_chosen(opened: Any) -> None:
    from selenium.webdriver.support.ui import Select

    read = (
        "return [...document.querySelectorAll('.difference:not([hidden]) tbody tr')]"
        ".map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    base = Select(opened.find_element("id", "base"))
    base.select_by_visible_text("no source")
    rows = opened.execute_script(read)
    assert ["Task A", "4", "AVERAGE_SOURCE_TASKS", "+0.050", "all equal", "6", "10", "–", "all equal", "–"] in rows
    assert [
        "Task A",
        "64",
        "AVERAGE_SOURCE_TASKS",
        "+0.050",
        "all equal",
        "5",
        "10",
        "–",
        "fewer than 6 pairs",
        "–",
    ] in rows
    base.select_by_visible_text("AVERAGE_SOURCE_TASKS")
    assert [
        "Task A",
        "4",
        "no source",
        "-0.050",
        "all equal",
        "6",
        "10",
        "–",
        "all equal",
        "–",
    ] in opened.execute_script(read)


def test_failed_and_unfinished_runs_are_named(opened: Any) -> None:
    text = opened.find_element("id", "failed").text
    assert "optim.lr_prompt=1e9" in text
    assert "loss is NaN <script>" in text
    assert "average-64-5" in text


def test_page_prints_with_all_its_charts(opened: Any) -> None:
    printed = base64.b64decode(opened.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert printed.startswith(b"%PDF")
    assert len(printed) > 20_000
