"""A connection to a server that can be slow and break off."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from tests.processes import PATIENCE_S

PIECE = 65_536


class Proxy:
    """Hands on what browser and server send to each other.

    Args:
        port: of the server.

    Attributes:
        delay: seconds by which each piece of the stream of answers arrives late.
        closed: set once the server has ended that stream.
    """

    def __init__(self, port: int) -> None:
        self.target, self.delay, self.closed = port, 0.0, threading.Event()
        self._open: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._loop = asyncio.new_event_loop()

    def cut(self, unnoticed: bool = False) -> None:
        """Break all connections, if so without the server's notice; new ones can be made."""

        def cut() -> None:
            for to_browser, to_server in list(self._open):
                to_browser.transport.abort()
                if not unnoticed:
                    to_server.transport.abort()

        self._loop.call_soon_threadsafe(cut)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server: asyncio.StreamWriter
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
        self._open.add((writer, to_server))
        answers = False

        async def up() -> None:
            nonlocal answers
            while data := await reader.read(PIECE):
                answers = data.startswith(b"GET /gradio_api/queue/data")
                to_server.write(data)
                await to_server.drain()
            if not writer.transport.is_closing():
                to_server.close()

        arrived: asyncio.Queue[bytes] = asyncio.Queue()

        async def down() -> None:
            while data := await from_server.read(PIECE):
                if b"close_stream" in data:
                    self.closed.set()
                arrived.put_nowait(data)
            arrived.put_nowait(b"")

        async def late() -> None:
            while data := await arrived.get():
                if answers:
                    await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()
            writer.close()

        await asyncio.gather(up(), down(), late(), return_exceptions=True)
        self._open.discard((writer, to_server))

    async def _serve(self, ready: threading.Event) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        async with server:
            with suppress(asyncio.CancelledError):
                await server.serve_forever()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    @contextmanager
    def running(self) -> Iterator[str]:
        """Yield the address at which the server can be reached."""
        ready = threading.Event()
        task = self._loop.create_task(self._serve(ready))
        thread = threading.Thread(target=self._loop.run_until_complete, args=(task,), daemon=True)
        thread.start()
        assert ready.wait(PATIENCE_S)
        try:
            yield self.url
        finally:
            self._loop.call_soon_threadsafe(task.cancel)
            thread.join()


@contextmanager
def behind_proxy(url: str) -> Iterator[Proxy]:
    """Yield a proxy of the server at an address."""
    port = urlsplit(url).port
    assert port is not None
    proxy = Proxy(port)
    with proxy.running():
        yield proxy
