"""Files that are whole or not there, and outputs that one process owns."""

import os
from pathlib import Path

import pytest

from wssl_pl.errors import WSSLError
from wssl_pl.files import owned


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


def test_an_output_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(WSSLError, match="file/x: cannot be written: Not a directory: name another"):
        owned(tmp_path / "file" / "x").__enter__()
    (tmp_path / ".lock").symlink_to(tmp_path / "file")  # planted: it is not written through
    with pytest.raises(WSSLError, match="cannot be written: Too many levels of symbolic links"):
        owned(tmp_path).__enter__()
    assert not (tmp_path / "file").read_text()

    def read_only(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(WSSLError, match="cannot be written: Permission denied"):
        owned(tmp_path / "new").__enter__()
