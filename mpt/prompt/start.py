"""The width and the first values of P, as a config asks for them.

Shape legend: G groups of P, N virtual tokens, D token_dim.
"""

from torch import Tensor, nn

from mpt import initialize
from mpt.config import MultitaskPromptTuningInit
from mpt.prompt.config import MultitaskPromptTuningConfig


def width(config: MultitaskPromptTuningConfig, word_embeddings: nn.Embedding | None) -> int:
    """D, from the config, the word embeddings, or both when they agree."""
    if word_embeddings is None:
        if config.token_dim is None:
            raise ValueError("token_dim: not given; give it, or the word embeddings of the backbone")
        return config.token_dim
    given = word_embeddings.embedding_dim
    if config.token_dim not in (None, given):
        raise ValueError(
            f"token_dim: is {config.token_dim}, but the word embeddings have {given}; give {given}"
        )
    return given


def start_shared(
    config: MultitaskPromptTuningConfig, drawn: Tensor, word_embeddings: nn.Embedding | None
) -> Tensor:
    """First values of P, ``(G * N, D)``, where ``drawn`` comes from N(0, 1)."""
    init, N = config.prompt_tuning_init, config.num_virtual_tokens
    if config.inference_mode or init not in (
        MultitaskPromptTuningInit.TEXT,
        MultitaskPromptTuningInit.VOCABULARY,
    ):
        return drawn * config.init_std
    if word_embeddings is None:
        raise ValueError(f"word_embeddings: not given, and prompt_tuning_init={init} starts from them")
    if init == MultitaskPromptTuningInit.VOCABULARY:
        return initialize.sample_vocabulary(len(drawn), word_embeddings)
    if not config.prompt_tuning_init_text:
        raise ValueError("prompt_tuning_init_text: not given, and prompt_tuning_init=TEXT starts from it")
    tokenizer = config.tokenizer
    if tokenizer is None:
        if not config.tokenizer_name_or_path:
            raise ValueError(
                "tokenizer_name_or_path: not given, and prompt_tuning_init=TEXT needs a tokenizer"
            )
        tokenizer = initialize.open_tokenizer(config.tokenizer_name_or_path, config.tokenizer_kwargs)
    text = initialize.embed_text(config.prompt_tuning_init_text, tokenizer, N, word_embeddings)
    return text.repeat(config.num_groups, 1)  # G*N D
