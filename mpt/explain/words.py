"""The words of the vocabulary that lie nearest to some vectors, by cosine.

Shape legend: M vectors, V words, D token_dim.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mpt.backbone import Backbone

PIECE = 16_384
"""Words that are compared at a time."""
RANDOM = 256
"""Vectors that are drawn to say how near a word is to a vector that means nothing."""


class Word(NamedTuple):
    """A token of the vocabulary near a vector."""

    text: str
    cosine: float


def nearest_words(backbone: Backbone, vectors: Tensor, count: int) -> list[list[Word]]:
    """Find the nearest words of each vector, the nearest first; control tokens are none.

    Args:
        backbone: Its input embeddings are compared.
        vectors: ``(M, D)``.
        count: Words of each.
    """
    ids = word_ids(backbone)
    cosines, places = _nearest(backbone.word_embeddings, ids, vectors, min(count, len(ids)))
    return [
        [Word(_show(backbone, int(ids[place])), cosine) for cosine, place in zip(*row, strict=True)]
        for row in zip(cosines.tolist(), places.tolist(), strict=True)
    ]


def chance_cosine(backbone: Backbone, seed: int = 0) -> float:
    """Compute the mean cosine of a random direction and its nearest word: what is not above it says nothing."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(RANDOM, backbone.token_dim, generator=generator)
    return float(_nearest(backbone.word_embeddings, word_ids(backbone), vectors, 1)[0].mean())


def mean_norm(backbone: Backbone) -> float:
    """Compute the mean length of the words' embeddings."""
    weight = backbone.word_embeddings.weight.detach()
    return float(weight.index_select(0, word_ids(backbone).to(weight.device)).float().norm(dim=1).mean())


def word_ids(backbone: Backbone) -> Tensor:
    """List the ids of the tokens that are text, ``(V,)``."""
    tokenizer = backbone.tokenizer
    most = min(len(tokenizer), backbone.word_embeddings.num_embeddings)
    special = set(tokenizer.all_special_ids)
    return torch.tensor([token for token in range(most) if token not in special])


@torch.no_grad()
def _nearest(embeddings: nn.Embedding, ids: Tensor, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Cosines and positions among ``ids`` of the nearest words, ``(M, count)`` each."""
    unit = nn.functional.normalize(vectors.float(), dim=1)
    cosines, places = torch.empty(len(vectors), 0), torch.empty(len(vectors), 0, dtype=torch.long)
    for start in range(0, len(ids), PIECE):
        weight = embeddings.weight.index_select(0, ids[start : start + PIECE].to(embeddings.weight.device))
        found = unit @ nn.functional.normalize(weight.float().cpu(), dim=1).T
        both = torch.cat([cosines, found], dim=1)
        positions = torch.cat([places, torch.arange(start, start + len(weight)).expand(len(vectors), -1)], dim=1)
        cosines, best = both.topk(min(count, both.shape[1]), dim=1)
        places = positions.gather(1, best)
    return cosines, places


def _show(backbone: Backbone, token: int) -> str:
    """A token as text; as its piece of the vocabulary, where it is half of a character or only a space."""
    text: str = backbone.tokenizer.decode([token])
    return (
        text
        if text.strip() and "\N{REPLACEMENT CHARACTER}" not in text
        else str(backbone.tokenizer.convert_ids_to_tokens(token))
    )
