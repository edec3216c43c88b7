"""The card of a trained prompt: what it is, what it was trained on, how it scores, how to use it."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mpt.artifact import SavedPrompt, load_prompt
from mpt.atomic import check_file_replaceable, write_atomically
from mpt.run.folder import RunFolder, read_config
from mpt.run.record import read_metrics

USE = """```python
from mpt import PromptedModel

model = PromptedModel.load("{where}")
model.generate(["..."], tasks="{task}")
```
It is a PEFT adapter as well: `PeftModel.from_pretrained(backbone, ...)`, then `generate(..., task_ids=...)`; task i is
the i-th of the table."""


def write_card(source: Path, path: Path, name: str | None = None) -> None:
    """Write a model card for the prompt of a run, or of a folder by itself, which then has no scores.

    Args:
        source: A run folder or a prompt folder.
        path: The file, such as ``README.md``.
        name: What the prompt is called; None: its folder's name.

    Raises:
        FileNotFoundError: There is no saved prompt.
        ValueError: It is damaged.
    """
    check_file_replaceable(path, b"multitask-prompt-tuning", "a card")
    saved = load_prompt(source)
    run = source if RunFolder(source).config.is_file() else source.parent
    config, about = read_config(run) or ({}, {})
    metrics = read_metrics(run) or {}
    with write_atomically(path) as temporary:
        temporary.write_text(_card(saved, config, about, metrics, name or run.name), encoding="utf-8")


def _card(saved: SavedPrompt, config: dict[str, Any], about: dict[str, Any], metrics: dict[str, Any], name: str) -> str:
    prompt, tasks = saved.prompt, config.get("tasks", {})
    backbone = saved.backbone["name"]
    if Path(backbone).is_absolute() or backbone.endswith(".gguf"):
        backbone = Path(backbone).name  # where it lies on this machine is nobody's business
    tests = {task: metrics.get("test", {}).get(task, {}) for task in saved.task_names}
    data = ModelCardData(
        base_model=backbone or None,
        library_name="peft",
        tags=["multitask-prompt-tuning", "prompt-tuning", "mpt"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="text2text-generation",
                dataset_type=_data_of(tasks.get(task, {})) or task,
                dataset_name=task,
                metric_type=metrics["metric"][task],
                metric_value=test["score"],
            )
            for task, test in tests.items()
            if "score" in test
        ]
        or None,
    )
    T, N, R, D = prompt.shape
    size = prompt.count_parameters()
    lines = [
        f"# {name}",
        "A multitask soft prompt (Wang et al., ICLR 2023, [arXiv 2303.02861](https://arxiv.org/abs/2303.02861)): one "
        "prompt that all tasks share and low-rank factors of each, before the inputs of a frozen model.",
        "",
        f"- backbone: {backbone or 'not recorded'}, fingerprint `{saved.backbone['fingerprint'] or 'not recorded'}`",
        f"- form {prompt.config.form}, {N} virtual tokens of width {D}, rank {R}, {T} tasks",
        f"- {size.total:,} parameters: {size.shared:,} shared, {size.per_task:,} for each task",
        "",
        "| task | λ | data | metric | score | before | oracle | n |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task, test in tests.items():
        scores = [f"{test[key]:.3f}" if key in test else "–" for key in ("score", "before", "oracle")]
        cells = [task, f"{saved.task_weights[task]:g}", _data_of(tasks.get(task, {})) or "not recorded"]
        cells += [metrics.get("metric", {}).get(task, "–"), *scores, str(test.get("n", "–"))]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Scores are of test rows; *before* is the prompt as it started, *oracle* the backbone without it, behind an "
        "instruction.",
        "",
        "## Use",
        USE.format(where="FOLDER", task=saved.task_names[0]),
    ]
    if about:
        versions = ", ".join(f"{library} {version}" for library, version in about["versions"].items())
        lines += [
            "",
            "## Training",
            f"Command: `{about['command']}`",
            f"\nVersions: {versions}; revision {about['git'] or 'not recorded'}; started {about['started']}.",
        ]
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n")
    return str(card.content)


def _data_of(task: dict[str, Any]) -> str:
    """Describe the origin of a task's rows in a few words."""
    rows = task.get("rows", {})
    if rows.get("hub"):
        return str(rows["hub"]) + (f" ({rows['subset']})" if rows.get("subset") else "")
    if rows.get("world"):
        return f"embedded world, {rows['world']}"
    return Path(rows["files"]).name if rows.get("files") else ""
