"""Texts as the token ids that a backbone reads: what stands around an input, what ends a target, what a cut keeps."""

from collections.abc import Sequence
from typing import Any


class Tokenization:
    """The texts of an encoder-decoder: inputs and targets as its tokenizer writes them, each with its end.

    Args:
        tokenizer: Of transformers.

    Attributes:
        tokenizer: As passed in.
        settings: What a saved prompt records, so that its inputs are always written as in its training.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.settings: dict[str, Any] = {}

    @property
    def pad_token_id(self) -> int:
        """What fills a batch up; the attention mask hides it."""
        return int(self.tokenizer.pad_token_id)

    def encode_inputs(
        self, texts: Sequence[str], longest: int | None = None
    ) -> tuple[list[list[int]], list[int]]:
        """Write inputs as token ids; what is too long loses its end, but keeps what has to stand before the answer.

        Args:
            texts: As a task's template writes them.
            longest: Most tokens of one; None: any number.

        Returns:
            The ids of each, and the positions of those that were cut.
        """
        return _cut(self._encode(texts), longest, [self.tokenizer.eos_token_id])

    def encode_targets(
        self, texts: Sequence[str], longest: int | None = None
    ) -> tuple[list[list[int]], list[int]]:
        """Write targets as token ids; a cut one keeps its end, without which the model would learn never to stop."""
        return _cut(self._encode(texts), longest, [self.tokenizer.eos_token_id])

    def _encode(self, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=special, verbose=False)[
            "input_ids"
        ]
        return ids


class CausalTokenization(Tokenization):
    """The texts of a causal model, which reads input and target as one: input, separator or chat turn, target, end.

    Args:
        tokenizer: Of transformers; it needs an end-of-sequence token.
        separator: Stands between input and target. A space at its end goes to the target, whose first word then is the
            token that it would be in running text.
        chat_template: Write each input as a user's turn of the tokenizer's chat template, and open the answer, in place
            of the separator.

    Raises:
        ValueError: The tokenizer has no end-of-sequence token, or no chat template where one is asked for.
    """

    def __init__(self, tokenizer: Any, separator: str = "\n", chat_template: bool = False) -> None:
        super().__init__(tokenizer)
        if tokenizer.eos_token_id is None:
            raise ValueError("backbone: its tokenizer has no end-of-sequence token, so no target could end")
        if chat_template and not tokenizer.chat_template:
            raise ValueError(
                "backbone.chat_template: the tokenizer has none; set it to false, or take an instruction-tuned model"
            )
        self.separator, self.chat_template = separator, chat_template
        self.settings = {"separator": separator, "chat_template": chat_template}
        content = "a text"
        _, _, after = self._surround(content).rpartition(content)
        self._ending = self._encode([after], special=False)[0] if after else []
        self._shortest = len(self._encode([self._surround("")], special=not chat_template)[0])

    @property
    def pad_token_id(self) -> int:
        """What fills a batch up; many of these tokenizers have no token for it, and any will do."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def encode_inputs(
        self, texts: Sequence[str], longest: int | None = None
    ) -> tuple[list[list[int]], list[int]]:
        """Write inputs as token ids, the tokenizer's own beginning of a sequence included where it has one.

        Raises:
            ValueError: ``longest`` leaves no room for a text.
        """
        if longest is not None and longest <= self._shortest:
            raise ValueError(
                f"max_source_tokens: is {longest}, and what stands around an input takes {self._shortest} of them; "
                f"give more than {self._shortest}"
            )
        whole = self._encode([self._surround(text) for text in texts], special=not self.chat_template)
        return _cut(whole, longest, self._ending)

    def encode_targets(
        self, texts: Sequence[str], longest: int | None = None
    ) -> tuple[list[list[int]], list[int]]:
        """Write targets as token ids: no beginning, since they go on from the input, but an end."""
        end = self.tokenizer.eos_token_id
        space = " " if self.separator.endswith(" ") and not self.chat_template else ""
        whole = self._encode([space + text for text in texts], special=False)
        return _cut([[*ids, end] for ids in whole], longest, [end])

    def _surround(self, text: str) -> str:
        if not self.chat_template:
            return text + self.separator.removesuffix(" ")
        turns = [{"role": "user", "content": text}]
        rendered: str = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return rendered


def _cut(texts: list[list[int]], longest: int | None, ending: list[int]) -> tuple[list[list[int]], list[int]]:
    """Shorten what is longer than ``longest``, which keeps its ending; and the positions of those."""
    if longest is None:
        return texts, []
    cut = [position for position, ids in enumerate(texts) if len(ids) > longest]
    for position in cut:
        texts[position] = [*texts[position][: longest - len(ending)], *ending]
    return texts, cut
