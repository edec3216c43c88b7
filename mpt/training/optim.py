"""AdamW over independent learners: one that is absent from a step does not move at all.

Shape legend: L learners, M numbers of one learner in one parameter.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from mpt.errors import UserError

MANY = 64
"""Learners beyond which those that are absent are not computed at all."""


class PerLearnerAdamW(torch.optim.Optimizer):
    """AdamW that treats the first dimension of its parameters as independent learners.

    The tensors of a multitask prompt hold many learners: the groups of the shared prompt, the tasks of the
    factors. Plain AdamW moves every one of them in every step, by momentum and weight decay, also those whose
    task had no row in the batch, and it clips them together, so one task's gradient shortens another's step.
    Here each learner has its own step count, moments, bias correction and clipping. With every learner in
    every step and ``clip=None`` it is :class:`torch.optim.AdamW`. Ours, not the paper's.

    A learner is absent from a step when its gradient is exactly zero in all parameters of its group.

    Args:
        params: Parameters or parameter groups. The keys of a group are the arguments below; ``learners`` is
            the number L that its parameters hold, each viewed as ``(L, M)``.
        lr: Learning rate; a schedule multiplies it per group.
        betas: Decay of the first and the second moment.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled weight decay, times ``lr``.
        clip: Largest norm of one learner's gradient over all parameters of its group; None: no clipping.
        learners: L for groups that do not say.

    Raises:
        UserError: A number is out of range, or a parameter's first dimension is not a multiple of L.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        clip: float | None = None,
        learners: int = 1,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "clip": clip,
            "learners": learners,
        }
        super().__init__(params, defaults)
        for position, group in enumerate(self.param_groups):
            _check_group(group, f"parameter group {position}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every present learner by one AdamW step.

        Args:
            closure: Computes the loss and the gradients anew; None where they are there.

        Returns:
            What ``closure`` returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if params:
                self._step_group(group, params)
        return loss

    def _step_group(self, group: dict[str, Any], params: list[Tensor]) -> None:
        learners = group["learners"]
        if all(_is_sparse(param, learners) for param in params):
            positions, few = _gather(params)
            present = torch.stack([(grad != 0).any(dim=1) for grad in few]).any(dim=0)
            if present.any():
                self._step_few(group, params, positions[present], [grad[present] for grad in few])
            return
        grads = [_grad(param).reshape(learners, -1) for param in params]  # L M each
        present = torch.stack([(grad != 0).any(dim=1) for grad in grads]).any(dim=0)  # L
        if learners > MANY and 2 * int(present.sum()) < learners:
            if present.any():
                positions = present.nonzero().flatten()
                self._step_few(group, params, positions, [grad[positions] for grad in grads])
            return
        scale = None
        if group["clip"] is not None:
            norms = torch.stack([torch.linalg.vector_norm(grad, dim=1) for grad in grads])
            norm = torch.linalg.vector_norm(norms, dim=0)  # L
            # 1e-6 and the clamp as in torch.nn.utils.clip_grad_norm_.
            scale = (group["clip"] / (norm + 1e-6)).clamp(max=1.0)[:, None]  # L 1
        for param, grad in zip(params, grads, strict=True):
            self._step_param(group, param, grad if scale is None else grad * scale, present)

    def _step_few(self, group: dict[str, Any], params: list[Tensor], positions: Tensor, grads: list[Tensor]) -> None:
        """Step some learners alone, P of them with gradients ``(P, M)``; the others cost nothing."""
        few_learners = {"learners": len(positions)}
        for param in params:
            _start_state(self.state[param], param, group["learners"])
        few = []
        for param, grad in zip(params, grads, strict=True):
            state, shape = self.state[param], (group["learners"], -1)
            part = param.view(shape)[positions]
            part.grad = grad
            few.append(part)
            self.state[part] = {
                "steps": state["steps"][positions],
                "exp_avg": state["exp_avg"].view(shape)[positions],
                "exp_avg_sq": state["exp_avg_sq"].view(shape)[positions],
            }
        self._step_group(group | few_learners, few)
        for param, part in zip(params, few, strict=True):
            state, own, shape = self.state[param], self.state.pop(part), (group["learners"], -1)
            param.view(shape)[positions] = part
            state["steps"][positions] = own["steps"]
            for name in ("exp_avg", "exp_avg_sq"):
                state[name].view(shape)[positions] = own[name]

    def _step_param(self, group: dict[str, Any], param: Tensor, grad: Tensor, present: Tensor) -> None:
        state = self.state[param]
        _start_state(state, param, group["learners"])
        beta1, beta2 = group["betas"]
        steps = state["steps"].add_(present)  # L
        old, first, second = (
            tensor.reshape(len(steps), -1) for tensor in (param, state["exp_avg"], state["exp_avg_sq"])
        )
        new_first = first.lerp(grad, 1 - beta1)  # L M
        new_second = (second * beta2).addcmul(grad, grad, value=1 - beta2)
        root = new_second.sqrt() / _bias_correction(beta2, steps).sqrt() + group["eps"]
        step_size = group["lr"] / _bias_correction(beta1, steps)  # L 1
        new = old * (1 - group["lr"] * group["weight_decay"]) - step_size * new_first / root
        here = present[:, None]
        for tensor, value, before in (
            (param, new, old),
            (state["exp_avg"], new_first, first),
            (state["exp_avg_sq"], new_second, second),
        ):
            tensor.copy_(torch.where(here, value, before).view_as(tensor))


def _start_state(state: dict[str, Any], param: Tensor, learners: int) -> None:
    """Fill the state of a parameter that has none yet."""
    if not state:
        # Not "step": Optimizer.load_state_dict would leave a tensor of that name on the device it was on.
        state["steps"] = torch.zeros(learners, dtype=param.dtype, device=param.device)
        state["exp_avg"] = torch.zeros_like(param)
        state["exp_avg_sq"] = torch.zeros_like(param)


def _grad(param: Tensor) -> Tensor:
    """The gradient of a parameter that has one."""
    grad = param.grad
    assert grad is not None
    if grad.is_sparse:
        raise UserError(
            "gradient: is sparse over something else than the learners; PerLearnerAdamW needs a dense one, so use "
            "sparse=False"
        )
    return grad


def _is_sparse(param: Tensor, learners: int) -> bool:
    """Tell whether a gradient holds only some of the learners, each a row of the parameter."""
    return param.grad is not None and param.grad.is_sparse and len(param) == learners


def _gather(params: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Add up the rows of sparse gradients.

    Returns:
        The positions of the P learners that they are of, and the gradients of these, ``(P, M)`` each. A learner's rows
        are added in their order, as a dense gradient would have them.
    """
    found = [(param.grad._indices()[0], param.grad._values()) for param in params if param.grad is not None]
    positions: Tensor = torch.unique(torch.cat([ids for ids, _ in found]))
    grads = []
    for ids, values in found:
        rows = values.reshape(len(ids), -1)
        summed = rows.new_zeros(len(positions), rows.shape[1])
        grads.append(summed.index_add_(0, torch.searchsorted(positions, ids), rows))
    return positions, grads


def _bias_correction(beta: float, steps: Tensor) -> Tensor:
    """``1 - beta^steps``, exact to float32 also while it is small; shape ``(L, 1)``."""
    log = math.log(beta) if beta > 0 else -math.inf
    return -torch.expm1(steps * log)[:, None]


def _check_group(group: dict[str, Any], where: str) -> None:
    """Raise a ValueError for what a parameter group cannot be."""
    for key in ("lr", "eps", "weight_decay"):
        if not group[key] >= 0:
            raise UserError(f"{where}: {key} is {group[key]}; it must not be negative")
    if len(group["betas"]) != 2 or not all(0 <= beta < 1 for beta in group["betas"]):
        raise UserError(f"{where}: betas is {group['betas']}; it must be two numbers from 0 to below 1")
    if group["clip"] is not None and not group["clip"] > 0:
        raise UserError(f"{where}: clip is {group['clip']}; it must be above 0, or None for no clipping")
    learners = group["learners"]
    if not isinstance(learners, int) or learners < 1:
        raise UserError(f"{where}: learners is {learners!r}; it must be a whole number of at least 1")
    for param in group["params"]:
        if param.dim() == 0 or param.shape[0] % learners:
            raise UserError(
                f"{where}: a parameter of shape {tuple(param.shape)} does not hold {learners} learners; "
                "its first dimension must be a multiple of them"
            )
