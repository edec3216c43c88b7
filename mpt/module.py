"""The LightningModule: a frozen backbone, a multitask prompt or a baseline, and the loss of both stages.

Shape legend: B rows in a batch, T tasks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from mpt import metrics
from mpt.backbone import Backbone, token_losses
from mpt.baselines import Adapter
from mpt.config import OptimConfig, TaskConfig
from mpt.data import Batch, MixtureDataModule
from mpt.distill import Distiller
from mpt.optim import RowAdamW


@dataclass(frozen=True)
class Prediction:
    """One answered row."""

    task: str
    row_id: str
    input: str
    references: tuple[str, ...]
    prediction: str


class MPTModule(lightning.LightningModule):
    """Trains a multitask prompt on a frozen backbone, or a baseline in its place.

    The loss of a step is ``sum_t weight_t * L_t``, where ``L_t`` is the mean token loss over task t's target
    tokens in the global step: all processes and all accumulated micro-batches (Wang et al. 2023, equation 4); a
    distiller adds its losses to each ``L_t``. With one task of weight 1 it is the backbone's own loss. Checkpoints hold
    what is trained alone.

    Args:
        backbone: Frozen.
        adapter: What is trained, a prompt or a baseline; its ``task_names`` are the tasks.
        data: The rows; for the texts behind the predictions.
        configs: Configuration of each task.
        optim: Learning rates and schedule.
        max_steps: Optimiser steps in all, for the schedule.
        distiller: Compares the prompt with teachers in training; None: none are there.

    Raises:
        ValueError: There is not one configuration per task.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter,
        data: MixtureDataModule,
        configs: Sequence[TaskConfig],
        optim: OptimConfig,
        max_steps: int,
        distiller: Distiller | None = None,
    ) -> None:
        super().__init__()
        if len(configs) != len(adapter.task_names):
            raise ValueError(
                f"configs: are {len(configs)}, the prompt has {len(adapter.task_names)} tasks; give one per task"
            )
        self.backbone, self.adapter, self.data = backbone, adapter, data
        self.configs, self.optim, self.max_steps = list(configs), optim, max_steps
        self.distiller = distiller
        self.register_buffer(
            "task_weights", torch.tensor([config.weight for config in configs]), persistent=False
        )
        self.start = adapter.snapshot()
        self.strict_loading = False
        self._step_losses: dict[str, Tensor] = {}
        self._predictions: list[tuple[int, int, str, float, int]] = []
        self._random: Tensor | None = None

    task_weights: Tensor

    @property
    def task_names(self) -> list[str]:
        """The T tasks."""
        return self.adapter.task_names

    # Training

    def row_losses(self, batch: Batch, use_prompt: bool = True) -> Tensor:
        """Summed token loss of each row under its own task's prompt, float32, ``(B,)``."""
        return self.backbone.row_losses(
            batch["input_ids"],
            batch["attention_mask"],
            batch["labels"],
            **self._conditions(batch, use_prompt),
        )

    def _conditions(self, batch: Batch, use_prompt: bool) -> dict[str, Tensor]:
        """What the backbone reads of the adapter."""
        if not use_prompt:
            return {}
        told = (batch["input_ids"], batch["attention_mask"], batch["task_ids"])
        return self.adapter.conditions(*told, self.backbone.word_embeddings)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """This batch's part of each task's losses over the global step, ``(T,)`` each.

        Returns:
            ``task``, the mean token loss; those of the distiller where there is one; and ``all``, their weighted sum.

        Raises:
            ValueError: A row's loss is not finite; its task and row are named.
        """
        fields = (batch["input_ids"], batch["attention_mask"], batch["labels"])
        distilled = self.distiller is not None
        told = self.backbone.outputs(*fields, **self._conditions(batch, True), hidden=distilled)
        rows = token_losses(told.logits, batch["labels"])
        if not torch.isfinite(rows).all():
            self._complain(batch, rows)
        summed = rows.new_zeros(len(self.configs)).index_add(0, batch["task_ids"], rows)
        losses = {"task": summed / batch["target_tokens"].clamp(min=1)}
        whole = losses["task"]
        if self.distiller is not None:
            compared = self.distiller.losses(told, batch)
            losses |= compared
            whole = whole + self.distiller.weighted(compared)
        return losses | {"all": whole}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted loss, scaled so that neither processes nor micro-batches change its gradient."""
        losses = self.losses(batch)
        for name, loss in losses.items():
            self._step_losses[name] = self._step_losses.get(name, 0) + loss.detach()
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0:
            self._log_step(batch)
        # Lightning divides by the micro-batches, and DDP averages over processes; both are sums here.
        scale = self.trainer.accumulate_grad_batches * self.trainer.world_size
        return (self.task_weights * losses["all"]).sum() * scale

    def _log_step(self, batch: Batch) -> None:
        losses, self._step_losses = self._step_losses, {}
        if self.trainer.world_size > 1:
            losses = {
                name: self.trainer.strategy.reduce(loss, reduce_op="sum") for name, loss in losses.items()
            }
        # Lightning takes the x-axis from this key; it would count from 0, and say 299 of what 300 steps left.
        self.log("step", float(self.global_step + 1))
        self.log("train/loss", (self.task_weights * losses["all"]).sum(), prog_bar=True)
        for name in losses.keys() - {"task", "all"}:
            self.log(f"train/distill/{name}", (self.task_weights * losses[name]).sum())
        # A task without a row in this step has no loss, which is not a loss of zero.
        present = batch["target_tokens"] > 0
        self.log_dict(
            {
                f"train/{self.task_names[task]}/loss": losses["task"][task]
                for task in present.nonzero().flatten().tolist()
            }
        )
        rates = zip(self.learner_names, self._optimizer.param_groups, strict=True)
        self.log_dict({f"lr/{name}": group["lr"] for name, group in rates})

    def _complain(self, batch: Batch, losses: Tensor) -> None:
        bad = (~torch.isfinite(losses)).nonzero().flatten().tolist()
        named = [
            self._row_name(int(batch["task_ids"][row]), int(batch["rows"][row]), "train") for row in bad[:5]
        ]
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise ValueError(
            f"step {self.global_step}: the loss is not finite for {', '.join(named)}{more}; lower the learning rates "
            "(optim.lr_prompt, optim.lr_factors, optim.lr_weights), or use backbone.dtype=float32"
        )

    def _row_name(self, task: int, row: int, split: str) -> str:
        return f"{self.task_names[task]} {self.data.examples[split][task][row].row_id}"

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """RowAdamW with a rate for each kind of parameters, and a schedule by steps."""
        rates = {
            "prompt": self.optim.lr_prompt,
            "factors": self.optim.lr_factors,
            "weights": self.optim.lr_weights,
        }
        groups = [group for group in self.adapter.learner_groups() if group.params[0].requires_grad]
        self.learner_names = [group.name for group in groups]
        self._optimizer = RowAdamW(
            [
                {"params": group.params, "learners": group.learners, "lr": rates[group.name]}
                for group in groups
            ],
            betas=(self.optim.betas[0], self.optim.betas[1]),
            eps=self.optim.eps,
            weight_decay=self.optim.weight_decay,
            clip=self.optim.clip,
        )
        scheduler = LambdaLR(self._optimizer, self._rate)
        return {"optimizer": self._optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _rate(self, step: int) -> float:
        warmup = round(self.optim.warmup * self.max_steps)
        rising = min(1.0, (step + 1) / (warmup + 1))
        if self.optim.schedule == "constant":
            return rising
        return min(rising, max(0.0, (self.max_steps - step) / max(1, self.max_steps - warmup)))

    # Evaluation

    def on_validation_epoch_start(self) -> None:
        """Forget the last answers, and keep the random state: validating must not change the training."""
        self._predictions = []
        self._random = torch.get_rng_state()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Generate and score each row under its own task's prompt."""
        self._predictions += self._answer(batch, True, with_losses=True)

    def on_validation_epoch_end(self) -> None:
        """Score all rows of all processes, and log them task by task."""
        self._predictions = gather(self._predictions)
        scores = []
        for task, name in enumerate(self.task_names):
            answers = [answer for answer in self._predictions if answer[0] == task]
            examples = [self.data.examples["validation"][task][row] for _, row, *_ in answers]
            references = [example.references for example in examples]
            scored = metrics.score(
                self.configs[task].metrics, [text for _, _, text, *_ in answers], references
            )
            scored["loss"] = sum(answer[3] for answer in answers) / max(
                1, sum(answer[4] for answer in answers)
            )
            scores.append(scored["score"])
            self.log_dict({f"validation/{name}/{key}": float(value) for key, value in scored.items()})
        self.log("validation/average/score", sum(scores) / len(scores), prog_bar=True)
        self.log("step", float(self.global_step))
        moved = self.adapter.displacement(self.start)
        self.log_dict({f"moved/{name}": distance for name, distance in moved.items()})
        if self._random is not None:
            torch.set_rng_state(self._random)

    @torch.no_grad()
    def evaluate_rows(self, loader: Iterable[Batch], split: str, use_prompt: bool = True) -> list[Prediction]:
        """Answer rows outside of a Trainer.

        Args:
            loader: Such as ``data.eval_loader(split)``; of several processes, each gives its share.
            split: Where the loader's rows come from.
            use_prompt: Put each row's prompt before it; False for the oracle, whose rows have a prefix instead.

        Returns:
            One prediction per row, in the order of tasks and rows; in every process those of all.
        """
        self.to(self.backbone.device)
        answers: list[tuple[int, int, str, float, int]] = []
        for batch in loader:
            batch = {
                key: value.to(self.backbone.device) if isinstance(value, Tensor) else value
                for key, value in batch.items()
            }
            answers += self._answer(batch, use_prompt)
        predictions = []
        for task, row, text, *_ in gather(answers):
            example = self.data.examples[split][task][row]
            predictions.append(
                Prediction(self.task_names[task], example.row_id, example.input, example.references, text)
            )
        return predictions

    def _answer(
        self, batch: Batch, use_prompt: bool, with_losses: bool = False
    ) -> list[tuple[int, int, str, float, int]]:
        """Task id, row, text, summed token loss and number of target tokens of each row."""
        conditions = self._conditions(batch, use_prompt)
        texts = self.backbone.generate(
            batch["input_ids"], batch["attention_mask"], **conditions, **batch["generation"]
        )
        losses = self.row_losses(batch, use_prompt).tolist() if with_losses else [0.0] * len(texts)
        tokens = (batch["labels"] != -100).sum(1).tolist()
        return list(
            zip(batch["task_ids"].tolist(), batch["rows"].tolist(), texts, losses, tokens, strict=True)
        )

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is trained alone, and the random state that dropout will draw from."""
        checkpoint["state_dict"] = {}
        checkpoint["adapter"] = self.adapter.snapshot()
        checkpoint["start"] = self.start
        checkpoint["random"] = torch.get_rng_state()
        if torch.cuda.is_available():
            checkpoint["random_cuda"] = torch.cuda.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put back what is trained; remember the random state until the first resumed batch, and the start."""
        self.adapter.restore(checkpoint["adapter"])
        self.start = checkpoint["start"]
        self._resumed = checkpoint["random"], checkpoint.get("random_cuda")

    _resumed: tuple[Tensor, Tensor | None] | None = None

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Put back the random state of a resumed run, after all that Lightning drew in between."""
        if self._resumed is not None:
            torch.set_rng_state(self._resumed[0].cpu())
            if self._resumed[1] is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state(self._resumed[1].cpu())
            self._resumed = None


def gather(answers: list[tuple[int, int, str, float, int]]) -> list[tuple[int, int, str, float, int]]:
    """The answers of all processes, each row once, in the order of tasks and rows."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, answers)
        answers = [answer for part in parts for answer in part]
    return list({answer[:2]: answer for answer in sorted(answers)}.values())
