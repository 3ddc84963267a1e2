"""The server's half of `connection.js`: the script comes first, and a stream of answers ends when none can come."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import MutableHeaders, QueryParams
from starlette.responses import PlainTextResponse

from wssl_pl.app.guard import Message, Receive, Send

STREAM = "/gradio_api/queue/data"
END_OF_STREAM = 'data: {"msg": "close_stream"}\n\n'
HEAD = b"<head>"
SCRIPT = b'<script src="page/connection.js"></script>'


class ScriptFirst:
    """ASGI middleware that puts `connection.js` before the page's other scripts; Gradio's own head comes after them.

    Args:
        app: the application.
    """

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] != "http" or scope["path"] != "/" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        start: Message = {}
        parts: list[bytes] = []

        async def changed(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            parts.append(message.get("body", b""))
            if message.get("more_body", False):
                return
            body = b"".join(parts).replace(HEAD, HEAD + SCRIPT, 1)
            MutableHeaders(scope=start)["content-length"] = str(len(body))
            await send(start)
            await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, changed)


class Streams:
    """ASGI middleware that ends a stream of answers where none can come, which Gradio leaves open.

    A browser whose connection breaks off opens another stream, by itself or for its next call. The server may not have
    noticed: its older stream ends now, and the answers that were to go there are lost.

    Args:
        app: the application.
        pending: the calls that are not answered yet, of each session.
    """

    def __init__(self, app: Callable[..., Any], pending: Mapping[str, set[str]]) -> None:
        self.app, self.pending = app, pending
        self._open: dict[str, _Stream] = {}  # the newest one of each session

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] != "http" or scope["path"] != STREAM:
            await self.app(scope, receive, send)
            return
        session = QueryParams(scope["query_string"]).get("session_hash", "")
        own, before = _Stream(), self._open.get(session)
        self._open[session] = own
        try:
            if before is not None:
                before.end.set()
                await before.over.wait()
            if self.pending.get(session):
                await self._pass(session, own, scope, receive, send)
            else:
                await PlainTextResponse(END_OF_STREAM, media_type="text/event-stream")(scope, receive, send)
        finally:
            own.over.set()
            if self._open[session] is own:
                del self._open[session]

    async def _pass(self, session: str, own: "_Stream", scope: Message, receive: Receive, send: Send) -> None:
        answered = False
        lost: set[str] = set()

        async def received() -> Message:
            message = await _first(receive(), own.end.wait())
            if not isinstance(message, bool) and message["type"] != "http.disconnect":
                return message
            if not answered:
                lost.update(self.pending.get(session, ()))
            return {"type": "http.disconnect"}

        async def sent(message: Message) -> None:
            nonlocal answered
            if not own.end.is_set():
                await send(message)
            answered = answered or (message["type"] == "http.response.body" and not message.get("more_body", False))

        try:
            await self.app(scope, received, sent)
        finally:
            if session in self.pending:
                self.pending[session].difference_update(lost)  # Gradio keeps those that it was computing


@dataclass
class _Stream:
    end: asyncio.Event = field(default_factory=asyncio.Event)  # it is to end
    over: asyncio.Event = field(default_factory=asyncio.Event)


async def _first(receive: Awaitable[Message], end: Awaitable[bool]) -> Message | bool:
    """Return the result of what ends first; the other one is cancelled."""
    tasks = asyncio.ensure_future(receive), asyncio.ensure_future(end)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task.result() for task in tasks if task.done())
    finally:
        for task in tasks:
            task.cancel()
