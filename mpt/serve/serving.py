"""``python -m mpt.serve RUN_FOLDER``: load a trained prompt and answer over HTTP until a signal comes."""

import argparse
import os
import socket
from collections.abc import Sequence
from importlib.util import find_spec
from ipaddress import ip_address

from mpt.answering.prompted import PromptedModel
from mpt.config import DTYPES
from mpt.errors import UserError

VARIABLE = "MPT_SERVE_TOKEN"
"""The token, where it should not stand in the list of processes."""


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a host's name or address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Open the socket that clients come to.

    Raises:
        UserError: The address is not this machine's, or its port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UserError(f"--port: cannot listen at {host}:{port} ({error}); choose another, or 0 for any") from error


def count(text: str) -> int:
    """Read a number from 1.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"is {text!r}; it must be a whole number from 1")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        "python -m mpt.serve",
        description="Answer with a trained prompt over HTTP, as OpenAI's completions and chat do; model= names a task.",
    )
    parser.add_argument("source", help="run folder, prompt folder, or hf://owner/name")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="port (8000; 0: any that is free)")
    parser.add_argument("--token", default=None, help=f"API key that clients have to send; or {VARIABLE}")
    parser.add_argument("--backbone", default=None, help="folder or hub id (the one that the prompt names)")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="the backbone's (float32)")
    parser.add_argument("--device", default="cpu", help="device (cpu)")
    parser.add_argument("--batch-size", type=count, default=32, help="most texts in one forward (32)")
    parser.add_argument("--most-waiting", type=count, default=1024, help="most texts that wait for one (1024)")
    parser.add_argument("--most-tokens", type=count, default=1024, help="most tokens of an answer (1024)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Raises:
        UserError: Nothing would keep strangers out, the extra is not installed, or the prompt fits no backbone.
        FileNotFoundError: There is no prompt, or no backbone.
    """
    arguments = build_parser().parse_args(argv)
    token = arguments.token or os.environ.get(VARIABLE) or None
    if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
        raise UserError(f"{missing[0]}: is not installed; pip install 'mpt[serve]'")
    if token is None and not is_loopback(arguments.host):
        raise UserError(
            f"--host: {arguments.host} is reached from other machines, and no token keeps strangers out; set --token "
            f"or {VARIABLE}, or listen at 127.0.0.1"
        )
    import uvicorn

    from mpt.serve.answering import Limits
    from mpt.serve.app import build_app

    with listen(arguments.host, arguments.port) as listener:  # a port that is taken is refused before the model loads
        model = PromptedModel.load(arguments.source, arguments.backbone, dtype=arguments.dtype, device=arguments.device)
        limits = Limits(token, arguments.batch_size, arguments.most_waiting, arguments.most_tokens)
        app = build_app(model, arguments.source, limits)
        host, port = listener.getsockname()[:2]
        where = f"[{host}]" if ":" in host else host
        print(f"{', '.join(model.task_names)}: http://{where}:{port}/v1 (Ctrl-C ends it)", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on")).run([listener])
    return 0
