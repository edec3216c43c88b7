"""In-context learning: the examples stand before every input, and nothing is trained."""

import random
from collections.abc import Iterator, Sequence

from mpt.adapter.written import WrittenAround
from mpt.config import RunConfig
from mpt.errors import UserError
from mpt.methods import Method, Written, method
from mpt.tasks import Example, Surround

FIELDS = ("{input}", "{target}")


@method
class InContext(WrittenAround, Method):
    """The k examples before every input (Brown et al. 2020), as many as fit, in the order of ``seeds.order``.

    ``method.own.example`` writes one of them, ``method.own.max_tokens`` bounds the whole input. All inputs of a task
    have the same examples before them: as many as the longest of them leaves room for.
    """

    name = "in_context"
    source = "never"
    learns = False
    tasks_are_separate = True
    own = {"example": "{input}\n{target}\n\n", "max_tokens": 1024}  # noqa: RUF012

    @classmethod
    def check(cls, config: RunConfig) -> Iterator[str]:
        """As for every method; the examples are the few-shot draw, and each has both of its parts."""
        yield from super().check(config)
        own = {**cls.own, **config.method.own}
        if config.few_shot.k is None:
            yield "few_shot.k: is null, and method=in_context writes k examples before each input; set it, such as 4"
        for part in FIELDS:
            if str(own["example"]).count(part) != 1:
                yield f"method.own.example: is {own['example']!r}; it must have {part} once"
        if isinstance(own["max_tokens"], int) and own["max_tokens"] < 1:
            yield f"method.own.max_tokens: is {own['max_tokens']}; it must be at least 1"

    @classmethod
    def surround(cls, config: RunConfig, written: Written) -> dict[str, Surround]:
        """Write as many examples as fit before the inputs of each task.

        Raises:
            UserError: Not one of them fits.
        """
        own = {**cls.own, **config.method.own}
        longest = min(own["max_tokens"], own["max_tokens"] if written.room is None else written.room)
        found = {}
        for name, examples in written.train.items():
            shown = list(examples)
            random.Random(written.seed).shuffle(shown)
            texts = [cls._write(own["example"], each) for each in shown]
            count = cls._fitting(texts, written.inputs[name], longest, written)
            if count == 0:
                raise UserError(
                    f"tasks.{name}: not one example fits before its longest input into {longest} tokens; raise "
                    "method.own.max_tokens, if the backbone has positions for more"
                )
            said = f"{count} of {len(texts)} examples stand before each input, in up to {longest} tokens"
            found[name] = Surround("".join(texts[:count]), "", longest, said)
        return found

    @staticmethod
    def _write(template: str, example: Example) -> str:
        """Write an example; what its own texts hold stays as it is."""
        before, _, rest = template.partition("{input}")
        if "{target}" in before:
            start, _, between = before.partition("{target}")
            return start + example.target + between + example.input + rest
        between, _, end = rest.partition("{target}")
        return before + example.input + between + example.target + end

    @staticmethod
    def _fitting(texts: Sequence[str], inputs: Sequence[str], longest: int, written: Written) -> int:
        """The most examples that fit before the longest input."""
        ids, _ = written.tokenization.encode_inputs(inputs)
        longest_input = inputs[max(range(len(ids)), key=lambda position: len(ids[position]))]
        whole, _ = written.tokenization.encode_inputs(
            ["".join(texts[:count]) + longest_input for count in range(1, len(texts) + 1)]
        )
        return sum(len(each) <= longest for each in whole)
