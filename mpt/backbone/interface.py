"""The backbone as everything else sees it: losses of examples, answers, and the facts that a prompt has to know.

Shape legend: B examples in a batch, S input tokens, N virtual tokens, D token_dim, L target tokens, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mpt.backbone.tokenization import Tokenization
from mpt.errors import UserError
from mpt.inputs import Inputs


@dataclass(frozen=True)
class Outputs:
    """The result of one teacher-forced forward.

    Attributes:
        logits: ``(B, L, V)``.
        input_states: What goes into each layer, and last what comes out, at the tokens of the input; ``(B, S, D)``
            each, empty unless asked for.
        target_states: The same where the tokens of the target are predicted, ``(B, L, D)`` each.
    """

    logits: Tensor
    input_states: tuple[Tensor, ...] = ()
    target_states: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Facts:
    """The contract of a backbone, whoever computes for it.

    Attributes:
        name: What runs and prompts call it: ``tiny``, a hub id, or a folder.
        location: Where ``from_pretrained`` finds it: a hub id or an absolute folder.
        fingerprint: Hash of the weights, as loaded.
        task_type: PEFT's name for this kind of model.
        max_positions: Most tokens that it takes, virtual ones, input and target together; None: any number.
        has_dropout: Whether training mode draws dropout masks.
        quantize: As :attr:`mpt.config.BackboneConfig.quantize`.
    """

    name: str
    location: str
    fingerprint: str
    task_type: str
    max_positions: int | None
    has_dropout: bool
    quantize: str | None = None


class Backbone(nn.Module, ABC):
    """A frozen language model and its tokenizer, or whoever answers in its place.

    Args:
        model: A model of transformers.
        tokenization: How its texts become token ids.
        facts: What it is.
        dropout: Whether training mode reaches the model, as in the paper.

    Attributes:
        model: As passed in.
        tokenization: As passed in.
        facts: As passed in.
        dropout: As passed in.
    """

    def __init__(self, model: PreTrainedModel, tokenization: Tokenization, facts: Facts, dropout: bool) -> None:
        super().__init__()
        self.model, self.tokenization, self.facts, self.dropout = model, tokenization, facts, dropout

    @abstractmethod
    def outputs(self, inputs: Inputs, labels: Tensor, hidden: bool = False) -> Outputs:
        """Teacher-forced logits, and the hidden states behind them.

        Args:
            inputs: B examples.
            labels: ``(B, L)``; -100 pads.
            hidden: Give the hidden states too.
        """

    @abstractmethod
    def example_losses(self, inputs: Inputs, labels: Tensor) -> Tensor:
        """Negative log likelihood of each example's target, summed over its tokens; arguments as :meth:`outputs`.

        Returns:
            float32, ``(B,)``, in nats.
        """

    @abstractmethod
    def generate(
        self,
        inputs: Inputs,
        choices: Sequence[str] | None = None,
        seed: int = 0,
        answers: str = "generation",
        **generation: Any,
    ) -> list[str]:
        """Answer each example; greedy unless ``generation`` says otherwise.

        Of the model's own generation configuration only the special tokens count. Sampled answers follow from
        the seed and the example, so it does not depend on the batch; beams that are sampled do.

        Args:
            inputs: B examples.
            choices: The texts that an answer may be, such as label words; None: any.
            seed: Seed of sampled answers.
            answers: generation; likelihood: the choice that is likeliest as a whole; likelihood_per_token: by the mean
                over its tokens. Of equal ones the first.
            generation: Arguments of transformers' ``generate``.

        Returns:
            B texts without special tokens; under ``num_return_sequences=n``, n of them for each example.
        """

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a loss that comes from this backbone."""

    def logits(self, inputs: Inputs, labels: Tensor) -> Tensor:
        """Teacher-forced logits, ``(B, L, V)`` in the model's dtype; as :meth:`outputs`."""
        return self.outputs(inputs, labels).logits

    @property
    def name(self) -> str:
        """Its name in runs and saved prompts."""
        return self.facts.name

    @property
    def location(self) -> str:
        """Its address for ``from_pretrained``: a hub id or an absolute folder."""
        return self.facts.location

    @property
    def fingerprint(self) -> str:
        """Hash of the weights, as loaded."""
        return self.facts.fingerprint

    @property
    def task_type(self) -> str:
        """PEFT's name for this kind of model."""
        return self.facts.task_type

    @property
    def max_positions(self) -> int | None:
        """Most tokens that the model takes, virtual ones, input and target together; None: any number."""
        return self.facts.max_positions

    @property
    def drops_out(self) -> bool:
        """True where a forward in the present mode draws dropout masks, so that equal rows differ in loss."""
        return self.training and self.dropout and self.facts.has_dropout

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, of transformers."""
        return self.tokenization.tokenizer

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The input embeddings, weight ``(V, D)``."""
        embeddings = self.model.get_input_embeddings()
        assert isinstance(embeddings, nn.Embedding)
        return embeddings

    @property
    def token_dim(self) -> int:
        """D, the width of the input embeddings."""
        return self.word_embeddings.embedding_dim

    @property
    def vocabulary(self) -> int:
        """V, how many logits a token has."""
        output = self.model.get_output_embeddings()
        assert isinstance(output, nn.Linear)
        return output.out_features

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return self.word_embeddings.weight.device

    def describe(self) -> dict[str, Any]:
        """Say what a saved prompt has to know of its backbone: name, weights, and how inputs are written."""
        quantized = {} if self.facts.quantize is None else {"quantize": self.facts.quantize}
        return {"name": self.name, "fingerprint": self.fingerprint, **quantized, **self.tokenization.settings}

    def longest_input(self, num_virtual_tokens: int, target_tokens: int) -> int | None:
        """Compute how many tokens of input fit beside a prompt and a target; None: any number.

        Raises:
            UserError: None do.
        """
        if self.max_positions is None:
            return None
        left = self.max_positions - num_virtual_tokens - target_tokens
        if left < 1:
            raise UserError(
                f"backbone: {self.name} takes {self.max_positions} tokens, and {num_virtual_tokens} virtual tokens "
                f"with {target_tokens} of a target leave no room for an input; give fewer of either"
            )
        return left
