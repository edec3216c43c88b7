"""Sampling of answers, independent of the model's generation config and of the rest of the batch.

Shape legend: B rows, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mpt.seeds import derive_seed

SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def only_special_tokens(config: GenerationConfig | None) -> GenerationConfig:
    """Keep of a model's generation configuration its special tokens.

    The rest are penalties, lengths and samplings that its makers found pleasant in a chat; they would change an answer
    that is said to be greedy.
    """
    found = {key: getattr(config, key, None) for key in SPECIAL_TOKENS}
    return GenerationConfig(**{key: value for key, value in found.items() if value is not None})


def sample_by_row(settings: dict[str, Any], texts: Sequence[Sequence[int]], seed: int) -> dict[str, Any]:
    """Rewrite a sampling as a greedy search among logits with noise, whose argmax is a sample (Gumbel's trick).

    The noise of a row follows from the seed and its text, so the row is answered alike in every batch.

    Args:
        settings: Arguments of ``generate`` with ``do_sample``.
        texts: The token ids of each row.
        seed: Seed of the noise.

    Returns:
        Arguments of ``generate`` without it; ``num_return_sequences`` stays, for who repeats the rows.
    """
    warpers: list[LogitsProcessor] = []
    rest = {key: value for key, value in settings.items() if key not in ("temperature", "top_k", "top_p", "min_p")}
    if settings.get("temperature", 1.0) != 1.0:
        warpers.append(TemperatureLogitsWarper(float(settings["temperature"])))
    if settings.get("top_k"):
        warpers.append(TopKLogitsWarper(int(settings["top_k"])))
    if settings.get("top_p", 1.0) < 1.0:
        warpers.append(TopPLogitsWarper(float(settings["top_p"])))
    if settings.get("min_p"):
        warpers.append(MinPLogitsWarper(float(settings["min_p"])))
    several = int(settings.get("num_return_sequences", 1))
    seeds = [derive_seed("answer", seed, number, *text) for text in texts for number in range(several)]
    noise = _Gumbel(seeds)
    return rest | {"do_sample": False, "logits_processor": LogitsProcessorList([*warpers, noise])}


class _Gumbel(LogitsProcessor):  # type: ignore[misc]  # transformers has no types
    """Adds Gumbel noise to the logits, each row from a generator of its own."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the logits with noise, ``(B, V)``."""
        V = scores.shape[1]
        uniform = torch.stack([torch.rand(V, generator=each, dtype=torch.float64) for each in self.generators])
        noise = -(-uniform.clamp(min=1e-300).log()).clamp(min=1e-300).log()
        return scores + noise.to(scores.device, torch.float32)
