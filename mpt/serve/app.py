"""The HTTP interface: completions and chat of OpenAI's shape, where a task is a model; and health."""

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from mpt import __version__
from mpt.answering.prompted import PromptedModel
from mpt.serve.answering import Answering, Limits, known_task
from mpt.serve.refusing import RefusedError, add_errors, error_response
from mpt.serve.waiting import Waiting
from mpt.serve.wire import Chat, Completion


def build_app(model: PromptedModel, name: str, limits: Limits) -> FastAPI:
    """Build the application.

    Args:
        model: Answers.
        name: The run, for whoever asks which one it is.
        limits: What it takes.
    """
    waiting = Waiting(model, limits.batch_size, limits.most_waiting)

    @asynccontextmanager
    async def answering(_: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(waiting.answer_all())
        yield
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker

    app = FastAPI(title="mpt serve", version=__version__, lifespan=answering)
    add_errors(app)

    @app.middleware("http")
    async def check(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        """Refuse strangers, and bodies that are too large, before anything is read."""
        if request.url.path != "/health" and limits.token is not None:
            _, _, sent = request.headers.get("authorization", "").partition(" ")
            if not hmac.compare_digest(sent.encode(), limits.token.encode()):
                return error_response(RefusedError(401, "no such API key", "invalid_api_key"))
        length = request.headers.get("content-length", "")
        if request.method == "POST" and not length.isdecimal():
            return error_response(RefusedError(411, "content-length: is missing"))
        if length.isdecimal() and int(length) > limits.most_bytes:
            return error_response(RefusedError(413, f"the request has {length} bytes, of {limits.most_bytes} at most"))
        return await proceed(request)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "waiting": len(waiting), "answered": waiting.answered, "batches": waiting.batches}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [describe(task, name) for task in model.task_names]}

    @app.get("/v1/models/{task}")
    async def one_model(task: str) -> dict[str, Any]:
        return describe(known_task(model, task), name)

    @app.post("/v1/completions")
    async def complete(asked: Completion) -> Response:
        return await respond(Answering(model, waiting, asked, limits, chat=False))

    @app.post("/v1/chat/completions")
    async def chat(asked: Chat) -> Response:
        if len(asked.messages) > 1 or asked.messages[0].role != "user":
            roles = ", ".join(message.role for message in asked.messages)
            raise RefusedError(
                400,
                f"messages: are of {roles}; a prompt is trained to answer one input, so send one message of the user's",
                param="messages",
            )
        return await respond(Answering(model, waiting, asked, limits, chat=True))

    return app


async def respond(answering: Answering) -> Response:
    """Answer a request, as a whole or as a stream."""
    if answering.asked.stream:
        return StreamingResponse(answering.chunks(), media_type="text/event-stream")
    return JSONResponse(answering.whole(await answering.answers()))


def describe(task: str, name: str) -> dict[str, Any]:
    """Describe a task as OpenAI describes a model."""
    return {"id": task, "object": "model", "created": 0, "owned_by": name}
