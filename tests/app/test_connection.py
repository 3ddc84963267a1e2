"""The server's half of what a broken connection needs."""

import asyncio

from tests.app.test_guard import connect, reads_all
from wssl_pl.app.connection import SCRIPT, ScriptFirst, Streams

STREAM = {"type": "http", "method": "GET", "headers": [], "path": "/gradio_api/queue/data"}


def test_a_stream_of_answers_ends_where_none_is_to_come():
    streams = Streams(reads_all, {"one": {"a call"}, "two": set()})
    for path, query, ended in (
        ("/gradio_api/queue/data", b"session_hash=one", False),
        ("/gradio_api/queue/data", b"session_hash=two", True),
        ("/gradio_api/queue/data", b"session_hash=three", True),
        ("/gradio_api/queue/data", b"", True),
        ("/config", b"", False),
    ):
        (start, body), _ = connect(streams, {"path": path, "query_string": query, "method": "GET"})
        assert (body["body"] == b'data: {"msg": "close_stream"}\n\n') == ended, (path, query)
        assert (b"text/event-stream" in dict(start["headers"]).get(b"content-type", b"")) == ended


def test_a_newer_stream_ends_the_older_one_whose_answers_are_lost():
    pending, log = {"one": {"lost"}}, []

    async def application(scope, receive, send):
        """Streams until it is disconnected, as Gradio does."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        log.append("open")
        while (await receive())["type"] != "http.disconnect":
            pass
        log.append("over")

    async def never():
        await asyncio.Event().wait()

    async def both():
        streams, sent = Streams(application, pending), []

        async def send(message):
            sent.append(message)

        scope = {**STREAM, "query_string": b"session_hash=one"}
        older = asyncio.create_task(streams(scope, never, send))
        while not log:
            await asyncio.sleep(0)
        sent.clear()
        await streams(scope, never, send)  # nothing is left that it could wait for
        await older
        assert sent[1]["body"] == b'data: {"msg": "close_stream"}\n\n'

    asyncio.run(asyncio.wait_for(both(), 60))
    assert log == ["open", "over"]
    assert pending == {"one": set()}


def test_a_call_made_while_its_stream_ends_is_not_lost():
    pending = {"one": {"first"}}

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        pending["one"].remove("first")
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        pending["one"].add("second")
        assert (await receive())["type"] == "http.disconnect"

    connect(Streams(application, pending), {**STREAM, "query_string": b"session_hash=one"}, [None])
    assert pending == {"one": {"second"}}


def test_the_script_is_the_first_one_of_the_page():
    async def page(scope, receive, send):
        headers = [(b"content-type", b"text/html"), (b"content-length", b"38")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"<head><script src=a", "more_body": True})
        await send({"type": "http.response.body", "body": b"></script></head>"})

    (start, body), _ = connect(ScriptFirst(page), {"path": "/", "method": "GET"})
    assert body["body"] == b"<head>" + SCRIPT + b"<script src=a></script></head>"
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()
    (_, *parts), _ = connect(ScriptFirst(page), {"path": "/other", "method": "GET"})
    assert len(parts) == 2
