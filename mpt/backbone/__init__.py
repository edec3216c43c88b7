"""The frozen backbone: one interface, and the architectures behind it."""

from mpt.backbone.cross_entropy import token_losses
from mpt.backbone.frozen import FrozenModel
from mpt.backbone.interface import Backbone, Outputs
from mpt.backbone.pretrained import TINY, load_backbone, load_tokenization
from mpt.backbone.tokenization import Tokenization

__all__ = [
    "TINY",
    "Backbone",
    "FrozenModel",
    "Outputs",
    "Tokenization",
    "load_backbone",
    "load_tokenization",
    "token_losses",
]
