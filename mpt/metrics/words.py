"""Word tokenizers of BLEU and ROUGE: sacrebleu's, and the choice by the letters of the references."""

import re
from collections.abc import Callable
from functools import cache

from mpt.metrics.metric import References

TOKENIZERS = ("auto", "13a", "intl", "char", "zh", "ja-mecab", "ko-mecab", "none")
"""Names that ``metric_tokenizer`` takes: sacrebleu's, and auto."""
PACKAGES = {"ja-mecab": ("MeCab", "sacrebleu[ja]"), "ko-mecab": ("mecab_ko", "sacrebleu[ko]")}
"""Tokenizer to the module that it needs, and what to install."""
_LATIN = re.compile("[A-Za-z\u00aa-\u024f\u1e00-\u1eff]")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese letters: their words are not separated by spaces."""
_LETTER = re.compile(r"[^\W\d_]")


def choose_tokenizer(name: str, references: References) -> str:
    """Choose what counts as a word under ``auto``: by the letters of the references.

    13a knows the Latin script, and ROUGE's own tokenizer drops all other letters, so that two equal Chinese texts would
    score 0.
    """
    if name != "auto":
        return name
    text = "".join(reference for accepted in references for reference in accepted)
    letters = len(_LETTER.findall(text)) + len(_UNSPACED.findall(text)) / 4  # some of these count as marks
    if len(_UNSPACED.findall(text)) > letters / 4:
        return "char"
    return "13a" if 2 * len(_LATIN.findall(text)) >= letters else "intl"


class Words:
    """Splits texts for ROUGE as sacrebleu's tokenizer of this name does, in lower case and without punctuation."""

    def __init__(self, name: str) -> None:
        self._split = sacrebleu_tokenizer(name)

    def tokenize(self, text: str) -> list[str]:
        """List the words of a text."""
        words: list[str] = self._split(text).split()
        return [word for word in words if any(character.isalnum() for character in word)] or words


@cache
def sacrebleu_tokenizer(name: str) -> Callable[[str], str]:
    """Split texts as sacrebleu's tokenizer of this name does: words with spaces between them."""
    from sacrebleu.metrics import BLEU

    tokenizer: Callable[[str], str] = BLEU(tokenize=name).tokenizer
    return tokenizer
