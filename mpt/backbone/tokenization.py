"""Texts as the token ids that a backbone reads: what stands around an input, what ends a target, what a cut keeps."""

import re
from collections.abc import Sequence
from typing import Any

from mpt.errors import UserError

MANY = 1024
"""Texts from which on they go to the tokenizers library itself; transformers takes nearly as long again for each."""


class Tokenization:
    """The texts of an encoder-decoder: inputs and targets as its tokenizer writes them, each with its end.

    Args:
        tokenizer: A tokenizer of transformers.

    Attributes:
        tokenizer: As passed in.
        settings: What a saved prompt records, so that its inputs are always written as in its training.

    Raises:
        UserError: The tokenizer has no end-of-sequence token.
    """

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError("backbone: its tokenizer has no end-of-sequence token, so no target could end")
        self.tokenizer = tokenizer
        self.settings: dict[str, Any] = {}
        self._looks_like_control = re.compile("|".join(map(re.escape, tokenizer.all_special_tokens)))

    @property
    def pad_token_id(self) -> int:
        """Token that pads a batch; the attention mask hides it, so any will do where the tokenizer has none."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def encode_inputs(self, texts: Sequence[str], longest: int | None = None) -> tuple[list[list[int]], list[int]]:
        """Write inputs as token ids; what is too long loses its end, but keeps what has to stand before the answer.

        Args:
            texts: As a task's template writes them.
            longest: Most tokens of one; None: any number.

        Returns:
            The ids of each, and the positions of those that were cut.
        """
        return _cut(self._encode(texts), longest, [self.tokenizer.eos_token_id])

    def encode_targets(self, texts: Sequence[str], longest: int | None = None) -> tuple[list[list[int]], list[int]]:
        """Write targets as token ids; a cut one keeps its end, without which the model would learn never to stop."""
        return _cut(self._encode(texts), longest, [self.tokenizer.eos_token_id])

    def decode(self, ids: Any) -> list[str]:
        """Read token ids back as texts, without control tokens and with every space and sign that was written.

        Some tokenizers clean up by themselves, and take the spaces of ``it 's good !``.
        """
        texts: list[str] = self.tokenizer.batch_decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [text.strip() for text in texts]

    def control_token(self, text: str) -> str | None:
        """Find a control token in a text that the model would read as one, such as ``</s>``; None: there is none."""
        if not self._looks_like_control.search(text):
            return None
        suspects = [token for token in self.tokenizer.all_special_tokens if token in text]
        special = set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}
        ids = self._encode([text], special=False)[0]
        return (
            next((token for token in suspects if token != self.tokenizer.unk_token), None)
            if (special & set(ids))
            else None
        )

    def _encode(self, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
        if not texts:
            return []
        library = getattr(self.tokenizer, "backend_tokenizer", None)
        if library is not None and len(texts) >= MANY:
            self._encode(texts[:1], special=special)  # by which transformers sets the library's options
            # Without what transformers notes of each text beside its ids, and without the places of the tokens.
            return [each.ids for each in library.encode_batch_fast(list(texts), add_special_tokens=special)]
        # The names of control tokens in a text are text, where the tokenizer can write them so.
        ids: list[list[int]] = self.tokenizer(
            list(texts),
            add_special_tokens=special,
            verbose=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            split_special_tokens=not self._reads_control,
        )["input_ids"]
        return ids

    @property
    def _reads_control(self) -> bool:
        """True where the text around an input is written with control tokens."""
        return False


class CausalTokenization(Tokenization):
    """The texts of a causal model, which reads input and target as one: input, separator or chat turn, target, end.

    Args:
        tokenizer: A tokenizer of transformers; it needs an end-of-sequence token.
        separator: Stands between input and target. A space at its end goes to the target, whose first word then is the
            token that it would be in running text.
        chat_template: Write each input as a user's turn of the tokenizer's chat template, and open the answer, in place
            of the separator.

    Raises:
        UserError: The tokenizer has no end-of-sequence token, or no chat template where one is asked for.
    """

    def __init__(self, tokenizer: Any, separator: str = "\n", chat_template: bool = False) -> None:
        super().__init__(tokenizer)
        if chat_template and not tokenizer.chat_template:
            raise UserError(
                "backbone.chat_template: the tokenizer has none; set it to false, or take an instruction-tuned model"
            )
        self.separator, self.chat_template = separator, chat_template
        self.settings = {"separator": separator, "chat_template": chat_template}
        # Of a whole input, since some tokenizers begin a text of its own with a space.
        content = "a text"
        before, _, after = self._surround(content).rpartition(content)
        whole, cut = self._encode([before + content + after, before + content], special=not chat_template)
        alike = next((i for i, pair in enumerate(zip(whole, cut, strict=False)) if pair[0] != pair[1]), len(cut))
        self._ending = whole[alike:] if after else []
        self._shortest = len(self._encode([self._surround("")], special=not chat_template)[0])

    def encode_inputs(self, texts: Sequence[str], longest: int | None = None) -> tuple[list[list[int]], list[int]]:
        """Write inputs as token ids, the tokenizer's own beginning of a sequence included where it has one.

        Raises:
            UserError: ``longest`` leaves no room for a text.
        """
        if longest is not None and longest <= self._shortest:
            raise UserError(
                f"max_source_tokens: is {longest}, and what stands around an input takes {self._shortest} of them; "
                f"give more than {self._shortest}"
            )
        whole = self._encode([self._surround(text) for text in texts], special=not self.chat_template)
        return _cut(whole, longest, self._ending)

    def encode_targets(self, texts: Sequence[str], longest: int | None = None) -> tuple[list[list[int]], list[int]]:
        """Write targets as token ids: no beginning, since they go on from the input, but an end."""
        end = self.tokenizer.eos_token_id
        space = " " if self.separator.endswith(" ") and not self.chat_template else ""
        whole = self._encode([space + text for text in texts], special=False)
        return _cut([[*ids, end] for ids in whole], longest, [end])

    @property
    def _reads_control(self) -> bool:
        return self.chat_template or any(token in self.separator for token in self.tokenizer.all_special_tokens)

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
