"""Limits that hold whatever a client sends."""

import asyncio
import os

import pytest
from starlette.formparsers import MultiPartException

from wssl_pl.app.guard import CALL_BYTES, Guard, OwnAddress
from wssl_pl.app.storage import MIN_BYTES, Storage

UPLOAD = "/gradio_api/upload"


async def reads_all(scope, receive, send):
    """An application that reads the whole request and tells its size."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"1")]})
    await send({"type": "http.response.body", "body": str(size).encode()})


def connect(app, scope, parts=(b"",), slow=0.0):
    """What an application answers to a request that comes in parts; and what it did not read."""
    left, sent = list(parts), []

    async def receive():
        await asyncio.sleep(slow)
        body = left.pop(0)
        return {"type": "http.disconnect"} if body is None else _part(body, bool(left))

    async def send(message):
        sent.append(message)

    asyncio.run(app({"type": "http", "method": "POST", "headers": [], **scope}, receive, send))
    return sent, left


def _part(body, more):
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.fixture
def storage(tmp_path):
    return Storage(tmp_path, 10 * MIN_BYTES)


@pytest.fixture
def ask(storage):
    def ask(parts, headers=(), app=reads_all, path=UPLOAD, patience=30.0, slow=0.0):
        guard = Guard(app, 1000, storage, patience)
        return connect(guard, {"path": path, "headers": list(headers)}, parts, slow)

    return ask


def test_a_request_within_the_limit_goes_through_with_headers_that_keep_the_page_here(ask):
    (start, body), _ = ask([b"a" * 600, b"b" * 400], [(b"content-length", b"1000")])
    assert start["status"] == 200
    assert body["body"] == b"1000"
    headers = dict(start["headers"])
    assert headers[b"x-app"] == b"1"
    policy = headers[b"content-security-policy"].decode()
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert headers[b"referrer-policy"] == b"same-origin"


@pytest.mark.parametrize("length", [b"1001", b"-5", b"many"])
def test_a_request_that_tells_of_too_much_is_not_read(ask, length):
    (start, body), left = ask([b"a" * 10], [(b"content-length", length)])
    assert start["status"] == 413
    assert b"content-security-policy" in dict(start["headers"])
    assert b"larger than" in body["body"]
    assert left == [b"a" * 10]


def test_a_request_that_does_not_tell_is_cut_off_at_the_limit(ask, storage):
    (start, _), left = ask([b"a" * 600] * 5)
    assert start["status"] == 413
    assert len(left) == 3
    assert storage.arriving == 0


def test_a_call_is_small(ask):
    (start, _), left = ask([b"a" * (CALL_BYTES + 1), b"a"], path="/gradio_api/call/inpaint")
    assert (start["status"], len(left)) == (413, 1)


def test_an_answer_that_has_begun_is_not_begun_again(ask):
    async def hasty(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await reads_all(scope, receive, lambda message: None)

    sent, _ = ask([b"a" * 600] * 3, app=hasty)
    assert [message["type"] for message in sent] == ["http.response.start"]


@pytest.mark.parametrize("path", [UPLOAD, "/gradio_api/call/inpaint"])
def test_an_upload_that_never_ends_is_ended(ask, path):
    (start, body), left = ask([b"a", b"b"], path=path, patience=0.01, slow=1.0)
    assert start["status"] == 408
    assert b"too long" in body["body"]
    assert len(left) == 2


def test_a_drip_is_no_progress(ask):
    (start, _), left = ask([b"a"] * 100, patience=0.1, slow=0.02)
    assert start["status"] == 408
    assert len(left) > 80


def test_gradio_removes_what_it_has_of_an_upload_that_is_refused_or_broken_off(ask):
    seen = []

    async def gradio(scope, receive, send):
        try:
            await reads_all(scope, receive, send)
        except MultiPartException as error:
            seen.append(error.message)
            await send({"type": "http.response.start", "status": 400, "headers": []})

    ask([b"a", None], app=gradio)
    (start, _), _ = ask([b"a" * 600] * 5, app=gradio)
    assert seen == ["the client has gone", "the request is larger than 0.001 MB"]
    assert start["status"] == 413


def test_uploads_have_a_quota_together(ask, storage, tmp_path):
    assert ask([b"a" * 900])[0][0]["status"] == 200
    for number in range(9):  # small files count too, by their number
        (tmp_path / str(number)).touch()
    assert ask([b"a" * 900])[0][0]["status"] == 200
    (tmp_path / "last").write_bytes(bytes(MIN_BYTES))
    (start, body), _ = ask([b"a" * 900])
    assert start["status"] == 507
    assert b"try again in an hour" in body["body"]
    (tmp_path / "last").unlink()
    assert ask([b"a" * 900])[0][0]["status"] == 200
    assert storage.arriving == 0


def test_uploads_that_arrive_at_once_share_the_quota(storage, tmp_path):
    for number in range(9):
        (tmp_path / str(number)).touch()
    guard = Guard(reads_all, 2 * MIN_BYTES, storage)
    statuses = []

    async def upload():
        parts = [bytes(MIN_BYTES // 2)] * 2

        async def receive():
            await asyncio.sleep(0.001)
            return _part(parts.pop(), bool(parts))

        async def send(message):
            statuses.append(message.get("status", 0))

        await guard({"type": "http", "method": "POST", "path": UPLOAD, "headers": []}, receive, send)

    async def several():
        await asyncio.gather(*(upload() for _ in range(5)))

    asyncio.run(several())
    assert max(statuses) == 507
    assert statuses.count(200) <= 1


def test_what_broken_uploads_left_goes_after_two_hours(storage, tmp_path):
    storage.begin = 0
    (tmp_path / "old").touch()
    (tmp_path / "new").touch()
    os.utime(tmp_path / "old", (1, 1))
    storage.measure()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    storage.begin = 2
    os.utime(tmp_path / "new", (1, 1))
    storage.measure()
    assert (tmp_path / "new").exists()  # the page's own, from before it began


@pytest.mark.parametrize(("error", "status"), [(KeyError("secret"), 400), (OSError("secret"), 500)])
def test_what_fails_is_one_line_that_says_nothing_of_what_was_sent(ask, caplog, error, status):
    async def fails(scope, receive, send):
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b'{"error": null}'})
        raise error

    (start, body), _ = ask([b"secret"], app=fails)
    assert start["status"] == status
    assert b"null" not in body["body"]
    assert caplog.messages == [f"POST '{UPLOAD}': {type(error).__name__}"]


def test_what_is_not_http_is_left_alone(ask):
    async def other(scope, receive, send):
        await send({"type": "lifespan.startup.complete"})

    assert connect(Guard(other, 1, None), {"type": "lifespan"})[0] == [{"type": "lifespan.startup.complete"}]


def status_of(listening, host, origin=None, names=(), kind="http", method="POST"):
    headers = [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin else [])
    scope = {"type": kind, "method": method, "headers": headers, "path": "/", "extensions": {}}
    sent, _ = connect(OwnAddress(reads_all, listening, names), scope)
    return sent[0].get("status", sent[0]["type"])


@pytest.mark.parametrize(
    ("listening", "host", "status"),
    [
        ("127.0.0.1", "127.0.0.1:7860", 200),
        ("127.0.0.1", "localhost:7860", 200),
        ("127.0.0.1", "LOCALHOST:7860", 200),
        ("127.0.0.1", "evil.example", 400),
        ("127.0.0.1", "evil.example:7860", 400),
        ("127.0.0.1", "127.0.0.1.evil.example", 400),
        ("127.0.0.1", "192.168.1.5:7860", 400),
        ("127.0.0.1", "", 400),
        ("127.0.0.1", "127.0.0.1:7860@evil.example", 400),
        ("::1", "[::1]:7860", 200),
        ("::1", "localhost:7860", 200),
        ("192.168.1.5", "192.168.1.5:7860", 200),
        ("192.168.1.5", "192.168.1.6:7860", 400),
        ("0.0.0.0", "192.168.1.5:7860", 200),
        ("0.0.0.0", "192.168.1.5", 200),
        ("0.0.0.0", "localhost:7860", 200),
        ("0.0.0.0", "evil.example:7860", 400),
        ("0.0.0.0", "photos.example", 200),
        ("::", "[fe80::1]:7860", 200),
        ("::", "[fe80::1]", 200),
    ],
)
def test_only_requests_to_the_addresses_of_the_page_are_answered(listening, host, status):
    assert status_of(listening, host, names=["photos.example"]) == status
    assert status_of(listening, host, f"http://{host}", names=["photos.example"]) == status


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://localhost:9999",
        "http://127.0.0.1:9999",
        "http://127.0.0.1",
        "null",
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET", "OPTIONS", "DELETE"])
def test_pages_of_other_addresses_are_refused(origin, method):
    assert status_of("127.0.0.1", "127.0.0.1:7860", origin, method=method) == 403
    assert status_of("0.0.0.0", "127.0.0.1:7860", origin, method=method) == 403


def test_two_origins_of_which_one_is_foreign():
    headers = [(b"host", b"localhost"), (b"origin", b"http://localhost"), (b"origin", b"http://evil.example")]
    sent, _ = connect(OwnAddress(reads_all, "127.0.0.1"), {"headers": headers})
    assert sent[0]["status"] == 403


@pytest.mark.parametrize(("host", "origin"), [("evil.example", None), ("127.0.0.1", "http://evil.example")])
def test_websockets_too(host, origin):
    assert status_of("127.0.0.1", host, origin, kind="websocket") in (400, 403)


def test_the_name_of_this_machine_is_an_address_of_it(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "Desk")
    assert [status_of("0.0.0.0", host) for host in ("desk:7860", "desk.local", "tower")] == [200, 200, 400]
    assert status_of("127.0.0.1", "desk") == 400
