"""What the likelihood of several choices costs, with the input read once for all of them, and once for each.

python experiments/benchmarks/likelihood.py [ROUNDS]       # ratios of CPU seconds, interleaved, one thread; seconds
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mpt.backbone import load_backbone
from mpt.config import BackboneConfig
from mpt.inputs import Inputs

CHOICES = ["animals", "clothes", "tools", "food", "a long answer", "places", "trees", "water and salt"]
B, S, N = 64, 40, 20
"""Inputs, their tokens, virtual tokens."""


def cpu_seconds(work: Callable[[], Tensor]) -> float:
    """CPU seconds of some work."""
    began = time.process_time()
    work()
    return time.process_time() - began


@torch.no_grad()
def main(rounds: int) -> None:
    """Print the ratio of each round."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    backbone = load_backbone(BackboneConfig("tiny"))
    backbone.eval()
    ids, _ = backbone.tokenization.encode_targets(CHOICES)
    prompts = torch.randn(B, N, backbone.token_dim)
    inputs = Inputs(torch.randint(5, 200, (B, S)), torch.ones(B, S, dtype=torch.long), prompts)

    def once() -> Tensor:
        return backbone.choice_losses(inputs, ids)

    def each() -> Tensor:
        return torch.stack([backbone.example_losses(inputs, torch.tensor([one] * B)) for one in ids], dim=1)

    torch.testing.assert_close(once(), each())
    ratios = sorted(cpu_seconds(each) / cpu_seconds(once) for _ in range(rounds))
    print(f"{len(CHOICES)} choices: each by itself / once: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
