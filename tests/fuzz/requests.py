"""Requests to the page, in batches to one server each: hostile headers, paths, uploads and calls."""

import contextlib
import http.client
import json
import os
import socket
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.mutations import HOSTILE, as_json, damage, damage_value
from tests.fuzz.runner import LetIn, Verdict, printed_signature

BATCH = 150  # requests to one server
TIMEOUT_S = 30.0
SECRET = "the-secret-of-this-machine"
BOUNDARY = "fuzzboundary"


class Answered(Exception):
    """The server answered with an error of its own."""


class Client:
    """Talks to the page.

    Args:
        port: the server's.
        folder: holds `secret.txt`, which must never be handed out.
        spy: address of a listener that must never be called.
    """

    def __init__(self, port: int, folder: Path, base: Path, spy: str) -> None:
        self.port, self.folder, self.base, self.spy = port, folder, base, spy
        self.host = f"127.0.0.1:{port}"

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of an answer; secrets in it are `LetIn`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        given = {"Host": self.host} | (headers or {})
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in given.items():
                connection.putheader(name, value)
            if body is not None and "Content-Length" not in given:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            content = response.read(3_000_000)
            return self.checked(response.status, {k.lower(): v for k, v in response.getheaders()}, content)
        finally:
            connection.close()

    def checked(self, status: int, headers: dict[str, str], content: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return an answer that holds no secret and is no error of the server."""
        if SECRET.encode() in content or b"root:x:0:0" in content or b"BEGIN PRIVATE" in content:
            raise LetIn("a file of the machine was handed out")
        if "evil" in headers.get("access-control-allow-origin", ""):
            raise LetIn("another site may read answers")
        if status >= 500:
            raise Answered(f"status {status}: {content[:80]!r}")
        return status, headers, content

    def raw(self, content: bytes) -> bytes:
        """Return what comes back for raw bytes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S) as connection:
            connection.sendall(content)
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(ConnectionError):
                while len(answer) < 1_000_000 and (part := connection.recv(65536)):
                    answer += part
        if answer.startswith(b"HTTP/1.1 5"):
            raise Answered(f"raw: {answer[:60]!r}")
        if SECRET.encode() in answer:
            raise LetIn("a file of the machine was handed out")
        return answer

    def upload(self, content: bytes, name: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Return the status of an upload and what the server says of it."""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
        form = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        status, _, answer = self.send("POST", "/gradio_api/upload", body, form | (headers or {}))
        with contextlib.suppress(ValueError):
            return status, json.loads(answer)
        return status, answer

    def call(self, arguments: Any) -> str:
        """Return what comes of a call of /inpaint."""
        body = as_json(arguments).encode()
        status, _, answer = self.send("POST", "/gradio_api/call/inpaint", body, {"Content-Type": "application/json"})
        if status != 200:
            return f"{status}"
        event = json.loads(answer)["event_id"]
        return self.send("GET", f"/gradio_api/call/inpaint/{event}")[2].decode(errors="replace")


# Kinds of requests. Each sends and raises `LetIn` for what must not be; what it returns is the status of the answer.


def foreign_host(rng: Random, client: Client) -> int:
    """A page of another site that has its name point to this machine."""
    host = rng.choice(("evil.example", f"evil.example:{client.port}", "127.0.0.1.evil.example", "", "a b", "0x7f.1"))
    paths = ("/", "/config", "/gradio_api/info", "/gradio_api/upload", "/gradio_api/call/inpaint", "/theme.css")
    path = rng.choice(paths)
    headers = {"Host": host, "Origin": f"http://{host}", "Cookie": "a=b"}
    method = "POST" if "upload" in path or "call" in path else "GET"
    status, _, _ = client.send(method, path, b"{}" if method == "POST" else None, headers)
    if status < 400 and host not in ("0x7f.1",):
        raise LetIn(f"served to the host {host!r}")
    return status


def foreign_origin(rng: Random, client: Client) -> int:
    """Another site that sends what a browser sends without asking first."""
    origin = rng.choice(("http://evil.example", "null", "http://localhost:9999", "https://127.0.0.1", "file://"))
    headers = {"Origin": origin}
    if rng.random() < 0.5:
        headers["Sec-Fetch-Site"] = "cross-site"
    if rng.random() < 0.3:
        status, answer, _ = client.send(
            "OPTIONS", "/gradio_api/call/inpaint", None,
            headers | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"},
        )  # fmt: skip
        if status < 400 and answer.get("access-control-allow-origin") in (origin, "*"):
            raise LetIn(f"{origin} may call")
        return status
    if rng.random() < 0.6:
        status, _ = client.upload(b"x" * 100, "a.png", headers)
    else:
        kind = rng.choice(("text/plain", "application/x-www-form-urlencoded"))
        status, _, _ = client.send(
            "POST", rng.choice(("/gradio_api/call/inpaint", "/gradio_api/queue/join", "/gradio_api/run/inpaint")),
            b'{"data": [null, null, ""]}', headers | {"Content-Type": kind},
        )  # fmt: skip
    if status < 400:
        raise LetIn(f"{origin} may send")
    return status


def files(rng: Random, client: Client) -> int:
    """Paths of files that are not the page's."""
    target = rng.choice(
        (str(client.folder / "secret.txt"), "/etc/passwd", "../../secret.txt", "~/.bashrc", "/proc/self/environ",
         f"file://{client.folder}/secret.txt", str(client.folder / "link.png"), "C:\\x", "//evil.example/x", "..\\x")
    )  # fmt: skip
    prefix = rng.choice(
        (
            "/gradio_api/file=",
            "/file=",
            "/gradio_api/file/",
            "/static/",
            "/assets/",
            "/svelte/",
            "/custom_component/",
            "/gradio_api/proxy=",
            "/gradio_api/stream/x/",
            "/static/..%2f..%2f",
            "/assets/../../",
            "/gradio_api/deep_link?x=",
        )
    )
    encode: Callable[[str], str] = rng.choice(
        (urllib.parse.quote, lambda t: urllib.parse.quote(t, safe=""), lambda t: t.replace("/", "%2f"),
         lambda t: t.replace(".", "%2e"), lambda t: f"{t}%00.png", lambda t: urllib.parse.quote(urllib.parse.quote(t)))
    )  # fmt: skip
    return client.send(rng.choice(("GET", "GET", "HEAD")), prefix + encode(target).replace(" ", "%20"))[0]


def calls(rng: Random, client: Client) -> int:
    """Calls with arguments of other numbers and kinds, paths and addresses."""
    paths = (str(client.folder / "secret.txt"), client.spy, "/dev/zero", "x" * 5000, "", 7, None, ["a"], {"path": "x"})
    photo = {"path": rng.choice(paths), "meta": {"_type": "gradio.FileData"}}
    if rng.random() < 0.4:
        photo |= {"url": client.spy, "orig_name": "../../x.png", "mime_type": "text/html", "is_stream": True}
    arguments: Any = {"data": [photo, dict(photo), rng.choice(("", "shipped model", "../x", 3, None))]}
    if rng.random() < 0.6:
        arguments = damage_value(rng, arguments)
    if rng.random() < 0.1:
        arguments = rng.choice(HOSTILE)
    client.call(arguments)
    return 200


def fills(rng: Random, client: Client) -> int:
    """A photo and a mask, damaged now and then, are loaded up and filled."""
    seeds = sorted((client.base / "pictures").iterdir())
    photo, mask = rng.choice(seeds), client.base / "holes" / "mask.png"
    contents = [photo.read_bytes(), mask.read_bytes()]
    if rng.random() < 0.6:
        at = rng.randrange(2)
        contents[at] = damage(rng, contents[at])
    uploaded = []
    for content, name in zip(contents, (photo.name, mask.name), strict=True):
        status, answer = client.upload(content, name)
        if status != 200:
            raise Answered(f"status {status} for an upload")
        uploaded.append({"path": answer[0], "meta": {"_type": "gradio.FileData"}})
    client.call({"data": [*uploaded, ""]})
    return 200


def uploads(rng: Random, client: Client) -> int:
    """Uploads of odd names, forms and sizes."""
    name = rng.choice(("../../x.png", "/etc/x", "a\0b.png", "x" * 4000, "", ".", "..", "a.html", "b.svg", "é.png", '"'))
    content = rng.choice((b"", b"<script>alert(1)</script>", rng.randbytes(1000), b"x" * 2_000_000))
    kind = rng.randrange(5)
    if kind <= 1:
        status, answer = client.upload(content, name)
        if status == 200 and isinstance(answer, list) and answer:
            if "wssl-app-" not in answer[0] or ".." in answer[0]:
                raise LetIn(f"an upload went to {answer[0]}")
            path = urllib.parse.quote(answer[0])
            code, headers, _ = client.send("GET", f"/gradio_api/file={path}")
            active = any(word in headers.get("content-type", "") for word in ("html", "svg", "javascript"))
            if code == 200 and active and "attachment" not in headers.get("content-disposition", ""):
                raise LetIn("an uploaded page is shown as one")
        return status
    if kind == 2:
        part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nxx'
        body = damage(rng, part.encode())
        header = {"Content-Type": f"multipart/form-data; boundary={rng.choice((BOUNDARY, '', 'x' * 300))}"}
        return client.send("POST", "/gradio_api/upload", body, header)[0]
    if kind == 3:
        length = rng.choice(("99999999999", "-1", "x", "100200000"))
        head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {client.host}\r\nContent-Length: {length}\r\n\r\n"
        client.raw(head.encode() + b"x" * 1000)
        return 200
    query = rng.choice(("upload_id=x", "upload_id=../../x", "upload_id=" + "a" * 3000))
    return client.send("POST", f"/gradio_api/upload?{query}", b"", {"Content-Type": "text/plain"})[0]


def queue(rng: Random, client: Client) -> int:
    """The queue and the other doors of Gradio."""
    body: Any = {"data": [None, None, None], "fn_index": rng.choice((0, 1, 2, 3, 99, -1, "x")), "session_hash": "fuzz"}
    body |= rng.choice(({}, {"trigger_id": 10**9}, {"event_data": {"index": 10**9}}, {"batched": True}))
    if rng.random() < 0.6:
        body = damage_value(rng, body)
    path = rng.choice(
        (
            "queue/join",
            "queue/join",
            "run/predict",
            "api/predict",
            "run/inpaint",
            "component_server",
            "reset",
            "cancel",
            "call/open",
            "call/fill",
            "call/v2/inpaint",
            "process_recording",
            "login",
            "vibe-edit",
            "heartbeat/x",
            "launch",
        )
    )
    headers = {"Content-Type": "application/json"} | rng.choice(({}, {"Authorization": "x"}, {"Cookie": "a=b; c"}))
    return client.send("POST", f"/gradio_api/{path}", as_json(body).encode(errors="replace"), headers)[0]


def gets(rng: Random, client: Client) -> int:
    """Other methods and addresses."""
    path = rng.choice(
        (
            "/",
            "/config",
            "/config/",
            "/gradio_api/info",
            "/gradio_api/app_id",
            "/monitoring",
            "/gradio_api/monitoring/x",
            "/login",
            "/logout",
            "/token",
            "/docs",
            "/openapi.json",
            "/gradio_api/startup-events",
            "/theme.css",
            "/robots.txt",
            "/gradio_api/queue/status",
            "/manifest.json",
            "/gradio_api/upload_progress?upload_id=x",
            "/pwa_icon",
            "/mcp/sse",
            "/gradio_api/queue/data?session_hash=none",
            "/gradio_api/call/inpaint/none",
            "//evil.example/..",
            "/" + "a" * 9000,
            "/%ff%fe",
            "/?__theme=<script>",
            "/gradio_api/heartbeat/x",
        )
    )
    method = rng.choice(("GET", "GET", "GET", "HEAD", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "X"))
    if path.endswith(("queue/data?session_hash=none", "heartbeat/x", "upload_progress?upload_id=x", "mcp/sse")):
        method = "HEAD"  # streams, which last as long as who listens
    headers: dict[str, str] = rng.choice(({}, {"Range": "bytes=0-9999999999"}, {"Accept": "*/*" * 999}))
    return client.send(method, path, None, headers)[0]


def garbage(rng: Random, client: Client) -> int:
    """Bytes that are hardly HTTP."""
    head = f"POST /gradio_api/call/inpaint HTTP/1.1\r\nHost: {client.host}\r\nContent-Type: application/json\r\n"
    body = b'{"data": [null, null, ""]}'
    whole = head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    if rng.random() < 0.2:
        whole = head.encode() + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\nzz\r\n\r\n"
    client.raw(damage(rng, whole))
    return 200


KINDS = (foreign_host, foreign_origin, files, calls, fills, uploads, queue, gets, garbage)


def run_batch(base: Path, folder: Path, seed: int, numbers: list[int], emit: Callable[[Verdict], None]) -> None:
    """Start the page in this process, send the requests of these numbers, and hand over a verdict for each."""
    from wssl_pl.app.options import AppOptions
    from wssl_pl.app.server import running

    (folder / "secret.txt").write_text(SECRET)
    (folder / "link.png").symlink_to(folder / "secret.txt")
    os.environ["TMPDIR"] = str(folder)
    log = folder / "log"
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    with _spy() as (address, calls_of_spy), running(AppOptions(base / "model.safetensors", device="cpu")) as url:
        client = Client(int(url.rpartition(":")[2]), folder, base, address)
        seen = log.stat().st_size
        for number in numbers:
            rng = Random(f"{seed} requests {number}")
            kind = rng.choice(KINDS)
            verdict = Verdict("requests", seed, number, words=kind.__name__)
            start = time.monotonic()
            outcome, verdict.signature = _judge(kind, rng, client)
            verdict.seconds = round(time.monotonic() - start, 2)
            sys.stderr.flush()
            printed = log.read_bytes()[seen:].decode(errors="replace")
            seen = log.stat().st_size
            if "Traceback (most recent call last)" in printed and outcome in ("clean", "one line"):
                outcome, verdict.signature = "traceback", f"{kind.__name__}: {printed_signature(printed)}"
            if len(printed) > 20_000:
                outcome, verdict.signature = "traceback", "what was sent is printed"
            if calls_of_spy:
                outcome, verdict.signature = "let in", "an address was fetched"
                calls_of_spy.clear()
            verdict.outcomes.append(outcome)
            emit(verdict)


def _judge(kind: Callable[[Random, Client], int], rng: Random, client: Client) -> tuple[str, str]:
    try:
        status = kind(rng, client)
    except LetIn as error:
        return "let in", str(error)
    except Answered as error:
        return "traceback", f"{kind.__name__}: {error}"
    except TimeoutError:
        return "hang", kind.__name__
    except (http.client.HTTPException, ConnectionError, ValueError, UnicodeError) as error:
        # Of our own client, which refuses to send it, or of a server that ends the connection.
        return "one line", type(error).__name__
    return ("one line", "") if status >= 400 else ("clean", "")


@contextlib.contextmanager
def _spy() -> Iterator[tuple[str, list[str]]]:
    """Listen at an address that nobody must call; yield it, and the list of who called."""
    called: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, who = server.accept()
                    called.append(str(who))
                    connection.close()

        threading.Thread(target=listen, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/x.png", called
