"""From the texts of a task to token ids, cut to what the task allows."""

from collections.abc import Sequence
from typing import Any

from mpt.backbone import Tokenization
from mpt.config import TaskConfig
from mpt.data.kept_tokens import FEWEST, tokenize_once
from mpt.data.token_rows import TokenizedExamples, TokenRows
from mpt.errors import UserError
from mpt.tasks import Example, Surround, label_words

MOST_DECODED = 2000
PIECE = 4096
"""Texts that are tokenized at a time: what a tokenizer notes beside the ids takes kilobytes a text."""


def tokenize(
    examples: Sequence[Example],
    tokenization: Tokenization,
    config: TaskConfig,
    prefix: str = "",
    surround: Surround | None = None,
    keep: bool = False,
) -> TokenizedExamples:
    """Turn the texts of a task into token ids, cut to its longest input and target.

    Args:
        examples: The task's.
        tokenization: The backbone's.
        config: The task's.
        prefix: Stands before each input.
        surround: Stands around each input, and says how long it may be.
        keep: Keep the ids of many examples in the cache, and take them from there.
    """
    around = surround or Surround(prefix)
    longest = config.max_source_tokens if around.longest is None else around.longest
    if keep and len(examples) >= FEWEST:
        return tokenize_once(
            tokenization,
            [longest, config.max_target_tokens],
            ((around.write(example.input), example.target) for example in examples),
            lambda: tokenize(examples, tokenization, config, prefix, surround),
        )
    inputs, targets, cut_inputs, cut_targets = TokenRows(), TokenRows(), 0, 0
    for start in range(0, len(examples), PIECE):
        piece = examples[start : start + PIECE]
        for key in ("input", "target"):
            for example in piece:
                if token := tokenization.control_token(getattr(example, key)):
                    raise UserError(
                        f"{example.row_id}: the {key} holds {token!r}, which the tokenizer reads as a control token, "
                        "not as text; take it out of the data, or write it otherwise"
                    )
        ids, cut = tokenization.encode_inputs([around.write(example.input) for example in piece], longest)
        inputs.extend(ids)
        cut_inputs += len(cut)
        ids, cut = tokenization.encode_targets([example.target for example in piece], config.max_target_tokens)
        targets.extend(ids)
        cut_targets += len(cut)
    unknown = [share_of_unknown(ids, tokenization.tokenizer) for ids in (inputs, targets)]
    kept = share_of_kept(targets, [example.target for example in examples], tokenization)
    return TokenizedExamples(inputs, targets, cut_inputs, cut_targets, unknown[0], unknown[1], kept)


def share_of_kept(ids: TokenRows, texts: Sequence[str], tokenization: Tokenization) -> float:
    """Share of texts that their token ids give back: no answer can equal one that is lost on the way.

    Of more than :data:`MOST_DECODED` texts, of some that lie evenly among them.
    """
    if not texts:
        return 1.0
    every = -(-len(texts) // MOST_DECODED)
    found = tokenization.decode(ids[::every])
    return sum(map(str.__eq__, found, (text.strip() for text in texts[::every]))) / len(found)


def share_of_unknown(texts: TokenRows, tokenizer: Any) -> float:
    """Share of the tokens that are the tokenizer's unknown token; 0 of one that knows every text."""
    if tokenizer.unk_token_id in (None, tokenizer.eos_token_id):
        return 0.0
    tokens = texts.tokens
    return int((tokens == tokenizer.unk_token_id).sum()) / max(1, len(tokens))


def check_labels(name: str, examples: Sequence[Example], tokenization: Tokenization, config: TaskConfig) -> None:
    """Refuse a classification whose labels no answer could give: the same tokens, cut, or lost in the tokenizer.

    Args:
        name: The task's.
        examples: Those of all splits.
        tokenization: The backbone's.
        config: The task's configuration, for the longest target.

    Raises:
        UserError: As said.
    """
    known = {example.label for example in examples if example.label is not None}
    if not known and not config.constrained:
        return
    labels = sorted(known | set(label_words(config)))
    ids, _ = tokenization.encode_targets(labels)
    found: dict[tuple[int, ...], str] = {}
    for label, tokens, text in zip(labels, map(tuple, ids), tokenization.decode(ids), strict=True):
        where = f"tasks.{name}.labels"
        if len(tokens) > config.max_target_tokens:
            raise UserError(
                f"{where}: {label!r} has {len(tokens)} tokens with the end, and would be cut; set "
                f"tasks.{name}.max_target_tokens to {len(tokens)} or more, or choose a shorter word"
            )
        if tokens in found:
            raise UserError(
                f"{where}: {found[tokens]!r} and {label!r} are the same tokens to the backbone, {text!r}; "
                "choose label words that its tokenizer knows, or another backbone"
            )
        if text != label.strip():
            raise UserError(
                f"{where}: the tokenizer gives {label!r} back as {text!r}, so that no answer could be right; choose "
                "label words that it knows (their spaces, accents and signs count), or another backbone"
            )
        found[tokens] = label
