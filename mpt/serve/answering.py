"""One request on its way: what it asks, and its answers in OpenAI's shape, as a whole or while they grow."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from mpt.answering.prompted import PromptedModel
from mpt.errors import UserError
from mpt.serve.refusing import FAILED, RefusedError, error_body
from mpt.serve.waiting import FullError, Question, Waiting
from mpt.serve.wire import Asked, Chat, Completion


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Attributes:
        token: What a client has to send as its API key; None: nothing.
        batch_size: Most texts in one forward.
        most_waiting: Most texts that wait for one.
        most_tokens: Most tokens of an answer.
        most_bytes: Most bytes of a request.
    """

    token: str | None = None
    batch_size: int = 32
    most_waiting: int = 1024
    most_tokens: int = 1024
    most_bytes: int = 2**20


class Answering:
    """One request on its way: its questions, and the shapes of its answers.

    Args:
        model: Answers.
        waiting: Where its questions wait.
        asked: The request.
        limits: What the server takes.
        chat: Whether it is a chat.

    Raises:
        RefusedError: The request cannot be answered.
    """

    def __init__(
        self, model: PromptedModel, waiting: Waiting, asked: Completion | Chat, limits: Limits, *, chat: bool
    ) -> None:
        self.model, self.waiting, self.asked, self.chat = model, waiting, asked, chat
        self.id, self.created = ("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12), int(time.time())
        task = known_task(model, asked.model)
        self.most = asked.most_tokens or min(model.answers[task].max_target_tokens, limits.most_tokens)
        if self.most > limits.most_tokens:
            raise RefusedError(400, f"max_tokens: is {self.most}, of {limits.most_tokens} at most", param="max_tokens")
        self.stops = [asked.stop] if isinstance(asked.stop, str) else [each for each in asked.stop or [] if each]
        if asked.stream and (asked.n > 1 or len(asked.texts) > 1):
            raise RefusedError(400, "stream: gives one answer to one text; send one, with n=1", param="stream")
        if len(asked.texts) > limits.most_waiting:
            message = f"prompt: has {len(asked.texts)} texts, of {limits.most_waiting} at most"
            raise RefusedError(400, message, param="prompt")
        self.input_tokens = sum(check_text(model, task, text, self.most) for text in asked.texts)
        settings = generation_of(asked) | {"max_new_tokens": self.most}
        loop = asyncio.get_running_loop()
        self.grown: asyncio.Queue[str] = asyncio.Queue()
        watch = self.grown.put_nowait if asked.stream else None
        self.questions = [Question(task, text, settings, loop.create_future(), watch) for text in asked.texts]
        try:
            waiting.ask(self.questions)
        except FullError:
            raise RefusedError(429, f"{len(waiting)} texts wait already; ask again later", "queue_full") from None

    async def answers(self) -> list[str]:
        """Wait for the answers, n of each text; where the client goes, nobody answers what still waits.

        Raises:
            RefusedError: The model does not take a text, or failed.
        """
        try:
            found = await asyncio.gather(*(question.answers for question in self.questions))
        except UserError as error:
            raise RefusedError(400, str(error)) from error
        except Exception as error:
            raise RefusedError(500, FAILED) from error
        finally:
            for question in self.questions:
                question.answers.cancel()
        return [text for of_text in found for text in of_text]

    def cut(self, text: str) -> tuple[str, str]:
        """Cut an answer at the first of ``stop``; and say why it ends."""
        ends = [text.index(stop) for stop in self.stops if stop in text]
        if ends:
            return text[: min(ends)], "stop"
        ids, _ = self.model.backbone.tokenization.encode_targets([text])
        return text, "length" if len(ids[0]) > self.most else "stop"

    def whole(self, texts: Sequence[str]) -> dict[str, Any]:
        """Write the response."""
        choices = []
        tokens = 0
        for index, (text, reason) in enumerate(map(self.cut, texts)):
            said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
            choices.append({"index": index, **said, "logprobs": None, "finish_reason": reason})
            tokens += self.count(text)
        return {**self.head(""), "choices": choices, "usage": self.usage(tokens)}

    def head(self, chunk: str) -> dict[str, Any]:
        """Write what every response and every chunk of one begins with."""
        kind = f"chat.completion{chunk}" if self.chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.asked.model}

    def usage(self, tokens: int) -> dict[str, int]:
        """Count tokens: those of the inputs, without the prompt's, and those of the answers."""
        return {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.input_tokens + tokens,
        }

    def count(self, text: str) -> int:
        """Count the tokens of an answer, its end among them."""
        ids, _ = self.model.backbone.tokenization.encode_targets([text])
        return min(len(ids[0]), self.most)

    async def chunks(self) -> AsyncIterator[str]:
        """Write the answer as events while it grows; what may be the start of a ``stop`` is held back."""
        if self.chat:
            yield self.event({"delta": {"role": "assistant", "content": ""}})
        held, sent = max(map(len, self.stops), default=1) - 1, ""
        ended = asyncio.ensure_future(self.answers())
        try:
            while not ended.done() or not self.grown.empty():
                growing = asyncio.ensure_future(self.grown.get())
                await asyncio.wait({growing, ended}, return_when=asyncio.FIRST_COMPLETED)
                if not growing.done():
                    growing.cancel()
                    continue
                text, reason = self.cut(growing.result())
                shown = text if reason == "stop" and text != growing.result() else text[: max(0, len(text) - held)]
                if len(shown) > len(sent) and shown.startswith(sent):
                    yield self.event(self.more(shown[len(sent) :]))
                    sent = shown
            text, reason = self.cut((await ended)[0])
        except RefusedError as error:
            yield f"data: {json.dumps(error_body(error))}\n\n"
            return
        finally:
            ended.cancel()  # the client may have gone
        if text[len(sent) :]:
            yield self.event(self.more(text[len(sent) :]))
        yield self.event({"delta": {}} if self.chat else {"text": ""}, reason)
        if (self.asked.stream_options or {}).get("include_usage"):
            last = {**self.head(".chunk"), "choices": [], "usage": self.usage(self.count(text))}
            yield f"data: {json.dumps(last)}\n\n"
        yield "data: [DONE]\n\n"

    def more(self, text: str) -> dict[str, Any]:
        """Write what an answer has grown by."""
        return {"delta": {"content": text}} if self.chat else {"text": text}

    def event(self, said: dict[str, Any], reason: str | None = None) -> str:
        """Write one event of a stream."""
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": reason}
        return f"data: {json.dumps({**self.head('.chunk'), 'choices': [choice]})}\n\n"


def known_task(model: PromptedModel, task: str) -> str:
    """Look a task up.

    Raises:
        RefusedError: There is none.
    """
    if task not in model.task_names:
        message = f"model: no task {task!r}; choose one of {', '.join(model.task_names)}"
        raise RefusedError(404, message, "model_not_found", "model")
    return task


def check_text(model: PromptedModel, task: str, text: str, most: int) -> int:
    """Count the tokens of an input.

    Raises:
        RefusedError: It is empty, holds a control token, or is longer than its task or the model takes.
    """
    try:
        written = model.write_input(text, task, "the text")
        longest = model.longest_input(task, most)
    except UserError as error:
        raise RefusedError(400, str(error)) from error
    ids, _ = model.backbone.tokenization.encode_inputs([written])
    if longest is not None and len(ids[0]) > longest:
        message = (
            f"the text has {len(ids[0])} tokens, and {task} takes {longest} beside its prompt and {most} of answer"
        )
        raise RefusedError(400, message, "context_length_exceeded")
    return len(ids[0])


def generation_of(asked: Asked) -> dict[str, Any]:
    """Collect the arguments of ``generate``: sampled where a temperature above 0 is asked for.

    Raises:
        RefusedError: Settings of a sampling, and no temperature.
    """
    if asked.temperature:
        seed = secrets.randbits(31) if asked.seed is None else asked.seed
        several = {"num_return_sequences": asked.n} if asked.n > 1 else {}
        sampled = {"do_sample": True, "temperature": asked.temperature, "seed": seed, **several}
        return sampled | ({} if asked.top_p is None else {"top_p": asked.top_p})
    for field, default in (("top_p", None), ("n", 1)):
        if getattr(asked, field) not in (default, 1):
            message = f"{field}: is {getattr(asked, field)}, of answers that are sampled; set a temperature above 0"
            raise RefusedError(400, message, param=field)
    return {} if asked.temperature is None else {"do_sample": False}
