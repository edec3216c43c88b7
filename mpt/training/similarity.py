"""Similarity of tasks: by their prompts, by their factors, by a source prompt's loss on a target's examples."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import lightning
import numpy as np
import torch
from torch import Tensor

from mpt.artifact import load_prompt
from mpt.atomic import write_atomically
from mpt.backbone import Backbone
from mpt.config import TrainerConfig
from mpt.data.batches import Batch
from mpt.inputs import Inputs
from mpt.prompt import MultitaskPromptEmbedding
from mpt.run.folder import RunFolder
from mpt.run.record import write_csv
from mpt.training.module import MPTModule

MOST_LABELS = 60
"""Tasks that the heat map names and has room for; of more it names every second, third, ..."""

MOST_NUMBERS = 20
"""Tasks up to which the heat map writes its numbers into its cells."""

MOST_PIXELS = 2000
"""Height of the heat map; that of many tasks is drawn coarser, since the drawing takes some 20 bytes a pixel."""


@torch.no_grad()
def task_cosines(prompt: MultitaskPromptEmbedding) -> Tensor:
    """Cosine similarity of the W of every two tasks; without factors, of their prompts.

    Of W, not of cols and rows, which can be written in many ways for the same W. In the residual form, of
    ``cols @ rows``: the ones that all tasks share would make every two tasks alike.

    Returns:
        ``(T, T)``, symmetric, 1 on the diagonal (0 where a task's W is 0), float32 on the CPU.
    """
    own = prompt.prompts()
    if prompt.config.has_factors:
        own = prompt.prefix_task_cols @ prompt.prefix_task_rows
    unit = torch.nn.functional.normalize(own.detach().double().flatten(1), dim=1)
    return (unit @ unit.T).float().cpu()


def write_task_similarity(folder: Path) -> None:
    """Write how near the tasks of a run's saved prompt are to each other, where it holds several and they differ."""
    if not RunFolder(folder).prompt.is_dir():
        return
    prompt = load_prompt(folder).prompt
    if len(prompt.task_names) > 1 and prompt.config.form != "single":
        write_similarity(folder, prompt.task_names, task_cosines(prompt))


def write_similarity(folder: Path, names: Sequence[str], cosines: Tensor) -> None:
    """Write ``similarity.csv`` and its heat map ``similarity.png``.

    Args:
        folder: The run folder.
        names: The T tasks.
        cosines: From :func:`task_cosines`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [[name, *(f"{value:.6f}" for value in row)] for name, row in zip(names, cosines.tolist(), strict=True)]
    write_csv(RunFolder(folder).similarity_table, ["task", *names], rows)
    numbered = len(names) <= MOST_NUMBERS
    size = 2 + (0.55 if numbered else 0.35) * min(len(names), MOST_LABELS)
    figure, axis = pyplot.subplots(figsize=(size + 1.2, size), layout="constrained")
    image = axis.imshow(cosines.numpy(), vmin=-1, vmax=1, cmap="RdBu_r")
    labeled = range(0, len(names), -(-len(names) // MOST_LABELS))
    axis.set_xticks(labeled, [names[task] for task in labeled], rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(labeled, [names[task] for task in labeled])
    if numbered:
        for (row, column), value in np.ndenumerate(cosines.numpy()):
            color = "white" if abs(value) > 0.6 else "black"
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, label="cosine of W", shrink=0.8)
    with write_atomically(RunFolder(folder).similarity_figure) as temporary:
        figure.savefig(temporary, format="png", dpi=min(160, MOST_PIXELS / size))
    pyplot.close(figure)


@torch.no_grad()
def source_losses(
    backbone: Backbone, source: MultitaskPromptEmbedding, batches: Iterable[Batch], examples_at_once: int
) -> Tensor:
    """Mean token loss of every source task's prompt on a target's examples, all candidates in one forward.

    Args:
        backbone: The frozen model, left in the mode in which it was found, but used without dropout.
        source: The trained prompt, of S tasks.
        batches: The target's labeled examples.
        examples_at_once: Examples times candidates in a forward, at most; a single example has all candidates.

    Returns:
        float32 ``(S,)`` on the CPU, in nats.
    """
    S = len(source.task_names)
    source = source.to(backbone.device)
    summed, tokens = torch.zeros(S, device=backbone.device), 0
    training = backbone.training
    backbone.eval()
    try:
        for batch in batches:
            for start in range(0, len(batch["labels"]), max(1, examples_at_once // S)):
                part = slice(start, start + max(1, examples_at_once // S))
                ids, mask, labels = (
                    batch[key][part].to(backbone.device).repeat_interleave(S, dim=0)
                    for key in ("input_ids", "attention_mask", "labels")
                )
                task_ids = torch.arange(S, device=backbone.device).repeat(len(labels) // S)
                losses = backbone.example_losses(Inputs(ids, mask, source(None, task_ids)), labels)
                summed += losses.view(-1, S).sum(0)
                tokens += int((batch["labels"][part] != -100).sum())
    finally:
        backbone.train(training)
    return (summed / max(1, tokens)).cpu()


def task_embeddings(module: MPTModule, trainer: TrainerConfig) -> Tensor:
    """Train plain prompts for a few steps: the task embeddings of SPoT (Vu et al. 2022, section 4).

    Args:
        module: Its adapter holds one plain prompt per task, its data has the number of steps to train.
        trainer: Device and precision of the run.

    Returns:
        The prompts, ``(T, N, D)``, on the CPU.
    """
    quick = lightning.Trainer(
        accelerator=trainer.accelerator,
        devices=1,
        precision=trainer.precision,  # type: ignore[arg-type]  # Lightning checks the word
        max_steps=module.max_steps,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    module.train()
    quick.fit(module, module.data)
    module.cpu()
    assert isinstance(module.adapter, MultitaskPromptEmbedding)
    return module.adapter.prompts().detach()


def prompt_cosines(targets: Tensor, sources: Tensor) -> Tensor:
    """Cosine similarity of the average tokens of prompts (Vu et al. 2022, section 4.1).

    Args:
        targets: ``(T, N, D)``.
        sources: ``(S, N, D)``.

    Returns:
        ``(T, S)``, float32 on the CPU.
    """
    one, other = (
        torch.nn.functional.normalize(prompts.detach().cpu().double().mean(1), dim=1) for prompts in (targets, sources)
    )
    return (one @ other.T).float()


def source_weights(init: str, scores: Tensor, temperature: float) -> Tensor:
    """The part of each source task in each target's start.

    Args:
        init: NEAREST_SOURCE_TASK: all of the one with the highest score; WEIGHTED_SOURCE_TASKS: the softmax of
            ``score / temperature``.
        scores: ``(T, S)``: the negative losses of :func:`source_losses`, or :func:`prompt_cosines`.
        temperature: Above 0; of losses in nats.

    Returns:
        ``(T, S)``, each row summing to 1.
    """
    if init == "NEAREST_SOURCE_TASK":
        return torch.nn.functional.one_hot(scores.argmax(1), scores.shape[1]).float()
    return torch.softmax(scores.double() / temperature, dim=1).float()
