"""The HTTP interface: completions and chat of OpenAI's shape, where a task is a model; and health."""

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mpt import __version__
from mpt.answering.prompted import PromptedModel
from mpt.serve.answering import Answering, Limits, known_task
from mpt.serve.refusing import RefusedError, add_errors, error_response
from mpt.serve.waiting import Waiting
from mpt.serve.wire import Chat, Completion

GONE = 0.5
"""Seconds after which a server looks again whether a client still waits."""


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

    app = FastAPI(title="mpt serve", version=__version__, lifespan=answering, docs_url=None, redoc_url=None)
    add_errors(app)
    app.add_middleware(Gate, limits=limits)

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
    async def complete(asked: Completion, request: Request) -> Response:
        return await respond(Answering(model, waiting, asked, limits, chat=False), request)

    @app.post("/v1/chat/completions")
    async def chat(asked: Chat, request: Request) -> Response:
        if len(asked.messages) > 1 or asked.messages[0].role != "user":
            roles = ", ".join(message.role for message in asked.messages)
            raise RefusedError(
                400,
                f"messages: are of {roles}; a prompt is trained to answer one input, so send one message of the user's",
                param="messages",
            )
        return await respond(Answering(model, waiting, asked, limits, chat=True), request)

    return app


class Gate:
    """Refuses strangers, and bodies that are too large, before anything is read.

    Args:
        app: Everything behind it.
        limits: What the server takes.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with an error, or let the request pass."""
        refused = self.refuse(Request(scope)) if scope["type"] == "http" else None
        await (self.app if refused is None else error_response(refused))(scope, receive, send)

    def refuse(self, request: Request) -> RefusedError | None:
        """Say why a request does not pass; None: it does."""
        if request.url.path != "/health" and self.limits.token is not None:
            _, _, sent = request.headers.get("authorization", "").partition(" ")
            if not hmac.compare_digest(sent.encode(), self.limits.token.encode()):
                return RefusedError(401, "no such API key", "invalid_api_key")
        length, most = request.headers.get("content-length", ""), self.limits.most_bytes
        if request.method == "POST" and not length.isdecimal():
            return RefusedError(411, "content-length: is missing")
        if length.isdecimal() and int(length) > most:
            return RefusedError(413, f"the request has {length} bytes, of {most} at most")
        return None


async def respond(answering: Answering, request: Request) -> Response:
    """Answer a request, as a whole or as a stream; a client that has gone is not waited with."""
    if answering.asked.stream:
        return StreamingResponse(answering.chunks(), media_type="text/event-stream")
    answers = asyncio.ensure_future(answering.answers())
    while not (await asyncio.wait({answers}, timeout=GONE))[0]:
        if await request.is_disconnected():
            answers.cancel()
            return Response(status_code=499)  # nobody reads it
    return JSONResponse(answering.whole(answers.result()))


def describe(task: str, name: str) -> dict[str, Any]:
    """Describe a task as OpenAI describes a model."""
    return {"id": task, "object": "model", "created": 0, "owned_by": name}
