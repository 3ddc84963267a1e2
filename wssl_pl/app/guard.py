"""What the server takes in and where the page may turn to: limits that hold whatever a client sends."""

import asyncio
import logging
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse

from wssl_pl.app.address import is_address, is_loopback, is_unspecified
from wssl_pl.app.storage import Storage

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
logger = logging.getLogger(__name__)

UPLOAD = "/gradio_api/upload"
CALL_BYTES = 1_000_000  # of a request that is no upload: names of files and options
PATIENCE_S, MIN_BYTES_PER_S = 30.0, 50_000  # a request may take so long, and longer by its size
WRONG = "this is no request that the page takes"

# The browser itself refuses whatever is not on this server: fonts, scripts, images and calls.
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
    # Browsers that send no address at all would send no Origin to this server either.
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
]


class OwnAddress(TrustedHostMiddleware):
    """ASGI middleware that answers only requests to an address of the page, from no page of another one.

    Otherwise any site that a visitor opens could use the page: by a name of its own that it lets point to this machine,
    or by requests that browsers send without asking.

    Args:
        app: the application.
        host: the address that the server listens on; `0.0.0.0` and `::` are all addresses of this machine.
        names: other names by which it is reached.
    """

    def __init__(self, app: Callable[..., Any], host: str, names: Iterable[str] = ()) -> None:
        self.all_addresses = is_unspecified(host)
        own = [] if is_loopback(host) else [socket.gethostname(), f"{socket.gethostname()}.local"]
        allowed = [f"[{host}]" if ":" in host else host, *names, *own]
        if is_loopback(host) or self.all_addresses:
            allowed.append("localhost")
        super().__init__(app, allowed, www_redirect=False)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One connection."""
        headers = Headers(scope=scope) if scope["type"] in ("http", "websocket") else Headers()
        host = headers.get("host", "").lower()
        if any(origin.lower().partition("://")[2] != host for origin in headers.getlist("origin")):
            await PlainTextResponse("this request comes from a page of another address", 403)(scope, receive, send)
        elif self.all_addresses and is_address(re.sub(r":\d*$", "", host).strip("[]")):
            # A number is no name that somebody could let point to here.
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class Refused(MultiPartException):
    """A request that is not taken any further; Gradio removes what it has stored of an upload."""


class Guard:
    """ASGI middleware that limits requests in size and time, and answers each in one line that fails.

    It adds headers that keep the page to this server. Nothing that was sent is printed.

    Args:
        app: the application.
        limit: bytes of an upload.
        storage: where uploads are stored.
        patience: seconds that a request may take to arrive, and longer at 50 kB/s.
    """

    def __init__(self, app: Callable[..., Any], limit: int, storage: Storage, patience: float = PATIENCE_S) -> None:
        self.app, self.limit, self.storage, self.patience = app, limit, storage, patience

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        upload = scope["path"].rstrip("/") == UPLOAD
        limit = self.limit if upload else CALL_BYTES
        started = arrived = withheld = False
        taken, stored, begin = 0, 0, time.monotonic()
        refusal: tuple[int, str] | None = None

        def refuse(status: int, text: str) -> Refused:
            nonlocal refusal
            refusal = (status, text)
            return Refused(text)

        async def counted() -> Message:
            nonlocal taken, stored, arrived
            if arrived:
                return await receive()
            left = begin + self.patience + taken / MIN_BYTES_PER_S - time.monotonic()
            try:
                message = await asyncio.wait_for(receive(), max(0, left))
            except TimeoutError:
                raise refuse(408, "the request takes too long to arrive") from None
            if message["type"] == "http.disconnect":
                if upload:
                    raise refuse(400, "the client has gone")
                return message
            body = len(message.get("body", b""))
            taken += body
            arrived = not message.get("more_body", False)
            if taken > limit:
                raise refuse(413, f"the request is larger than {limit / 1e6:g} MB")
            if upload:
                stored += body
                if not self.storage.take(body):
                    raise refuse(507, self.storage.full)
            return message

        async def answered(message: Message) -> None:
            nonlocal started, withheld
            if message["type"] == "http.response.start":
                withheld = refusal is not None or message["status"] == 500
                if not withheld:
                    started = True
                    message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            if not withheld:
                await send(message)

        length = Headers(scope=scope).get("content-length", "0")
        try:
            if not length.isdigit() or int(length) > limit:
                raise refuse(413, f"the request is larger than {limit / 1e6:g} MB")
            if upload:
                self.storage.measure()
            await self.app(scope, counted, answered)
        except Refused:
            pass
        except Exception as error:
            # By its kind alone, since its words may be those of the client.
            logger.warning("%s %.80r: %s", scope["method"], scope["path"], type(error).__name__)
            if isinstance(error, OSError):
                refuse(500, "the page cannot store this, as its terminal says")
        finally:
            self.storage.settle(stored)
        # What has begun to answer can only be cut off.
        if not started and (refusal or withheld):
            status, text = refusal or (400, WRONG)
            answer = PlainTextResponse(text, status, {"connection": "close"})
            answer.raw_headers += HEADERS
            await answer(scope, receive, send)


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
