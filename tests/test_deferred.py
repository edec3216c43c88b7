"""What a run loads: what is put off stays out of it, is whole when it is used, and is worth the trouble."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STARTS = """
import json, sys
sys.argv = ["train.py", *{arguments!r}]
from mpt.cli.main import main
main()
print("\\n" + json.dumps(sorted(sys.modules)))
"""
RUN = [
    "task=target", "tasks=[mt]", "few_shot.k=4", "prompt.init=VOCABULARY", "logger=csv", "trainer.max_steps=1",
    "trainer.progress_bar=false", "trainer.accelerator=cpu", "evaluation.test_rows=4", "evaluation.validation_rows=4",
    "evaluation.validate_every=1",
]  # fmt: skip
UNUSED = {
    "torchmetrics.functional", "torchmetrics.text", "matplotlib", "scipy.signal", "scipy.optimize._minimize",
    "scipy.stats", "torch._dynamo.symbolic_convert", "torch._inductor", "wandb",
    "nltk", "sklearn", "pandas", "datasets", "altair",
}  # fmt: skip
"""Modules that cost much to import, and that a run of the default backbone with logger=csv does without."""


def python(code: str) -> str:
    """Run Python code in a process of its own, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(*arguments: str) -> set[str]:
    """List the modules that a command has loaded at its end."""
    return set(json.loads(python(STARTS.format(arguments=list(arguments))).splitlines()[-1]))


def test_a_run_loads_what_it_uses(tmp_path):
    loaded = loaded_by(*RUN, f"hydra.run.dir={tmp_path / 'run'}")
    assert sorted(UNUSED & loaded) == []
    assert len(loaded) < 3600  # 3,150 with the pinned versions; 4,700 before

    (tmp_path / "inputs.jsonl").write_text('{"task": "mt", "input": "translate: a b"}\n')
    answered = loaded_by("task=predict", f"source={tmp_path / 'run'}", f"predict.input={tmp_path / 'inputs.jsonl'}")
    assert sorted({"lightning", "torchmetrics", *UNUSED} & answered) == []


@pytest.mark.parametrize(
    ("importer", "loads"),
    [
        ("lightning.pytorch", ["torchmetrics.functional", "scipy.signal", "torch._dynamo.symbolic_convert"]),
        ("torchmetrics.metric", ["matplotlib.axes"]),
        ("transformers.modeling_utils", ["scipy.optimize._minimize"]),
    ],
)
def test_it_is_still_needed(importer, loads):
    """Where this fails, something is imported no longer, and its row in ``mpt/deferred.py`` can go."""
    missing = python(f"import sys, {importer}; print([name for name in {loads} if name not in sys.modules])")
    assert missing == "[]\n"


def test_what_is_put_off_is_there_when_it_is_used():
    assert python("""
from mpt.deferred import defer
defer()
import sys, torch, lightning.pytorch
from lightning.pytorch.core import module as lightning_module
from lightning.fabric import wrappers
parameter = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.Adam([parameter])
parameter.sum().backward()
optimizer.step()
optimizer.zero_grad()
print("torch._dynamo.eval_frame" in sys.modules, "torchmetrics.classification" in sys.modules)
compiled = torch.compile(torch.nn.Linear(2, 2), backend="eager")
print(compiled(torch.ones(2)).shape, isinstance(compiled, wrappers.OptimizedModule))
print(isinstance(torch.nn.Linear(2, 2), wrappers.OptimizedModule), torch._dynamo.__name__)
parameter.sum().backward()
optimizer.step()
import torchmetrics
print(torchmetrics.__version__.split(".")[0], hasattr(torchmetrics, "__wrapped__"))
accuracy = torchmetrics.Accuracy(task="binary")
print(isinstance(accuracy, lightning_module.Metric), torchmetrics.Metric is lightning_module.Metric)
accuracy.update(torch.tensor([1, 0]), torch.tensor([1, 1]))
print(float(accuracy.compute()), type(accuracy.plot()[0]).__name__)
from scipy.optimize import minimize_scalar
print(round(float(minimize_scalar(lambda x: (x - 3) ** 2).x), 6))
""").splitlines() == [
        "False False", "torch.Size([2]) True", "False torch._dynamo", "1 False", "True True", "0.5 Figure", "3.0",
    ]  # fmt: skip


def test_a_function_hidden_from_the_compiler_before_it_was_there_is_hidden():
    assert (
        python("""
from mpt.deferred import defer
defer()
import torch

@torch.compiler.disable(recursive=False)
def hidden(x):
    return x + 1 if not torch.compiler.is_compiling() else x - 1

def in_parts(x):
    return hidden(x) * 2

def whole(x):
    return hidden(x) * 3

print(float(hidden(torch.tensor(1.0))), float(torch.compile(in_parts, backend="eager")(torch.tensor(1.0))))
try:
    torch.compile(whole, backend="eager", fullgraph=True)(torch.tensor(1.0))
except torch._dynamo.exc.Unsupported:
    print("hidden")
""")
        == "2.0 4.0\nhidden\n"
    )


def test_a_module_of_a_package_that_was_put_off_is_imported_once():
    assert (
        python("""
from mpt.deferred import defer
defer()
import sys, torch, lightning.pytorch
import torch._dynamo.eval_frame as eval_frame
import torch._dynamo
print(torch._dynamo.eval_frame is eval_frame is sys.modules["torch._dynamo.eval_frame"])
print(torch._dynamo.OptimizedModule is eval_frame.OptimizedModule, eval_frame.__spec__.loader.__class__.__name__)
""")
        == "True\nTrue SourceFileLoader\n"
    )
