"""Shards in a bucket, served by moto on this machine, with the faults of real servers."""

import errno
import functools
import hashlib
import io
import logging
import multiprocessing
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from wsgiref.headers import Headers

import numpy as np
import pytest

from tests.data.fakes import image_tree
from tests.data.test_datamodule import epoch, same
from wssl_pl.data import WSSLDataModule, bucket
from wssl_pl.data.bucket import FOLDER, Bucket, make_client
from wssl_pl.data.prepare_shards import prepare_shards
from wssl_pl.data.shards import Chunk, ChunkError, Folder, ShardImages, Shards
from wssl_pl.errors import DataError, WSSLError

moto_server = pytest.importorskip("moto.server")
SIZE = 16
TRAINING = {"resize": SIZE, "image_size": SIZE, "hole_ratio": (0.0, 1.0)}
Answer = tuple[str, bytes]


class Faults:
    """A WSGI application before another one.

    Attributes:
        requests: Paths asked for so far.
        answer: Returns a status and an XML body to answer with, or None, for a path.
        change: Changes the body of an answer.
        delay_s: Seconds before each answer.
        pause: Is called in the middle of the body of an answer.
    """

    def __init__(self, app) -> None:
        self.app = app
        self.reset()

    def reset(self) -> None:
        self.requests: list[str] = []
        self.answer: Callable[[str], Answer | None] = lambda _: None
        self.change: Callable[[str, bytes], bytes] = lambda _, body: body
        self.delay_s = 0.0
        self.pause: Callable[[str], object] = lambda _: None

    def __call__(self, environ, start_response):
        path = environ["PATH_INFO"]
        self.requests.append(path)
        time.sleep(self.delay_s)
        if fault := self.answer(path):
            start_response(fault[0], [("Content-Type", "application/xml"), ("Content-Length", str(len(fault[1])))])
            return [fault[1]]
        started = {}

        def start(status, headers, info=None):
            started.update(status=status, headers=Headers(headers))

        body = b"".join(self.app(environ, start))
        headers = started["headers"]
        if (changed := self.change(path, body)) != body:
            # The length is that of the whole: the connection ends too early.
            for name in [name for name in headers.keys() if name.lower().startswith("x-amz-checksum")]:
                del headers[name]
        start_response(started["status"], list(headers.items()))
        return self._in_halves(path, changed)

    def _in_halves(self, path: str, body: bytes) -> Iterator[bytes]:
        yield body[: len(body) // 2]
        self.pause(path)
        yield body[len(body) // 2 :]


def refusal(code: str, status: str) -> Answer:
    return status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bucket")
    images = image_tree(root / "images", {"train": 90, "val": 5}, size=24)
    prepare_shards(images, root / "shards", SIZE, workers=0, chunk_size=4)
    return root / "shards"


@pytest.fixture(scope="module")
def server(made: Path) -> Iterator[Faults]:
    """A server with the shards in s3://pictures/faces; its requests go through the faults that it returns."""
    import boto3

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        running = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        running.start()
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        host, port = running.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        faults = Faults(running._server.app)
        running._server.app = faults
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="pictures")
        for path in made.rglob("*"):
            if path.is_file():
                client.upload_file(str(path), "pictures", f"faces/{path.relative_to(made)}")
        yield faults
        running.stop()


@pytest.fixture(autouse=True)
def _quick(server: Faults, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server.reset()
    monkeypatch.setattr(bucket, "BACKOFF_S", 0.001)
    monkeypatch.setattr(bucket, "make_client", lambda: client(os.getpid(), *_settings()))
    yield
    settle()


def _settings() -> list[tuple[str, str]]:
    return sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))


@functools.cache
def client(*_):
    """A client for these variables; to make one takes a fifth of a second."""
    return make_client()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "chunks"


@pytest.fixture
def data(make: Callable[..., WSSLDataModule], cache: Path) -> Callable[..., WSSLDataModule]:
    def build(**options) -> WSSLDataModule:
        return make(**({"images": "s3://pictures/faces", "chunk_cache": str(cache), **TRAINING} | options))

    return build


def opened(cache: Path, split: str = "train", **options) -> ShardImages:
    return ShardImages(Shards(Bucket("s3://pictures/faces", str(cache), **options)), split, SIZE, "lanczos")


def chunks_in(cache: Path) -> list[Path]:
    return sorted((cache / FOLDER).glob("*.bin"))


def settle() -> None:
    """Wait until no thread fetches any more."""
    for thread in threading.enumerate():
        if thread.name == bucket.THREAD_NAME:
            thread.join(30)


def test_a_bucket_gives_the_batches_of_the_folder(data: Callable, made: Path, make: Callable) -> None:
    local = make(images=str(made), **TRAINING)
    for split in ("train", "val"):
        expected = epoch(local, split)
        for workers in (0, 2):
            assert same(epoch(data(num_workers=workers), split), expected)


def test_a_warm_cache_asks_for_the_indices_alone(data: Callable, server: Faults, cache: Path) -> None:
    epoch(data())
    assert len(chunks_in(cache)) >= 21
    server.reset()
    epoch(data())
    names = {path.rpartition("/")[2] for path in server.requests}
    assert names <= {"manifest.json", "index.json"} | {path.name for path in chunks_in(cache)[-2:]}
    assert not [path for path in (cache / FOLDER).iterdir() if not path.name.startswith(("chunk-", "lock-"))]


def test_each_chunk_is_fetched_once_however_many_processes_share_the_folder(cache: Path, server: Faults) -> None:
    server.delay_s = 0.005
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=read_all, args=(cache,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    asked = [path for path in server.requests if path.endswith(".bin")]
    assert len(asked) == len(set(asked)) == 23


def read_all(cache: Path) -> None:
    images = opened(cache)
    assert len(images.read(np.arange(90))[0]) == 90


def test_the_coming_window_is_fetched_while_this_one_is_read(data: Callable, server: Faults, cache: Path) -> None:
    module = data()
    module.setup("fit")
    batches = iter(module.train_dataloader())
    next(batches)
    settle()
    assert len(chunks_in(cache)) == 16
    server.answer = lambda path: refusal("SlowDown", "503 Slow Down")
    for _ in range(12):  # the window of 8 chunks of 4 images, and half of the next one
        next(batches)


def test_what_was_not_read_for_longest_is_deleted_first(cache: Path) -> None:
    images = opened(cache, limit_gb=6 * 3200e-9)
    for chunk in range(10):
        images.read(np.flatnonzero(images.chunks == chunk))
        images.read(np.flatnonzero(images.chunks == 0))
        settle()
    kept = {path.name for path in chunks_in(cache)}
    assert len(kept) <= 6
    assert images.table[9].name.endswith(tuple(kept))
    before = images.read(np.arange(4))[0]  # its file may be gone, and is open
    np.testing.assert_array_equal(before, opened(cache.with_name("other")).read(np.arange(4))[0])


def test_a_limit_below_two_windows_is_refused(data: Callable) -> None:
    with pytest.raises(WSSLError, match=r"^chunk_cache_gb=1e-05: 16 chunks of s3://.* GB: set at least 4.*e-05, or"):
        data(chunk_cache_gb=1e-5).setup("fit")


def errors(module: WSSLDataModule) -> str:
    with pytest.raises(WSSLError) as caught:
        epoch(module)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            refusal("NoSuchBucket", "404 Not Found"),
            "there is no bucket pictures: name another one",
        ),
        (
            refusal("InvalidAccessKeyId", "403 Forbidden"),
            "images=s3://pictures/faces: the credentials are refused (403 InvalidAccessKeyId): set AWS_ACCESS_KEY_ID",
        ),
        (refusal("SignatureDoesNotMatch", "403 Forbidden"), "the credentials are refused (403 SignatureDoesNotMatch)"),
        (refusal("AccessDenied", "403 Forbidden"), "access is denied (403 AccessDenied): allow s3:GetObject on it"),
        (refusal("SlowDown", "503 Slow Down"), "the server answers 503 SlowDown: try again later"),
        (refusal("InternalError", "500 Error"), "the server answers 500 InternalError: try again later"),
        (refusal("NotImplemented", "400 Bad Request"), "the server answers 400 NotImplemented"),
        (refusal("NoSuchKey", "404 Not Found"), "images=s3://pictures/faces: has no manifest.json"),
    ],
)
def test_a_refusal_is_one_line(data: Callable, server: Faults, answer: Answer, message: str) -> None:
    server.answer = lambda _: answer
    assert message in errors(data())
    assert len(server.requests) == (bucket.ATTEMPTS if answer[0].startswith("50") else 1)


def test_a_real_bucket_that_is_missing_and_names_that_are_none(data: Callable) -> None:
    assert "there is no bucket other" in errors(data(images="s3://other/faces"))
    assert "names no bucket: write s3://bucket/prefix" in errors(data(images="s3://"))
    assert "images=s3://a_B!/faces: a_B! is no name of a bucket" in errors(data(images="s3://a_B!/faces"))


def test_without_credentials(data: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in errors(data())


def test_an_endpoint_that_nobody_listens_at(data: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached: check the network, and AWS_ENDPOINT_URL" in errors(data())


def test_without_the_extra_the_remedy_is_named(data: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert errors(data()) == "images=s3://pictures/faces: needs boto3: pip install 'wssl-pl[stream]'"


def test_a_busy_server_is_asked_again(data: Callable, server: Faults, made: Path, make: Callable) -> None:
    def busy(path: str) -> Answer | None:
        return refusal("SlowDown", "503 Slow Down") if server.requests.count(path) < 3 else None

    server.answer = busy
    assert same(epoch(data()), epoch(make(images=str(made), **TRAINING)))


def test_a_slow_server_gives_the_same_crops(data: Callable, server: Faults, made: Path, make: Callable) -> None:
    server.delay_s = 0.01
    server.pause = lambda path: time.sleep(0.05 if path.endswith(".bin") else 0)
    assert same(epoch(data()), epoch(make(images=str(made), **TRAINING)))


@pytest.mark.parametrize("where", ["answer", "pause"])  # before the first byte, or in the middle
@pytest.mark.parametrize("hanging", [1, bucket.ATTEMPTS])
def test_a_server_that_sends_nothing_is_asked_again_and_then_named(
    server: Faults, cache: Path, made: Path, monkeypatch: pytest.MonkeyPatch, where: str, hanging: int
) -> None:
    monkeypatch.setattr(bucket, "READ_S", 0.3)
    monkeypatch.setattr(bucket, "make_client", make_client)
    chunk, released = Shards(Folder(made)).chunks("val")[0], threading.Event()

    def hang(path: str) -> None:
        if server.requests.count(path) <= hanging:
            released.wait(30)

    setattr(server, where, hang)
    store = Bucket("s3://pictures/faces", str(cache))
    try:
        if hanging < bucket.ATTEMPTS:
            assert hashlib.sha256(store.path(chunk).read_bytes()).hexdigest().startswith(chunk.digest)
        else:
            message = (
                rf"^images=s3://pictures/faces/{chunk.name}: http://127\S+ sends nothing for 0\.3 s: try again later$"
            )
            with pytest.raises(DataError, match=message):
                store.path(chunk)
            assert chunks_in(cache) == []
    finally:
        released.set()
    assert len(server.requests) > hanging or hanging == bucket.ATTEMPTS == len(server.requests)


@pytest.mark.parametrize("how", ["cut", "changed"])
@pytest.mark.parametrize("for_good", [False, True])
def test_a_cut_or_changed_download_is_repeated_and_never_kept(
    data: Callable, server: Faults, cache: Path, made: Path, make: Callable, how: str, for_good: bool
) -> None:
    def spoil(path: str, body: bytes) -> bytes:
        if path.endswith(".bin") and (for_good or server.requests.count(path) < 2):
            return body[: len(body) // 2] if how == "cut" else body[:-1] + bytes([body[-1] ^ 1])
        return body

    server.change = spoil
    if for_good:
        message = errors(data())
        assert ("breaks off" if how == "cut" else "has changed") in message
        settle()
        assert chunks_in(cache) == []
    else:
        assert same(epoch(data()), epoch(make(images=str(made), **TRAINING)))
    assert [path for path in (cache / FOLDER).iterdir() if path.suffix == ".part"] == []


def test_a_missing_chunk_ends_the_run_or_is_omitted(data: Callable, server: Faults) -> None:
    images = opened(Path(data().chunk_cache))
    name = images.table[2].name
    server.answer = lambda path: refusal("NoSuchKey", "404 Not Found") if path.endswith(name) else None
    message = errors(data())
    assert message.startswith(f"images=s3://pictures/faces/{name}: is missing: restore it, or omit")
    skipping = data(on_error="skip")
    seen = {index for batch in epoch(skipping) for index in batch["index"].tolist()}
    assert not seen & set(np.flatnonzero(images.chunks == 2).tolist())
    assert [reason for _, reason in skipping.skipped] == ["is missing"]


def test_shards_of_another_version(data: Callable, server: Faults) -> None:
    server.change = lambda path, body: body.replace(b'"version": 1', b'"version": 2')
    assert "images=s3://pictures/faces: has version 2 of the format, this program reads 1: run" in errors(data())


def test_a_full_disk_and_a_closed_folder(
    data: Callable, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assert errors(data(chunk_cache=str(tmp_path / "file"))).startswith(
        f"chunk_cache={tmp_path / 'file'}: cannot be written"
    )

    class Full(io.FileIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device", self.name)

    real = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda self, mode="r", *args: Full(self, "w") if self.suffix == ".part" else real(self, mode, *args),
    )
    message = errors(data())
    assert message == f"chunk_cache={cache}: cannot be written: No space left on device: make room"
    settle()
    assert chunks_in(cache) == []
    assert not list((cache / FOLDER).glob("*.part"))


def test_a_worker_reports_what_it_cannot_fetch(data: Callable, server: Faults) -> None:
    server.answer = lambda path: refusal("AccessDenied", "403 Forbidden") if path.endswith(".bin") else None
    assert "access is denied" in errors(data(num_workers=1))


def test_a_copy_of_a_bucket_has_no_connection(cache: Path) -> None:
    images = opened(cache)
    expected = images.read(np.arange(3))[0]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(images)).read(np.arange(3))[0], expected)


def test_files_of_others_in_the_folder_stay(cache: Path, made: Path) -> None:
    (cache / FOLDER).mkdir(parents=True)
    (cache / FOLDER / "mine.bin").write_bytes(bytes(10**6))
    store = Bucket("s3://pictures/faces", str(cache), limit_gb=1e-5)
    for chunk in Shards(Folder(made)).chunks("val"):
        assert hashlib.sha256(store.path(chunk).read_bytes()).hexdigest().startswith(chunk.digest)
    assert (cache / FOLDER / "mine.bin").stat().st_size == 10**6
    with pytest.raises(ChunkError, match="is missing"):
        store.path(Chunk("val/chunk-000009-0123456789abcdef.bin", 1, 100))
    with pytest.raises(DataError, match="is damaged"):
        store.read("manifest.json", 10)
