"""What a run needs at the least of the memory of its machine, so that what cannot fit is said before it is tried."""

import torch

from mpt.backbone import Backbone
from mpt.backbone.frozen import LOGITS_AT_ONCE
from mpt.backbone.memory import FLOAT, count_layers, heads_of, memory_of, show_bytes, sizes_of
from mpt.config import PLAIN, RunConfig
from mpt.data.data_module import MixtureDataModule
from mpt.errors import UserError
from mpt.run.console import is_main
from mpt.run.progress import print_line
from mpt.training.sharded import FSDP

COPIES = 4
"""A trained number is there with its gradient and two moments of the optimizer."""


SAID_FROM = 1 / 4
"""Share of a device's memory from which a run says what it needs of it."""


def say_needs(
    config: RunConfig, backbone: Backbone, data: MixtureDataModule, device: torch.device, processes: int
) -> None:
    """Say what each device holds of the backbone, and what a step takes at the most; refuse a backbone that is larger.

    Activations are counted for a step of the longest rows, as those of a transformer all of whose weights are trained:
    ``34 D + 5 heads x tokens`` numbers of 16 bits for each token and layer, of which ``2 D`` where they are recomputed
    (Korthikanti et al. 2022, sections 4 and 5). Frozen layers keep less.

    Args:
        config: The run's.
        backbone: As loaded, still whole.
        data: For the longest rows.
        device: This process's.
        processes: Of the run, over all machines.

    Raises:
        UserError: The weights do not fit.
    """
    layers, rest = sizes_of(backbone.model)
    held = rest + (layers // processes if config.trainer.strategy == FSDP else layers)
    here = max(1, processes // config.trainer.num_nodes) if device.type == "cpu" else 1
    has = memory_of(device) // here
    if held > has:
        smaller = "trainer=fsdp on more devices" if processes > 1 or device.type != "cpu" else "backbone.dtype=bfloat16"
        raise UserError(
            f"backbone: {backbone.name} takes {show_bytes(held)} of each device, which has {show_bytes(has)}; take "
            f"{smaller}, backbone.quantize=nf4, or a smaller one"
        )
    rows = -(-config.trainer.batch_size // (config.trainer.accumulate_grad_batches * processes))
    tokens = max(inputs + targets for _, inputs, targets in data.longest()) + config.prompt.num_virtual_tokens
    of_token = backbone.token_dim * (2 if config.backbone.checkpointing else 34)
    if not config.backbone.checkpointing:
        of_token += 5 * heads_of(backbone.model) * tokens
    wide = next(backbone.model.parameters()).element_size() / 2
    activations = int(rows * tokens * of_token * wide) * count_layers(backbone.model)
    targets = max(of_task for *_, of_task in data.longest())
    logits = min(rows * targets * backbone.vocabulary, LOGITS_AT_ONCE) * FLOAT
    if is_main() and (config.trainer.strategy == FSDP or held + activations + logits > SAID_FROM * has):
        print_line(
            f"each of {processes} processes holds {show_bytes(held)} of the backbone; a step of {rows} of the longest "
            f"rows, {tokens:,} tokens each, takes up to {show_bytes(activations)} of activations and "
            f"{show_bytes(logits)} of logits; a device has {show_bytes(has)}"
        )


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
