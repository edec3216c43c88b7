"""One task's prompt as a plain soft prompt: for PEFT and what builds on it, and for servers that take embeddings.

Shape legend: N virtual tokens, S input tokens, D token_dim.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mpt.answering.prompted import PromptedModel
from mpt.artifact import SavedPrompt
from mpt.artifact.prompt_folder import METADATA, is_ours
from mpt.atomic import write_folder_atomically
from mpt.errors import UserError


def bake(saved: SavedPrompt, task: str, folder: Path, base_model: str | None = None) -> None:
    """Write one task's prompt as a PEFT adapter of prompt tuning, which knows no ``task_ids``.

    lm-evaluation-harness and others take it where they pass no task along.

    Args:
        saved: The trained prompt.
        task: One of its tasks.
        folder: Where to, whole or not at all; an exported prompt that stood there is replaced.
        base_model: Where transformers finds the backbone; None: under the name that the prompt knows.

    Raises:
        UserError: The prompt has no such task.
    """
    prompt = saved.prompt.prompts()[saved.prompt.task_id(task)].detach()  # N D
    config = {
        "base_model_name_or_path": base_model or saved.backbone["name"],
        "inference_mode": True,
        "num_attention_heads": None,
        "num_layers": None,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": len(prompt),
        "peft_type": "PROMPT_TUNING",
        "prompt_tuning_init": "RANDOM",
        "task_type": str(saved.prompt.config.task_type),
        "token_dim": prompt.shape[1],
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with write_folder_atomically(folder, is_ours) as temporary:
        text = json.dumps(config, indent=2, sort_keys=True)
        (temporary / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
        save_file(
            {"prompt_embeddings": prompt.contiguous()}, temporary / "adapter_model.safetensors", metadata=METADATA
        )


@torch.no_grad()
def embed(model: PromptedModel, text: str, task: str) -> Tensor:
    """Write a text as the embeddings that a causal model reads: the task's prompt, and directly after it the text.

    vLLM takes them as ``prompt_embeds`` (``docs/serving.md``).

    Args:
        model: With a causal backbone.
        text: The input, as the task's template writes it.
        task: One of the prompt's tasks.

    Returns:
        ``(N + S, D)`` in the backbone's dtype, on the CPU.

    Raises:
        UserError: The backbone is an encoder-decoder, or the prompt has no such task.
    """
    if model.backbone.task_type != "CAUSAL_LM":
        raise UserError(
            f"backbone: {model.backbone.name} is an encoder-decoder, and servers take the embeddings of causal "
            "models; bake the prompt for PEFT instead"
        )
    (ids,), _ = model.backbone.tokenization.encode_inputs([text])
    embeds, _ = model.condition([ids], [task]).embed(model.backbone.word_embeddings)
    return embeds[0].cpu()
