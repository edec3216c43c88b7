"""The LightningModule: a frozen backbone, a multitask prompt or a baseline, and the loss of both stages.

Shape legend: B examples in a batch, T tasks.
"""

from collections.abc import Sequence
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from mpt import metrics
from mpt.adapter import Adapter
from mpt.answering.answers import Answer, answer_batch, condition, gather_answers, rules_of
from mpt.backbone import Backbone, token_losses
from mpt.config import OptimConfig, TaskConfig
from mpt.data.batches import Batch, distinct_examples
from mpt.data.data_module import MixtureDataModule
from mpt.distill import Distiller
from mpt.errors import UserError
from mpt.run.checkpoint import check_same_shapes
from mpt.seeds import derive_seed
from mpt.training.optim import PerLearnerAdamW


class MPTModule(lightning.LightningModule):
    """Trains a multitask prompt on a frozen backbone, or a baseline in its place.

    The loss of a step is ``sum_t weight_t * L_t``, where ``L_t`` is the mean token loss over task t's target
    tokens in the global step: all processes and all accumulated micro-batches (Wang et al. 2023, equation 4); a
    distiller adds its losses to each ``L_t``. With one task of weight 1 it is the backbone's own loss. Checkpoints hold
    only what is trained.

    Args:
        backbone: Frozen.
        adapter: What is trained, a prompt or a baseline; its ``task_names`` are the tasks.
        data: The examples behind the batches.
        configs: Configuration of each task.
        optim: Learning rates and schedule.
        max_steps: Optimizer steps in all, for the schedule.
        distiller: Compares the prompt with teachers in training; None to train without.
        dropout_seed: Seed of the dropout masks; None: that of the data's order.

    Raises:
        UserError: There is not one configuration per task.
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
        dropout_seed: int | None = None,
    ) -> None:
        super().__init__()
        if len(configs) != len(adapter.task_names):
            raise UserError(
                f"configs: are {len(configs)}, the prompt has {len(adapter.task_names)} tasks; give one per task"
            )
        self.backbone, self.adapter, self.data = backbone, adapter, data
        self.configs, self.optim, self.max_steps = list(configs), optim, max_steps
        self.distiller = distiller
        self.dropout_seed = data.seed if dropout_seed is None else dropout_seed
        self.register_buffer("task_weights", torch.tensor([config.weight for config in configs]), persistent=False)
        self.start = adapter.snapshot()
        self.strict_loading = False
        self._step_losses: dict[str, Tensor] = {}
        self._logged: dict[str, float] = {}
        self._answers: list[Answer] = []
        self.validated: list[Answer] = []

    task_weights: Tensor

    @property
    def task_names(self) -> list[str]:
        """The T tasks."""
        return self.adapter.task_names

    # Training

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """This batch's part of each task's losses over the global step, ``(T,)`` each.

        Returns:
            ``task``, the mean token loss; those of the distiller where there is one; and ``all``, their weighted sum.

        Raises:
            UserError: An example's loss is not finite; its task and row are named.
        """
        rows, counts = batch, None
        if self.distiller is None and not self.backbone.drops_out:
            rows, counts = distinct_examples(batch) or (batch, None)
        inputs, labels = condition(self.adapter, self.backbone, rows), rows["labels"]
        outputs = None
        if self.distiller is None:
            of_examples = self.backbone.example_losses(inputs, labels)  # B
        else:
            outputs = self.backbone.outputs(inputs, labels, hidden=True)
            of_examples = token_losses(outputs.logits, labels)
        if not torch.isfinite(of_examples).all():
            self._refuse(rows, of_examples)
        if counts is not None:
            of_examples = of_examples * counts
        summed = of_examples.new_zeros(len(self.configs)).index_add(0, rows["task_ids"], of_examples)  # T
        losses = {"task": summed / batch["target_tokens"].clamp(min=1)}
        whole = losses["task"]
        if self.distiller is not None and outputs is not None:
            compared = self.distiller.losses(outputs, batch)
            losses |= compared
            whole = whole + self.distiller.weighted(compared)
        return losses | {"all": whole}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted loss, scaled so that neither processes nor micro-batches change its gradient."""
        if self.backbone.drops_out:
            # From the seed and the step, so that neither a stop nor another run beside this one changes the masks.
            torch.manual_seed(derive_seed("dropout", self.dropout_seed, self.global_step, batch_idx, self.global_rank))
        losses = self.losses(batch)
        for name, loss in losses.items():
            self._step_losses[name] = self._step_losses.get(name, 0) + loss.detach()
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0:
            self._log_step(batch)
        # Lightning divides by the micro-batches, and DDP averages over processes; both are sums here.
        scale = self.trainer.accumulate_grad_batches * self.trainer.world_size
        return (self.task_weights * losses["all"]).sum() * scale

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Leave the gradients to the backbone, which may compute those of other runs as well."""
        self.backbone.backward(loss)

    def _log_step(self, batch: Batch) -> None:
        losses, self._step_losses = self._step_losses, {}
        if self.trainer.world_size > 1:
            losses = {name: self.trainer.strategy.reduce(loss, reduce_op="sum") for name, loss in losses.items()}
        whole = (self.task_weights * losses["all"]).sum()
        self.log("train/loss", whole, prog_bar=True, logger=False)
        # A task without an example in this step has no loss, which is not a loss of zero.
        of_tasks = torch.where(batch["target_tokens"] > 0, losses["task"], torch.nan)
        named = {"train/loss": whole}
        named |= {
            f"distillation/{name}": (self.task_weights * losses[name]).sum() for name in losses.keys() - {"task", "all"}
        }
        self._logged = dict(zip(named, torch.stack([*named.values()]).tolist(), strict=True))
        names = (f"train/{name}/loss" for name in self.task_names)
        self._logged |= dict(zip(names, of_tasks.tolist(), strict=True))
        rates = zip(self.learner_names, self._optimizer.param_groups, strict=True)
        self._logged |= {f"lr/{name}": group["lr"] for name, group in rates}

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Give the loggers the numbers of a step at once, where Lightning's own ``log`` would take them one by one."""
        logged, self._logged = self._logged, {}
        for logger in self.trainer.loggers if logged else ():
            logger.log_metrics(logged, step=self.global_step)
            logger.save()

    def _refuse(self, batch: Batch, losses: Tensor) -> None:
        """Name the examples whose loss is not finite."""
        bad = (~torch.isfinite(losses)).nonzero().flatten().tolist()
        ids, indices = batch["task_ids"].tolist(), batch["example_indices"].tolist()
        named = [self._name(ids[position], indices[position]) for position in bad[:5]]
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise UserError(
            f"step {self.global_step}: the loss is not finite for {', '.join(named)}{more}; lower the learning rates "
            "(optim.lr_prompt, optim.lr_factors, optim.lr_weights), or use backbone.dtype=float32"
        )

    def _name(self, task_id: int, example_index: int) -> str:
        example = self.data.examples["train"][task_id][example_index]
        return f"{self.task_names[task_id]} {example.row_id}"

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """PerLearnerAdamW with a rate for each kind of parameters, and a schedule by steps."""
        rates = {"prompt": self.optim.lr_prompt, "factors": self.optim.lr_factors, "weights": self.optim.lr_weights}
        groups = [group for group in self.adapter.learner_groups() if group.params[0].requires_grad]
        self.learner_names = [group.name for group in groups]
        self._optimizer = PerLearnerAdamW(
            [{"params": group.params, "learners": group.learners, "lr": rates[group.name]} for group in groups],
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
        """Forget the last answers."""
        self._answers = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Generate and score each example under its own task's prompt."""
        self._answers += answer_batch(self.adapter, self.backbone, batch, with_losses=True)

    def on_validation_epoch_end(self) -> None:
        """Score the answers of all processes, and log them task by task."""
        answers = self.validated = gather_answers(self._answers)
        scores, losses = [], []
        for task_id, name in enumerate(self.task_names):
            of_task = [each for each in answers if each.task_id == task_id]
            examples = [self.data.examples["validation"][task_id][each.example_index] for each in of_task]
            scored = metrics.score(
                self.configs[task_id].metrics,
                [each.text for each in of_task],
                [example.references for example in examples],
                rules_of(self.configs[task_id], [example.references for example in examples], self.data.classes[name]),
            )
            tokens = sum(each.target_tokens for each in of_task)
            scored["loss"] = sum(each.loss for each in of_task) / max(1, tokens)
            scores.append(scored["score"])
            losses.append(scored["loss"])
            self.log_dict({f"validation/{name}/{key}": float(value) for key, value in scored.items()})
        self.log("validation/average/score", sum(scores) / len(scores), prog_bar=True)
        self.log("validation/average/loss", sum(losses) / len(losses))
        self.log("step", float(self.global_step))
        moved = self.adapter.displacement(self.start)
        self.log_dict({f"moved/{name}": distance for name, distance in moved.items()})

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what is trained."""
        checkpoint["state_dict"] = {}
        checkpoint["adapter"] = self.adapter.snapshot()
        checkpoint["start"] = self.start

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put back what is trained, and the start."""
        check_same_shapes(checkpoint["adapter"], self.adapter.snapshot())
        self.adapter.restore(checkpoint["adapter"])
        self.start = checkpoint["start"]
