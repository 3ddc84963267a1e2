"""What the server takes in and where the page may turn to: limits that hold whatever a client sends."""

from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# The browser itself refuses whatever is not on this server: fonts, scripts, pictures and calls.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


class TooLarge(Exception):
    """A request goes on after its limit."""


class Guard:
    """ASGI middleware that ends requests above a size and adds headers that keep the page to this server.

    Args:
        app: the application.
        limit: bytes of a request.
    """

    def __init__(self, app: Callable[..., Any], limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, taken = False, 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.limit:
                raise TooLarge
            return message

        async def with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.limit:
            await self._refuse(with_headers)
            return
        try:
            await self.app(scope, counted, with_headers)
        except TooLarge:
            # Of a request that tells no length. What has begun to answer can only be cut off.
            if not started:
                await self._refuse(with_headers)

    async def _refuse(self, send: Send) -> None:
        text = f"the request is larger than {self.limit / 1e6:.0f} MB".encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": text})


@contextmanager
def no_fetching() -> Iterator[None]:
    """Gradio fetches addresses that a client sends in place of a file; meanwhile it refuses."""
    from gradio import Error, processing_utils

    def refuse(*args: Any, **kwargs: Any) -> str:
        raise Error("Addresses are not fetched here: upload the file", print_exception=False)

    async def refuse_later(*args: Any, **kwargs: Any) -> str:
        return refuse()

    before = processing_utils.async_ssrf_protected_download, processing_utils.save_url_to_cache
    processing_utils.async_ssrf_protected_download, processing_utils.save_url_to_cache = refuse_later, refuse
    try:
        yield
    finally:
        processing_utils.async_ssrf_protected_download, processing_utils.save_url_to_cache = before
