"""What comes in and goes out over HTTP: the shapes of OpenAI's completions and chat, as far as a prompt can follow.

A field that would change the answer and cannot is refused; one that changes nothing, such as ``user``, is taken.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Stop = str | Annotated[list[str], Field(max_length=16)] | None


class Asked(BaseModel):
    """The fields that both kinds of question have."""

    model_config = ConfigDict(extra="forbid")

    model: str
    """The task whose prompt answers."""
    temperature: float | None = Field(None, ge=0, le=10)
    """None: as the task's answers were scored, which is greedy; 0: greedy; above: sampled."""
    top_p: float | None = Field(None, gt=0, le=1)
    n: int = Field(1, ge=1, le=64)
    seed: int | None = Field(None, ge=0)
    stop: Stop = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None


class Completion(Asked):
    """``POST /v1/completions``."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=2048)]
    max_tokens: int | None = Field(None, ge=1)

    @property
    def texts(self) -> list[str]:
        """The inputs."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def most_tokens(self) -> int | None:
        """Longest answer; None: the task's."""
        return self.max_tokens


class Part(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A turn of a chat."""

    model_config = ConfigDict(extra="forbid")

    role: str
    content: str | list[Part]
    name: str | None = None


class Chat(Asked):
    """``POST /v1/chat/completions``: one message of the user's, which is the input."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    @property
    def texts(self) -> list[str]:
        """The input."""
        content = self.messages[-1].content
        return [content if isinstance(content, str) else "".join(part.text for part in content)]

    @property
    def most_tokens(self) -> int | None:
        """Longest answer; None: the task's."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
