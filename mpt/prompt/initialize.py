"""First values that are drawn: of P from numbers, text or the vocabulary; of the factors near one or near zero.

Shape legend: T tasks, G groups of P, N virtual tokens, R ranks, D token_dim.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mpt.config import MultitaskPromptTuningInit
from mpt.errors import UserError
from mpt.prompt.prompt_config import MultitaskPromptTuningConfig

Tokenizer = Callable[[str], Mapping[str, Any]]
"""Whatever gives a mapping with ``input_ids`` for a text, as the tokenizers of transformers do."""


def width(config: MultitaskPromptTuningConfig, word_embeddings: nn.Embedding | None) -> int:
    """D, from the config, the word embeddings, or both when they agree."""
    if word_embeddings is None:
        if config.token_dim is None:
            raise UserError("token_dim: is missing; give it, or the word embeddings of the backbone")
        return config.token_dim
    embedded = word_embeddings.embedding_dim
    if config.token_dim not in (None, embedded):
        raise UserError(f"token_dim: is {config.token_dim}, but the word embeddings have {embedded}; give {embedded}")
    return embedded


def start_shared(config: MultitaskPromptTuningConfig, drawn: Tensor, word_embeddings: nn.Embedding | None) -> Tensor:
    """First values of P, ``(G * N, D)``, where ``drawn`` comes from N(0, 1)."""
    init, N = config.prompt_tuning_init, config.num_virtual_tokens
    if config.inference_mode or init not in (MultitaskPromptTuningInit.TEXT, MultitaskPromptTuningInit.VOCABULARY):
        return drawn * config.init_std
    if word_embeddings is None:
        raise UserError(f"word_embeddings: are missing, and prompt_tuning_init={init} starts from them")
    if init == MultitaskPromptTuningInit.VOCABULARY:
        return sample_vocabulary(len(drawn), word_embeddings)
    if not config.prompt_tuning_init_text:
        raise UserError("prompt_tuning_init_text: is missing, and prompt_tuning_init=TEXT starts from it")
    tokenizer = config.tokenizer
    if tokenizer is None:
        if not config.tokenizer_name_or_path:
            raise UserError("tokenizer_name_or_path: is missing, and prompt_tuning_init=TEXT needs a tokenizer")
        tokenizer = open_tokenizer(config.tokenizer_name_or_path, config.tokenizer_kwargs)
    text = embed_text(config.prompt_tuning_init_text, tokenizer, N, word_embeddings)
    return text.repeat(config.num_groups, 1)  # G*N D


def open_tokenizer(name_or_path: str, options: Mapping[str, Any] | None) -> Tokenizer:
    """Open the tokenizer that a config names; code from the hub is never run.

    Raises:
        UserError: There is no such tokenizer.
    """
    from transformers import AutoTokenizer  # takes seconds to import, and only a text to start from needs it

    allowed = {key: value for key, value in (options or {}).items() if key != "trust_remote_code"}
    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(name_or_path, **allowed)
    except (OSError, ValueError) as error:
        raise UserError(f"tokenizer_name_or_path: no tokenizer at {name_or_path!r} ({error})") from error
    return tokenizer


def embed_text(text: str, tokenizer: Tokenizer, num_virtual_tokens: int, word_embeddings: nn.Module) -> Tensor:
    """Return the embeddings of a text's tokens, repeated or cut to the prompt's length.

    The ids are the tokenizer's own, special tokens included, as in PEFT.

    Returns:
        float32, shape ``(N, D)``.

    Raises:
        UserError: The text is empty.
    """
    ids = list(tokenizer(text)["input_ids"]) if text.strip() else []
    if not ids:
        raise UserError(f"prompt_tuning_init_text: {text!r} has no tokens; give a text that says the task")
    repeated = (ids * (num_virtual_tokens // len(ids) + 1))[:num_virtual_tokens]
    return _embed(torch.tensor(repeated), word_embeddings)


def sample_vocabulary(count: int, word_embeddings: nn.Embedding) -> Tensor:
    """Return the embeddings of tokens drawn from the whole vocabulary, each as likely as the next.

    Returns:
        float32, shape ``(count, D)``.
    """
    return _embed(torch.randint(0, word_embeddings.num_embeddings, (count,)), word_embeddings)


@torch.no_grad()
def _embed(ids: Tensor, word_embeddings: nn.Module) -> Tensor:
    # The module is called, not indexed: some scale what they look up.
    device = next(word_embeddings.parameters()).device
    embedded: Tensor = word_embeddings(ids.to(device))
    return embedded.detach().clone().to("cpu", torch.float32)


def start_factors(
    shape: tuple[int, int, int, int], form: str, factor_init: str, factor_std: float
) -> tuple[Tensor, Tensor]:
    """Draw the cols and rows that tasks start with.

    Under ``normal``, and in the residual and additive forms always, all numbers come from N(0, factor_std^2). Under
    ``ones`` the first rank is 1 throughout and the other ranks are drawn, so that W is 1 plus noise.

    Args:
        shape: T, N, R and D.
        form: product, residual or additive.
        factor_init: normal or ones.
        factor_std: Standard deviation of the noise.

    Returns:
        cols ``(T, N, R)`` and rows ``(T, R, D)``.
    """
    T, N, R, D = shape
    cols = torch.normal(0.0, factor_std, (T, N, R))
    rows = torch.normal(0.0, factor_std, (T, R, D))
    if factor_init == "ones" and form == "product":
        cols[:, :, 0] = 1.0
        rows[:, 0, :] = 1.0
    return cols, rows
