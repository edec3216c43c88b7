"""Tell the weights of one model from those of another."""

import hashlib

import torch
from torch import nn

_FINGERPRINT_SAMPLE = 4096


def fingerprint(model: nn.Module) -> str:
    """Identify weights, whatever dtype they were loaded in.

    Hashes the names, the shapes, and the signs of a sample of each tensor: rounding to another dtype changes
    every other digit, never a sign.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.flatten()
        sample = flat[:: max(1, len(flat) // _FINGERPRINT_SAMPLE)]
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        # Of numbers in 8 and 4 bits, which nobody loads in another dtype, all counts.
        found = sample if tensor.dtype in (torch.int8, torch.uint8) else torch.signbit(sample)
        digest.update(found.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
