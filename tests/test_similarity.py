"""Similarity of tasks: cosines by hand, and losses that agree with each source task scored alone."""

from pathlib import Path

import pytest
import torch

from mpt.backbone import load_backbone
from mpt.config import BackboneConfig
from mpt.inputs import Inputs
from mpt.prompt import MultitaskPromptEmbedding, MultitaskPromptTuningConfig
from mpt.training.similarity import source_losses, source_weights, task_cosines, write_similarity


def prompt(form: str = "product", tasks: int = 3) -> MultitaskPromptEmbedding:
    torch.manual_seed(0)
    return MultitaskPromptEmbedding(
        MultitaskPromptTuningConfig(
            num_virtual_tokens=4, num_ranks=2, token_dim=32, num_tasks=tasks, form=form, factor_std=1.0
        )
    )


def test_cosines_are_those_of_w_and_not_of_its_factors() -> None:
    made = prompt()
    with torch.no_grad():
        made.prefix_task_cols[1], made.prefix_task_rows[1] = (-made.prefix_task_cols[0], -made.prefix_task_rows[0])
        made.prefix_task_cols[2], made.prefix_task_rows[2] = (2 * made.prefix_task_cols[0], -made.prefix_task_rows[0])
    expected = torch.tensor([[1.0, 1.0, -1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
    torch.testing.assert_close(task_cosines(made), expected)


@pytest.mark.parametrize("form", ["product", "residual", "independent"])
def test_cosines_agree_with_torch_pair_by_pair(form: str) -> None:
    made = prompt(form)
    W = made.prompts() if form == "independent" else made.prefix_task_cols @ made.prefix_task_rows
    found = task_cosines(made)
    for one in range(3):
        for other in range(3):
            pair = torch.nn.functional.cosine_similarity(W[one].flatten(), W[other].flatten(), dim=0)
            assert found[one, other] == pytest.approx(pair.item(), abs=1e-6)


@pytest.mark.parametrize("examples_at_once", [1, 4, 1000])
def test_losses_of_all_candidates_are_those_of_each_by_itself(tiny_t5_folder: Path, examples_at_once: int) -> None:
    backbone = load_backbone(BackboneConfig("tiny", path=str(tiny_t5_folder))).train()
    source = prompt()
    texts = ["anna found a hat", "ben", "the mill is red and the park is blue", "cake", "a dog and a drum"]
    batches = []
    for part in (texts[:3], texts[3:]):
        inputs = backbone.tokenizer(part, padding=True, return_tensors="pt")
        labels = backbone.tokenizer(part[::-1], padding=True, return_tensors="pt")
        targets = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)
        batches.append(
            {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "labels": targets}
        )
    found = source_losses(backbone, source, batches, examples_at_once)
    assert backbone.training
    backbone.eval()
    for task in range(3):
        summed = tokens = 0.0
        for batch in batches:
            prompts = source(None, torch.full((len(batch["labels"]),), task))
            inputs = Inputs(batch["input_ids"], batch["attention_mask"], prompts)
            summed += float(backbone.example_losses(inputs, batch["labels"]).detach().sum())
            tokens += float((batch["labels"] != -100).sum())
        assert found[task] == pytest.approx(summed / tokens, rel=1e-5)


def test_weights_by_hand() -> None:
    losses = torch.tensor([[2.0, 1.0, 1.0 + torch.log(torch.tensor(3.0)).item()], [0.0, 5.0, 9.0]])
    assert source_weights("NEAREST_SOURCE_TASK", -losses, 1.0).tolist() == [[0, 1, 0], [1, 0, 0]]
    weights = source_weights("WEIGHTED_SOURCE_TASKS", -losses, 1.0)
    assert weights[0, 1] / weights[0, 2] == pytest.approx(3.0)
    assert weights.sum(1).tolist() == pytest.approx([1.0, 1.0])
    cold = source_weights("WEIGHTED_SOURCE_TASKS", -losses, 1e-3)
    assert cold[1].tolist() == pytest.approx([1.0, 0.0, 0.0])


def test_the_heat_map_of_a_thousand_tasks_stays_small(tmp_path: Path) -> None:
    from PIL import Image

    names = [f"task_{number}" for number in range(1000)]
    write_similarity(tmp_path, names, torch.eye(1000))
    with Image.open(tmp_path / "similarity.png") as image:
        assert max(image.size) < 2500
