"""Questions that wait, and are answered together: whatever waits when the model is free is its next batch.

The prompts of all tasks lie side by side, so a batch mixes tasks. Nobody waits for a batch to fill: while the model
computes one, the next one gathers by itself.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpt.answering.prompted import PromptedModel
from mpt.errors import UserError

log = logging.getLogger(__name__)


class FullError(Exception):
    """More questions wait than may."""


@dataclass
class Question:
    """One text that waits for its answers.

    Attributes:
        task: Whose prompt answers it.
        text: The input.
        settings: Arguments of :meth:`mpt.PromptedModel.generate` beside texts and tasks.
        answers: Its answers, when they are there.
        on_text: Called, in the loop's thread, with its answer so far; None: nobody watches.
    """

    task: str
    text: str
    settings: Mapping[str, Any]
    answers: "asyncio.Future[list[str]]"
    on_text: Callable[[str], None] | None = None

    @property
    def key(self) -> Hashable:
        """Equal for questions that one call can answer."""
        return repr(sorted(self.settings.items()))


@dataclass
class Waiting:
    """The questions that wait for a model, and whoever answers them.

    Args:
        model: Answers.
        batch_size: Most texts in one forward.
        most: Most questions that may wait.

    Attributes:
        answered: Questions that have been answered.
        batches: How many batches that took.
    """

    model: PromptedModel
    batch_size: int = 32
    most: int = 1024
    answered: int = 0
    batches: int = 0
    _questions: deque[Question] = field(default_factory=deque)
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    def __len__(self) -> int:
        return len(self._questions)

    def ask(self, questions: Sequence[Question]) -> None:
        """Let questions wait, all of them or none.

        Raises:
            FullError: There is no room for them.
        """
        if len(self._questions) + len(questions) > self.most:
            raise FullError
        self._questions.extend(questions)
        self._came.set()

    async def answer_all(self) -> None:
        """Answer what waits, until it is cancelled."""
        while True:
            await self._came.wait()
            batch = self._next_batch()
            if batch:
                await asyncio.to_thread(self._answer, batch, asyncio.get_running_loop())
            if not self._questions:
                self._came.clear()

    def _next_batch(self) -> list[Question]:
        """Take the first question, and others that one call can answer with it; those nobody waits for are dropped."""
        self._questions = deque(each for each in self._questions if not each.answers.cancelled())
        if not self._questions:
            return []
        key = self._questions[0].key
        chosen = [each for each in self._questions if each.key == key][: self.batch_size]
        taken = set(map(id, chosen))
        self._questions = deque(each for each in self._questions if id(each) not in taken)
        return chosen

    def _answer(self, batch: Sequence[Question], loop: asyncio.AbstractEventLoop) -> None:
        """Answer a batch in this thread, and hand the answers out in the loop's."""

        def show(position: int, text: str) -> None:
            if (watcher := batch[position].on_text) is not None:
                loop.call_soon_threadsafe(watcher, text)

        watched = any(each.on_text is not None for each in batch)
        try:
            texts = self.model.generate(
                [each.text for each in batch],
                [each.task for each in batch],
                batch_size=self.batch_size,
                on_text=show if watched else None,
                **batch[0].settings,
            )
        except Exception as error:
            if isinstance(error, UserError) and len(batch) > 1:  # of one text; the others are answered
                for question in batch:
                    self._answer([question], loop)
                return
            if not isinstance(error, UserError):
                log.exception("a batch of %d questions was not answered", len(batch))
            for question in batch:
                loop.call_soon_threadsafe(_fail, question.answers, error)
            return
        self.answered, self.batches = self.answered + len(batch), self.batches + 1
        several = len(texts) // len(batch)
        for place, question in enumerate(batch):
            found = texts[place * several : (place + 1) * several]
            loop.call_soon_threadsafe(_end, question.answers, found)


def _end(answers: "asyncio.Future[list[str]]", found: list[str]) -> None:
    if not answers.done():
        answers.set_result(found)


def _fail(answers: "asyncio.Future[list[str]]", error: Exception) -> None:
    if not answers.done():
        answers.set_exception(error)
