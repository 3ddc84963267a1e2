"""Files that are whole or not there at all, errors of the disk, and outputs that one process owns."""

import errno
import os
import re
import signal
import stat
import threading
from pathlib import Path

import pytest
from filelock import lock_descriptor

from wssl_pl import files
from wssl_pl.errors import WSSLError
from wssl_pl.files import check_writable, owned, replacing, write_atomically, writing


def test_temporary_file_is_new_hidden_and_has_a_random_name(tmp_path: Path) -> None:
    names = set()
    for _ in range(2):
        with replacing(tmp_path / "photo.png") as file:
            assert re.fullmatch(r"\.wssl-[0-9a-f]{32}\.part", Path(file.name).name)
            assert not (tmp_path / "photo.png").exists() or len(names) == 1
            names.add(file.name)
            file.write(b"whole")
    assert len(names) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]
    assert (tmp_path / "photo.png").read_bytes() == b"whole"


def test_planted_link_is_not_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "0" * 2 * count)
    (tmp_path / f".wssl-{'0' * 32}.part").symlink_to(victim)

    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "out", b"mine")

    assert victim.read_text() == "precious"


def test_failed_block_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("old")
    with pytest.raises(TypeError), replacing(path) as file:
        file.write("half")  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_mode_follows_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left, held, other = (tmp_path / f".wssl-{name}.part" for name in ("left", "held", "link"))
    left.touch()
    held.touch()
    victim = tmp_path / "victim"
    victim.touch()
    other.symlink_to(victim)
    with held.open("r+b") as file:
        assert lock_descriptor(file.fileno(), blocking=False)
        write_atomically(tmp_path / "new", "text")
    assert {path.name for path in tmp_path.iterdir()} == {held.name, other.name, "victim", "new"}


def test_file_that_another_process_takes_for_a_leftover_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stolen = []

    def lock(descriptor: int, blocking: bool) -> bool:
        if not stolen:
            stolen.extend(tmp_path.glob("*.part"))
            stolen[0].unlink()
        return True

    monkeypatch.setattr(files, "lock_descriptor", lock)
    write_atomically(tmp_path / "out", "text")
    assert stolen
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, blocking: bool) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / ".wssl-other.part").touch()
    monkeypatch.setattr(files, "lock_descriptor", refuse)
    write_atomically(tmp_path / "out", "text")
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".wssl-other.part"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device: make room"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "Permission denied: name another place"),
        (PermissionError(errno.EACCES, "Permission denied", ".wssl-0.part"), "Permission denied: name another place"),
        (PermissionError(errno.EACCES, "Permission denied", "/b/c"), "/b/c: Permission denied: name another place"),
        (OSError("encoder error -2"), "encoder error -2: name another place"),
    ],
)
def test_errors_of_the_disk_in_one_line(error: OSError, reason: str) -> None:
    with pytest.raises(WSSLError) as raised, writing("out", Path("a")):
        raise error
    assert str(raised.value) == f"out=a: cannot be written: {reason}"


def test_check_writable(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "newer", "out", tmp_path / "new")
    assert not any(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(WSSLError, match=r"cannot be written: .*Not a directory"):
        check_writable(tmp_path / "file" / "below", "out", tmp_path / "file" / "below")


def test_check_writable_of_a_read_only_folder(read_only: Path) -> None:
    with pytest.raises(WSSLError, match=r"^out=x: cannot be written: .*(Permission denied|Read-only file system)"):
        check_writable(read_only / "new", "out", Path("x"))


@pytest.mark.parametrize("folder", [True, False])
def test_an_output_has_one_owner(tmp_path, folder):
    out = tmp_path / "new" / "result"
    with owned(out, folder=folder):
        with pytest.raises(WSSLError, match=rf"^out={out}: is being written by another process \({os.getpid()} on "):
            owned(out, folder=folder).__enter__()
        with pytest.raises(WSSLError, match=r"^run\.dir=.*: is being written"):
            owned(out, "run.dir", folder).__enter__()
    with owned(out, folder=folder):
        pass
    assert not list(tmp_path.iterdir())  # neither a lock file nor an empty folder stays


def test_what_was_written_and_what_was_there_stays(tmp_path):
    (tmp_path / "empty").mkdir()
    with owned(tmp_path / "empty"):
        pass
    with owned(tmp_path / "a" / "b"):
        (tmp_path / "a" / "file").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "empty", "file"]


def test_the_lock_file_of_a_killed_process_does_not_block(tmp_path):
    (tmp_path / ".lock").write_text("1 on elsewhere")
    with owned(tmp_path):
        pass


@pytest.fixture
def foreign_owner(tmp_path, monkeypatch):
    """The mark of a process of another host in a folder whose `flock` this host does not see; and a clock that runs."""
    monkeypatch.setattr(files, "LEASE_S", 0.3)
    monkeypatch.setattr("filelock._marker.host_name", lambda: "node7")
    mark = tmp_path / "run" / ".owner.lock"
    mark.parent.mkdir()
    with files.leased(mark.parent, "run.dir"):
        content = mark.read_bytes()
    monkeypatch.undo()
    monkeypatch.setattr(files, "LEASE_S", 0.3)
    mark.write_bytes(content)
    return mark


@pytest.mark.parametrize("clock", [0, 4e9])  # of the other host: decades behind and ahead
def test_an_owner_on_another_host_that_lives_is_named(foreign_owner, monkeypatch, clock):
    sleep, beats = files.time.sleep, iter(range(1, 1000))

    def beat(seconds):
        sleep(seconds)
        os.utime(foreign_owner, (clock, clock + next(beats)))

    monkeypatch.setattr(files.time, "sleep", beat)
    message = r"run is being written by another process \(process \d+ on node7\): wait"
    with pytest.raises(WSSLError, match=message.replace("run is", "run: is")):
        owned(foreign_owner.parent, "run.dir").__enter__()
    assert foreign_owner.exists()


@pytest.mark.parametrize("clock", [0, 4e9])
@pytest.mark.parametrize("nfs", [False, True])
def test_an_owner_on_another_host_that_was_killed_does_not_block(foreign_owner, monkeypatch, clock, nfs):
    os.utime(foreign_owner, (clock, clock))
    if nfs:  # which cannot exchange two files
        monkeypatch.setattr("filelock._soft.exchange_names", lambda source, target: False)
    with owned(foreign_owner.parent):
        assert b"node7" not in foreign_owner.read_bytes()
    assert not list(foreign_owner.parent.iterdir())


def test_an_owner_that_ends_meanwhile_leaves_the_folder(foreign_owner, monkeypatch):
    monkeypatch.setattr(files.time, "sleep", lambda seconds: foreign_owner.unlink())
    with owned(foreign_owner.parent):
        pass


def test_an_owner_that_was_held_up_ends_when_another_has_taken_over(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(files, "LEASE_S", 0.1)
    received = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.set())
    try:
        with files.leased(tmp_path, "run.dir"):
            (tmp_path / "other").touch()
            (tmp_path / "other").replace(tmp_path / ".owner.lock")
            assert received.wait(20)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert f"error: {tmp_path}: another process has taken it over" in capfd.readouterr().err


def test_an_output_that_cannot_be_written(tmp_path, read_only):
    (tmp_path / "file").touch()
    with pytest.raises(WSSLError, match="file/x: cannot be written: Not a directory: name another"):
        owned(tmp_path / "file" / "x").__enter__()
    (tmp_path / ".lock").symlink_to(tmp_path / "file")  # planted: it is not written through
    with pytest.raises(WSSLError, match="cannot be written: Too many levels of symbolic links"):
        owned(tmp_path).__enter__()
    assert not (tmp_path / "file").read_text()
    with pytest.raises(WSSLError, match="cannot be written: Permission denied"):
        owned(read_only / "new").__enter__()
