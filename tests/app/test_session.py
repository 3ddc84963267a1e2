"""The versions of one photo: what undo, redo and a new fill keep, and which files go."""

import os

import pytest

from wssl_pl.app.session import Session, Step, Version


@pytest.fixture
def version(tmp_path):
    def version(title):
        folder = tmp_path / title
        folder.mkdir()
        for name in ("full.png", "preview.png"):
            (folder / name).touch()
        return Version(title, folder / "full.png", folder / "preview.png", "")

    return version


@pytest.fixture
def session(version):
    """An original and two fills, the second of two models."""
    session = Session((Step((version("original"),)),)).add(Step((version("first"),)))
    return session.add(Step((version("second"), version("other"))))


def titles(session):
    return [each.title for each in session.versions]


def test_undo_and_redo_move_within_the_steps(session):
    assert session.step.version.title == "second"
    assert session.moved(-1).step.version.title == "first"
    assert session.moved(-9).position == 0
    assert session.moved(-1).moved(1) == session.moved(9) == session


def test_a_fill_after_undo_replaces_what_was_undone_and_deletes_its_files(session, version, tmp_path):
    new = session.moved(-1).add(Step((version("third"),)))
    assert titles(new) == ["original", "first", "third"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "original", "third"]


def test_a_choice_changes_what_the_next_step_starts_from(session, version):
    chosen = session.choose(1)
    assert chosen.step.version.title == "other"
    assert titles(chosen) == titles(session)
    assert [session.choose(index) for index in (0, 2, -1)] == [session] * 3
    later = session.add(Step((version("third"),))).moved(-1)
    assert titles(later.choose(1)) == ["original", "first", "second", "other"]
    assert not later.steps[3].version.path.exists()


def test_files_in_use_do_not_age(session, tmp_path):
    paths = [*tmp_path.rglob("*.png")]
    for path in paths:
        os.utime(path, (1, 1))
    paths[0].unlink()
    session.renew()
    assert all(path.stat().st_mtime > 1 for path in paths[1:])


def test_a_closed_session_keeps_the_upload_alone(session, tmp_path):
    upload = tmp_path / "upload.png"
    upload.touch()
    Session((Step((Version("Original", upload, session.steps[0].version.preview, ""),)), *session.steps[1:])).close()
    assert list(tmp_path.iterdir()) == [upload]
