"""A frozen backbone in 8 or 4 bits, through bitsandbytes: the prompt stays float32, and so do its gradients."""

import logging
from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from mpt.errors import UserError

NEEDED = ("bitsandbytes", "accelerate")


def quantized_options(quantize: str, dtype: str) -> dict[str, Any]:
    """Build the arguments of ``from_pretrained`` that quantize a model while it is loaded.

    Args:
        quantize: int8 is LLM.int8() (Dettmers et al. 2022); nf4 is QLoRA's data type, its scales quantized too
            (Dettmers et al. 2023, section 3).
        dtype: In which 4-bit weights are multiplied.

    Raises:
        UserError: bitsandbytes or accelerate is not installed.
    """
    check_installed()
    # It says for each layer that it computes in float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    settings = (
        BitsAndBytesConfig(load_in_8bit=True)
        if quantize == "int8"
        else BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, dtype),
        )
    )
    return {"quantization_config": settings, "device_map": {"": "cpu"}}


def keep_weights(model: torch.nn.Module) -> None:
    """Keep 4-bit layers from rewriting their weights in the first answer.

    On a processor with AVX512-BF16 bitsandbytes packs them anew then, and rounds their scales to bfloat16: a run would
    compute with other numbers after its first validation than before, and than on another processor. Layers narrower
    than a block of 64 fail there.
    """
    layers: list[Any] = [layer for layer in model.modules() if hasattr(layer, "support_avx512bf16_for_cpu")]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False


def check_installed() -> None:
    """Refuse early where what quantizes is missing.

    Raises:
        UserError: As said.
    """
    if missing := [name for name in NEEDED if not find_spec(name)]:
        raise UserError(
            f"backbone.quantize: {' and '.join(missing)} not installed; pip install 'mpt[quantized]', or leave it out"
        )
