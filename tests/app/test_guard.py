"""Limits that hold whatever a client sends."""

import asyncio

import pytest

from wssl_pl.app.guard import Guard


async def reads_all(scope, receive, send):
    """An application that reads the whole request and tells its size."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"1")]})
    await send({"type": "http.response.body", "body": str(size).encode()})


def ask(parts, headers=(), app=reads_all, kind="http"):
    """What a guarded application answers to a request that comes in parts."""
    left, sent = list(parts), []

    async def receive():
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "headers": list(headers)}
    asyncio.run(Guard(app, limit=1000)(scope, receive, send))
    return sent, left


def test_a_request_within_the_limit_goes_through_with_headers_that_keep_the_page_here():
    (start, body), _ = ask([b"a" * 600, b"b" * 400], [(b"content-length", b"1000")])
    assert start["status"] == 200
    assert body["body"] == b"1000"
    headers = dict(start["headers"])
    assert headers[b"x-app"] == b"1"
    policy = headers[b"content-security-policy"].decode()
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert headers[b"referrer-policy"] == b"no-referrer"


@pytest.mark.parametrize("length", [b"1001", b"-5", b"many"])
def test_a_request_that_tells_of_too_much_is_not_read(length):
    (start, body), left = ask([b"a" * 10], [(b"content-length", length)])
    assert start["status"] == 413
    assert b"larger than" in body["body"]
    assert left == [b"a" * 10]


def test_a_request_that_does_not_tell_is_cut_off_at_the_limit():
    (start, _), left = ask([b"a" * 600] * 5)
    assert start["status"] == 413
    assert len(left) == 3


def test_an_answer_that_has_begun_is_not_begun_again():
    async def hasty(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await reads_all(scope, receive, lambda message: None)

    sent, _ = ask([b"a" * 600] * 3, app=hasty)
    assert [message["type"] for message in sent] == ["http.response.start"]


def test_what_is_not_http_is_left_alone():
    async def other(scope, receive, send):
        await send({"type": "lifespan.startup.complete"})

    assert ask([], app=other, kind="lifespan")[0] == [{"type": "lifespan.startup.complete"}]
