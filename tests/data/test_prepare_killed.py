"""Real processes that are killed, interrupted, or started twice."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.data.fakes import image_tree
from tests.data.test_prepare import contents
from tests.processes import PATIENCE_S, wait_until
from wssl_pl.data import pool
from wssl_pl.data.cache import check_cache
from wssl_pl.data.prepare import prepare

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
COUNT = 4 * 299 + 20  # of 300 in train one is damaged, and each has three links


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = image_tree(tmp_path_factory.mktemp("many"), {"train": 300, "val": 20}, suffix=".jpg", size=400)
    (root / "train" / "7.jpg").write_text("not an image")
    # Work for longer than the second between two parts; links cost nothing to make.
    for copy in range(3):
        for image in sorted((root / "train").glob("[0-9]*.jpg")):
            os.link(image, root / "train" / f"copy{copy}_{image.name}")
    return root


def start(images: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "wssl_pl", "prepare", f"images={images}", f"out={out}", "size=64", "workers=2"]
    # A session of its own, so that its worker processes can be told from others. Tests that run in the background
    # ignore Ctrl-C, and would hand that on.
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def session_is_empty(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return True
    return False


def test_killed_ten_times_it_is_byte_identical_to_one_made_in_peace(images: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    process = start(images, tmp_path / "peace")
    assert process.wait() == 0
    length = time.monotonic() - started
    moments, kills = random.Random(0), 0
    while kills < 10 and time.monotonic() < started + 400:
        process = start(images, tmp_path / "out")
        if kills == 0:
            # The first one comes in mid-work, when something is noted that the next one has to go on from.
            while process.poll() is None and not list((tmp_path / "out").rglob("part-*.parquet")):
                time.sleep(0.01)
        else:
            time.sleep(moments.uniform(0.2, 1.0) * length)
        process.kill()
        if process.wait() != 0:
            kills += 1
        else:
            # It was faster than the kill, as it is where less is left to do or the machine is less busy than it was:
            # kill sooner, and begin from nothing again.
            length *= 0.8
            shutil.rmtree(tmp_path / "out")
    assert kills == 10
    wait_until(lambda: session_is_empty(process.pid), "the workers of a killed process to end")
    assert start(images, tmp_path / "out").wait() == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "peace")
    assert len(check_cache(tmp_path / "out").entries) == COUNT


def test_ctrl_c_ends_in_order_and_says_how_to_go_on(images: Path, tmp_path: Path) -> None:
    process = start(images, tmp_path / "out")
    wait_until(lambda: list((tmp_path / "out").rglob("images.npy")), "its array", process)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, errors
    assert "the same command resumes" in errors
    assert "Traceback" not in errors
    assert start(images, tmp_path / "out").wait() == 0
    check_cache(tmp_path / "out")


def test_ctrl_c_while_the_processes_are_started_leaves_a_pool_that_can_be_shut_down(monkeypatch) -> None:
    submitted = []

    class Pool(ProcessPoolExecutor):
        def submit(self, *args):
            os.kill(os.getpid(), signal.SIGINT)
            submitted.append(args)
            return super().submit(*args)

    monkeypatch.setattr(pool, "ProcessPoolExecutor", Pool)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            next(pool.results([partial(abs, -1), partial(abs, -2)], workers=1))
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(submitted) == 2


def test_two_processes_do_not_hurt_each_other(images: Path, tmp_path: Path) -> None:
    both = [start(images, tmp_path / "out") for _ in range(2)]
    errors = [process.communicate(timeout=PATIENCE_S)[1] for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes
    for code, error in zip(codes, errors, strict=True):
        assert code == 0 or (code == 2 and "is being written by another process" in error)
    check_cache(tmp_path / "out")
    prepare(images, tmp_path / "peace", size=64, workers=0)
    assert contents(tmp_path / "out") == contents(tmp_path / "peace")
