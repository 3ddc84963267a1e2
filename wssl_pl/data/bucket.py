"""Shards in a bucket of S3 or a server that speaks its protocol, through a folder of fetched chunks.

Credentials, region and endpoint come from AWS's own environment variables and files. `litdata`'s reader is not used: it
fetches a chunk when it is first touched, deletes it when it was last touched by a reader that goes through each chunk
once, tries a thousand times, and waits two minutes for what a thread of its own failed to fetch.
"""

import hashlib
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from filelock import Timeout

from wssl_pl.data.sampler import WINDOW
from wssl_pl.data.shards import CHUNK_NAME, Chunk, ChunkError
from wssl_pl.errors import DataError, WSSLError
from wssl_pl.files import cache_folder, check_writable, hold, replacing, writing

SCHEME = "s3://"
FOLDER = "wssl-chunks"
"""Name of the folder of fetched chunks in `chunk_cache`: what is in it may be deleted at any time."""
ATTEMPTS = 5
BACKOFF_S = 0.5
"""Seconds before the second attempt; doubled before each one that follows."""
CONNECT_S, READ_S = 10, 30
"""Seconds to wait for a connection, and for the next bytes of an answer."""
THREADS = 4
"""Chunks that a process fetches at a time."""
THREAD_NAME = "wssl-fetch"
LOCK_POLL_S = 0.02
BLOCK = 2**20
REFUSED = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
"""Codes with which a server refuses credentials."""

T = TypeVar("T")


class _Retry(Exception):
    """What may work at the next attempt; `failure` is what to raise if it does not."""

    def __init__(self, failure: DataError) -> None:
        self.failure = failure


class Bucket:
    """Shards in a bucket; see `wssl_pl.data.shards.Store`.

    Several processes may share the folder of chunks: a file is there completely or not at all, one of them fetches
    it, and whoever fetches deletes what was not opened for the longest time.

    Args:
        url: `s3://bucket/prefix`.
        chunk_cache: Folder on a local disk for `FOLDER`; default: `wssl_pl` in `$XDG_CACHE_HOME`, or in `~/.cache`.
        limit_gb: Size of all chunks in it, in 10**9 bytes.

    Raises:
        DataError: The URL names no bucket, boto3 is not installed, or the folder cannot be written to.
    """

    remote = True

    def __init__(self, url: str, chunk_cache: str | None = None, limit_gb: float = 10.0) -> None:
        self.bucket, _, prefix = url.removeprefix(SCHEME).rstrip("/").partition("/")
        self.root, self.prefix = url.rstrip("/"), f"{prefix}/" if prefix else ""
        if not self.bucket:
            raise DataError("images", url, "names no bucket", "write s3://bucket/prefix")
        self.folder = (Path(chunk_cache) if chunk_cache else cache_folder()) / FOLDER
        self.limit = int(limit_gb * 1e9)
        if find_spec("boto3") is None:
            raise DataError("images", url, "needs boto3", "pip install 'wssl-pl[stream]'")
        check_writable(self.folder, "chunk_cache", self.folder.parent)
        with writing("chunk_cache", self.folder.parent):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._made: Any = None
        self._lock = threading.Lock()
        self._waiting: deque[Chunk] = deque()
        self._threads = 0

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def read(self, name: str, limit: int) -> bytes:
        """Return a small file; see `Store`."""

        def get() -> bytes:
            content = bytearray()
            for block in self._stream(name):
                content += block
                if len(content) > limit:
                    raise DataError("images", f"{self.root}/{name}", f"is damaged (more than {limit} bytes)")
            return bytes(content)

        try:
            return self._try(get)
        except ChunkError:
            raise FileNotFoundError(name) from None

    def path(self, chunk: Chunk) -> Path:
        """Return the file of a chunk, fetched if it is not there; see `Store`."""
        path = self._local(chunk)
        with suppress(FileNotFoundError):
            os.utime(path)  # the files that were not opened for the longest time are deleted first
            return path
        with self._held(f"lock-{chunk.digest[:2]}"):
            if not path.exists():  # another process may have fetched it meanwhile
                self._try(lambda: self._download(chunk, path))
        return path

    def fetch(self, chunks: list[Chunk]) -> None:
        """Fetch chunks by some threads, before those that are still waiting for one; see `Store`."""
        if self._pid != os.getpid():
            self._reset()  # after a fork, neither threads nor locks nor connections can be used
        absent = [chunk for chunk in chunks if not self._local(chunk).exists()]
        with self._lock:
            self._waiting = deque(dict.fromkeys([*absent, *self._waiting]))
            start = max(0, min(THREADS, len(self._waiting)) - self._threads)
            self._threads += start
        for _ in range(start):
            threading.Thread(target=self._fetch_waiting, name=THREAD_NAME, daemon=True).start()

    def _fetch_waiting(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                chunk = self._waiting.popleft()
            with suppress(WSSLError):  # whoever reads it tries again, and reports
                self.path(chunk)

    def check_room(self, chunks: list[Chunk]) -> None:
        """Raise `WSSLError` unless two windows of the largest chunks fit, one that is read and one that is fetched."""
        needed = sum(sorted((chunk.bytes for chunk in chunks), reverse=True)[: 2 * WINDOW])
        if needed > self.limit:
            remedy = f"set at least {needed / 1e9:.3g}, or prepare smaller chunks with chunk_size="
            reason = f"{2 * WINDOW} chunks of {self.root} have {needed / 1e9:.3g} GB"
            raise WSSLError("chunk_cache_gb", self.limit / 1e9, reason, remedy)

    def _local(self, chunk: Chunk) -> Path:
        return self.folder / Path(chunk.name).name

    def _download(self, chunk: Chunk, path: Path) -> None:
        self._make_room(chunk.bytes)
        checksum, size = hashlib.sha256(), 0
        with writing("chunk_cache", self.folder.parent), replacing(path) as file:
            for block in self._stream(chunk.name):
                file.write(block)
                checksum.update(block)
                size += len(block)
            if size != chunk.bytes or not checksum.hexdigest().startswith(chunk.digest):
                reason = f"ends after {size} of {chunk.bytes} bytes" if size < chunk.bytes else "has changed"
                raise _Retry(ChunkError("images", f"{self.root}/{chunk.name}", reason))

    def _make_room(self, needed: int) -> None:
        """Delete chunks until another one fits. One that is open can be read on."""
        with self._held("lock-room"):
            found = []
            for path in self.folder.iterdir():
                if CHUNK_NAME.fullmatch(path.name):
                    with suppress(FileNotFoundError):
                        found.append((path.stat().st_mtime_ns, path.stat().st_size, path))
            total = sum(size for _, size, _ in found) + needed
            for _, size, path in sorted(found):
                if total <= self.limit:
                    break
                path.unlink(missing_ok=True)
                total -= size

    @contextmanager
    def _held(self, name: str) -> Iterator[None]:
        """Hold a lock file, however long another process or thread does."""
        lock = None
        with writing("chunk_cache", self.folder.parent):
            while True:
                try:
                    lock = hold(self.folder / name)
                    break
                except Timeout:
                    time.sleep(LOCK_POLL_S)
        try:
            yield
        finally:
            if lock:
                lock.release()

    def _try(self, action: Callable[[], T]) -> T:
        for attempt in range(ATTEMPTS):
            try:
                return action()
            except _Retry as retry:
                if attempt == ATTEMPTS - 1:
                    raise retry.failure from None
                # Not all processes at once.
                time.sleep(BACKOFF_S * 2**attempt * random.uniform(0.5, 1.5))
        raise AssertionError

    def _stream(self, name: str) -> Iterator[bytes]:
        """Yield the blocks of a file; whatever goes wrong is raised as `_Retry` or `DataError`."""
        try:
            body = self._client().get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"]
            yield from body.iter_chunks(BLOCK)
        except GeneratorExit:
            raise
        except Exception as error:
            self._translate(error, f"{self.root}/{name}")

    def _client(self) -> Any:
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            if self._made is None:
                self._made = make_client()
            return self._made

    def _translate(self, error: Exception, url: str) -> NoReturn:
        from botocore import exceptions as boto
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        keys = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        if isinstance(error, boto.ClientError):
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            answer = f"{status} {code}" if code != str(status) else code
            if code == "NoSuchBucket":
                raise DataError("images", self.root, f"there is no bucket {self.bucket}", "name another one") from None
            if status == 404:
                raise ChunkError("images", url, "is missing") from None
            if code in REFUSED:
                raise DataError("images", self.root, f"the credentials are refused ({answer})", keys) from None
            if status in (401, 403):
                remedy = "allow s3:GetObject on it, or " + keys
                raise DataError("images", self.root, f"access is denied ({answer})", remedy) from None
            failure = DataError("images", url, f"the server answers {answer}", "try again later")
            if status >= 500 or status in (408, 429) or code in ("SlowDown", "RequestTimeout"):
                raise _Retry(failure) from None
            raise failure from None
        if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
            raise DataError("images", self.root, "there are no credentials", keys) from None
        network = boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, boto.ChecksumError
        if isinstance(error, (*network, HTTPError, ConnectionError, TimeoutError)):
            where = self._made.meta.endpoint_url
            if isinstance(error, boto.ReadTimeoutError | ReadTimeoutError):
                reason, remedy = f"{where} sends nothing for {READ_S} s", "try again later"
            elif isinstance(error, boto.ConnectionError):
                reason, remedy = f"{where} cannot be reached", "check the network, and AWS_ENDPOINT_URL"
            else:
                reason, remedy = f"the connection to {where} breaks off ({type(error).__name__})", "try again later"
            raise _Retry(DataError("images", url, reason, remedy)) from None
        if isinstance(error, boto.ParamValidationError):
            raise DataError("images", self.root, f"{self.bucket} is no name of a bucket") from None
        if isinstance(error, boto.BotoCoreError | ValueError):
            # A profile that does not exist, an endpoint that is no URL, and the like.
            raise DataError("images", self.root, " ".join(str(error).split())) from None
        raise error


def make_client() -> Any:
    """Return a client of S3, by AWS's environment variables and files."""
    import boto3
    from botocore.config import Config

    session = boto3.Session()
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    scoped = session._session.get_scoped_config().get("s3") or {}
    # MinIO and its like know a bucket by the path, not by the name of the host.
    style = {"addressing_style": scoped.get("addressing_style") or ("path" if endpoint else "auto")}
    retries = {"total_max_attempts": 1}  # ours count those too that end in the middle of a file
    config = Config(connect_timeout=CONNECT_S, read_timeout=READ_S, retries=retries, s3=style)
    return session.client("s3", config=config)
