"""Trained prompts for other programs and other people: plain soft prompts, embeddings, banks, cards, the hub."""

from mpt.export.bake import bake, embed
from mpt.export.card import write_card
from mpt.export.push import push

__all__ = ["bake", "embed", "push", "write_card"]
