"""What a run needs at the least of the memory of its machine, so that what cannot fit is said before it is tried."""

import torch

from mpt.backbone import Backbone
from mpt.backbone.memory import FLOAT, memory_of, show_bytes
from mpt.config import PLAIN, RunConfig
from mpt.errors import UserError

COPIES = 4
"""A trained number is there with its gradient and two moments of the optimizer."""


def refuse_what_cannot_fit(config: RunConfig, backbone: Backbone, device: torch.device) -> None:
    """Compare what is known to be needed with what the machine has; a run that passes may still need too much.

    Raises:
        UserError: The prompt and its optimizer, or the embedded inputs of a step, are larger than all memory.
    """
    prompt, trainer, dim = config.prompt, config.trainer, backbone.token_dim
    tokens = prompt.num_virtual_tokens
    has = memory_of(device)
    own_prompts = len(config.tasks) if prompt.form == "independent" else len(prompt.groups or [()])
    numbers = own_prompts * tokens * dim
    if prompt.form not in PLAIN:
        numbers += len(config.tasks) * prompt.num_ranks * (tokens + dim)
    if (needed := numbers * FLOAT * COPIES) > has:
        raise UserError(
            f"prompt.num_virtual_tokens: is {tokens:,}, and a prompt of {numbers:,} numbers takes at least "
            f"{show_bytes(needed)} with its gradients and moments; this machine has {show_bytes(has)}, so take fewer"
        )
    rows = trainer.batch_size // trainer.accumulate_grad_batches
    if config.mixture.sampling == "each":
        rows *= len(config.tasks)
    if (needed := rows * (tokens + 1) * dim * FLOAT) > has:
        raise UserError(
            f"trainer.batch_size: is {trainer.batch_size:,}, and the embeddings of {rows:,} rows behind {tokens:,} "
            f"virtual tokens take at least {show_bytes(needed)}; this machine has {show_bytes(has)}, so take fewer, or "
            "raise trainer.accumulate_grad_batches"
        )
