"""Where the page listens, and what is refused before it starts."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import PATIENCE_S, unused_port
from wssl_pl.app import storage
from wssl_pl.app.address import is_loopback, listening, shown
from wssl_pl.app.options import AppOptions
from wssl_pl.app.server import running
from wssl_pl.app.storage import LOCK, own_folder
from wssl_pl.cli import main
from wssl_pl.errors import WSSLError
from wssl_pl.files import hold


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(WSSLError, match=r"host=8\.8\.8\.8"):
        listening("8.8.8.8", None)


def test_a_port_that_is_taken_is_refused_and_without_one_a_free_one_is_found(monkeypatch):
    with listening("127.0.0.1", unused_port()) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(WSSLError, match=f"port={port}: is not free"):
            listening("127.0.0.1", port)
        monkeypatch.setattr("wssl_pl.app.address.PORT", port)
        with listening("127.0.0.1", None) as other:
            assert port < other.getsockname()[1] < port + 100


def test_the_address_that_is_shown():
    hosts = ["127.0.0.1", "localhost", "::1", "0.0.0.0", "::"]
    assert [shown(host) for host in hosts] == ["127.0.0.1", "localhost", "[::1]", "localhost", "localhost"]


def test_the_folder_is_the_users_alone_and_goes(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with own_folder() as folder, own_folder() as other:
        assert folder != other
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "photo.png").touch()
    assert list(tmp_path.iterdir()) == []


def test_folders_of_killed_pages_go_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("killed", "living", "elsewhere", "unlike", "foreign"):
        (tmp_path / f"wssl-app-{name}").mkdir()
        (tmp_path / f"wssl-app-{name}" / "photo.png").touch()
        (tmp_path / f"wssl-app-{name}" / LOCK).touch()
    (tmp_path / "wssl-app-elsewhere").rename(tmp_path / "target")
    (tmp_path / "wssl-app-link").symlink_to(tmp_path / "target")
    (tmp_path / "wssl-app-unlike" / LOCK).unlink()
    (tmp_path / "wssl-app-file").touch()
    lstat = Path.lstat

    def as_of_others(path):
        status = lstat(path)
        return os.stat_result([*status[:4], status.st_uid + 1, *status[5:]]) if "foreign" in path.name else status

    monkeypatch.setattr(Path, "lstat", as_of_others)
    lock = hold(tmp_path / "wssl-app-living" / LOCK)
    with own_folder():
        pass
    lock.release()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"target", *(f"wssl-app-{name}" for name in ("living", "link", "unlike", "foreign", "file"))}
    assert (tmp_path / "target" / "photo.png").exists()


def test_a_folder_that_another_page_takes_for_a_leftover_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    left = [1, 2]

    def taken(path):
        lock = hold(path)
        if left:
            shutil.rmtree(path.parent)
            left.pop()
        return lock

    monkeypatch.setattr(storage, "hold", taken)
    with own_folder() as folder:
        assert (folder / LOCK).exists()


def test_a_temporary_folder_that_cannot_be_used_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    with pytest.raises(WSSLError, match=r"^TMPDIR=.*none: cannot be written: No such file") as caught, own_folder():
        pass
    assert "\n" not in str(caught.value)


def test_a_full_disk_at_the_start_is_one_line(tmp_path, monkeypatch, ckpt):
    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("wssl_pl.app.server.make_examples", full)
    options = AppOptions(ckpt=ckpt, port=unused_port(), device="cpu")
    with pytest.raises(WSSLError, match=r"^TMPDIR=.*No space left") as caught, running(options):
        pass
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_photos_of_a_killed_page_go_with_the_next_which_ends_by_sigint_in_the_background(tmp_path, ckpt):
    """Shells let what they start in the background ignore SIGINT."""
    (tmp_path / "tmp").mkdir()
    folders = tmp_path / "tmp"
    words = [sys.executable, "-m", "wssl_pl", "app", f"ckpt={ckpt}", "device=cpu"]
    environment = os.environ | {"TMPDIR": str(folders)}

    def start():
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            page = subprocess.Popen(
                [*words, f"port={unused_port()}"], stdout=subprocess.PIPE, env=environment, text=True
            )
        finally:
            signal.signal(signal.SIGINT, before)
        for line in page.stdout:
            if "page is at" in line:
                return page
        raise AssertionError("the page did not start")

    with start() as first:
        (killed,) = folders.glob("wssl-app-*")
        (killed / "files" / "photo.png").touch()
        first.kill()
    assert killed.exists()
    with start() as second:
        assert not killed.exists()
        second.send_signal(signal.SIGINT)
        assert second.wait(PATIENCE_S) == 0
    assert list(folders.glob("wssl-app-*")) == []


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("127.0.1.9", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False)],
)
def test_only_this_machine_reaches_loopback_addresses(host, alone):
    assert is_loopback(host) == alone


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["port=0"], "port=0: must be a whole number of at least 1"),
        (["port=65536"], "port=65536: must be from 1 to 65535"),
        (["port=abc"], "port=abc: must be a whole number of at least 1"),
        (["max_mb=0"], "max_mb=0: must be a positive number"),
        (["max_total_mb=0"], "max_total_mb=0: must be a positive number"),
        (["max_megapixels=nan"], "max_megapixels=nan: must be a positive number"),
        (["concurrency=0"], "concurrency=0: must be a whole number of at least 1"),
        (["ckpts=/no/where"], "ckpts=/no/where: is not a folder"),
        (["ckpt=/no/where.ckpt"], "ckpt=/no/where.ckpt: does not exist"),
        (["share=true"], "unknown option 'share'"),
    ],
)
def test_wrong_options_are_one_line_and_exit_code_2(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["app", *words])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_without_gradio_the_command_to_install_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(WSSLError, match=r"pip install 'wssl-pl\[app\]'"), running(AppOptions()):
        pass


def test_the_environment_is_as_before_when_the_page_ends_or_does_not_start(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "/mine")
    before = dict(os.environ)
    with pytest.raises(WSSLError), running(AppOptions()):
        pass
    assert dict(os.environ) == before


def test_help_lists_the_options_without_gradio(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit):
        main(["app", "--help"])
    shown = capsys.readouterr().out
    assert "max_megapixels=" in shown
    assert "share" not in shown
