"""Fixtures that every part of the tests uses."""

import ctypes
import functools
import os
import signal
from pathlib import Path

import pytest

try:
    import torch
except ModuleNotFoundError:  # `make quick` runs the tests that need no PyTorch
    torch = None

# The only folder outside the repository that tests read: real images and masks, as CONTRIBUTING.md describes it.
REAL_DATA = Path(os.environ.get("WSSL_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data").resolve()

# Several test processes share the cores: threads of each would only wait for those of the others.
if "PYTEST_XDIST_WORKER" in os.environ and torch is not None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
# A shell's background job (`make test &`) ignores SIGINT, which tests of Ctrl-C send.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Ray gives its workers a niceness of 15: beside another test process they would wait for most of the time.
os.environ.setdefault("RAY_worker_niceness", "0")


def pytest_configure():
    if os.environ.get("WSSL_TEST_DATA") and not REAL_DATA.is_dir():
        raise pytest.UsageError(f"WSSL_TEST_DATA={os.environ['WSSL_TEST_DATA']}: there is no such folder: unset it")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("real") and not REAL_DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason="no real images and masks: set WSSL_TEST_DATA"))
        if item.get_closest_marker("gpu") and (torch is None or not torch.cuda.is_available()):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("slow"):
            item.add_marker("no_cover")  # the fast tests measure coverage, which takes half as much time again
    # The long ones first, so that at the end no process waits for another one.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def real_data() -> Path:
    """Return the folder of real faces and masks."""
    return REAL_DATA


@pytest.fixture(autouse=True)
def _seed():
    if torch is not None:
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def s3():
    """The address of an S3 server of this process, with the bucket `studies`."""
    boto3, server = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    server = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"aws_access_key_id": "someone", "aws_secret_access_key": "secret"}
    boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys).create_bucket(Bucket="studies")
    yield address
    server.stop()


@pytest.fixture(scope="session")
def _cache_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache-home")


@pytest.fixture(autouse=True)
def _cache_home(_cache_folder, monkeypatch):
    """Nothing that a test keeps between runs goes to the user's own cache folder, and no weights come from there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(_cache_folder))
    for name in ("TORCH_HOME", "WSSL_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _uncovered_processes(request, monkeypatch):
    """Coverage is not measured in processes that slow tests start either."""
    if request.node.get_closest_marker("slow"):
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@pytest.fixture
def permissions_count():
    """Make the permissions of files count where root runs the tests too: drop its right to ignore them."""
    if os.geteuid() != 0:
        yield
        return
    libc, header = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(0x20080522, 0)
    before, without = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == libc.capget(header, without) == 0
    without[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, of this thread and those that it starts
    assert libc.capset(header, without) == 0
    yield
    assert libc.capset(header, before) == 0


@pytest.fixture
def read_only(permissions_count, tmp_path):
    """Return a folder into which nothing can be written."""
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o555)
    yield folder
    folder.chmod(0o755)


@pytest.fixture(scope="session", autouse=True)
def _draw_once():
    """Draw each image and mask of the synthetic dataset once: half of the time of a small training otherwise."""
    if torch is None:
        yield
        return
    from wssl_pl import synthetic

    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_face", "draw_mask"):
            patch.setattr(synthetic, name, functools.cache(getattr(synthetic, name)))
        yield


@pytest.fixture
def fit(tmp_path):
    """Train a module on the synthetic dataset: `fit(module, max_steps=3, ...)` returns the plain Trainer."""
    from lightning import Trainer

    from wssl_pl.data import WSSLDataModule

    def run(module, resume=None, image_size=32, **settings):
        data = WSSLDataModule(
            images="synthetic",
            masks="synthetic",
            image_size=image_size,
            resize=36,
            batch_size=8,
            limit=24,
            num_workers=0,
        )
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        quiet |= {"enable_checkpointing": False, "num_sanity_val_steps": 0}
        trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, **quiet | {"max_epochs": 1} | settings)
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        return trainer

    return run
