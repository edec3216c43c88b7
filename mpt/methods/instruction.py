"""A written instruction around every input, and nothing that is trained."""

from collections.abc import Iterator

from mpt.adapter.written import WrittenAround
from mpt.config import RunConfig
from mpt.methods import Method, Written, method
from mpt.tasks import Surround


@method
class Instruction(WrittenAround, Method):
    """A text with ``{input}`` in it, in which ``{prefix}`` stands for the task's natural prefix.

    A study tries several of them as the method's ``grid``, and takes the best on its tuning draws.
    """

    name = "instruction"
    source = "never"
    learns = False
    tasks_are_separate = True
    own = {"template": "{prefix}{input}"}  # noqa: RUF012

    @classmethod
    def check(cls, config: RunConfig) -> Iterator[str]:
        """As for every method; the text has the input once, and a prefix only where every task has one."""
        yield from super().check(config)
        template = str({**cls.own, **config.method.own}["template"])
        if template.count("{input}") != 1:
            yield f"method.own.template: is {template!r}; it must have {{input}} once"
        for name, task in config.tasks.items():
            if "{prefix}" in template and task.prefix is None:
                yield (
                    f"method.own.template: is {template!r}, and tasks.{name} has no prefix; write the instruction, as "
                    "in 'method.own.template=\"Classify: {input}\"'"
                )

    @classmethod
    def surround(cls, config: RunConfig, written: Written) -> dict[str, Surround]:
        """Write the instruction around the inputs of each task, which may be longer by it."""
        before, _, after = str({**cls.own, **config.method.own}["template"]).partition("{input}")
        found = {}
        for name, task in config.tasks.items():
            start, end = (part.replace("{prefix}", task.prefix or "") for part in (before, after))
            ids, _ = written.tokenization.encode_inputs([start + end or " "])
            found[name] = Surround(
                start, end, task.max_source_tokens + len(ids[0]), f"reads {start + '{input}' + end!r}"
            )
        return found
