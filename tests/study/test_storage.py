"""Files that travel between the machines of a cluster through a path or a bucket."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from wssl_pl.errors import WSSLError
from wssl_pl.study import storage as module
from wssl_pl.study.definition import read_study
from wssl_pl.study.folder import StudyFolder
from wssl_pl.study.plan import Status
from wssl_pl.study.storage import Storage, StorageError, storage_of

BUCKET = "studies"


@pytest.fixture(autouse=True)
def no_kept_connections():
    """fsspec keeps a file system by its arguments; the environment is none."""
    if "s3fs" in sys.modules:
        sys.modules["s3fs"].S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["path", "s3"])
def storage(request, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if request.param == "path":
        return Storage(str(tmp_path / "storage"))
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("s3"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "something")
    return Storage(f"s3://{BUCKET}/{tmp_path.name}")


@pytest.fixture
def pairs(tmp_path):
    folder = tmp_path / "pairs"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "1.png").write_bytes(b"image")
    (folder / "manifest.json").write_text('{"hash": "a"}')
    return folder


@pytest.fixture
def runs(study):
    """A pretext run of the study and the downstream run that needs it."""
    plan = study.plan()
    downstream = next(run for run in plan.runs.values() if run.pretext)
    return plan.runs[downstream.pretext], downstream


def train(folder, run, state="done", **files):
    """Leaves in a run's folder what a training does."""
    path = folder.run(run.id)
    path.mkdir(parents=True, exist_ok=True)
    for name, text in ({"last_ckpt": "last", "best_ckpt": "best", "metrics_csv": "step\n"} | files).items():
        (path / name.replace("_", ".")).write_text(text)
    (path / ".study.lock").touch()
    folder.set_status(run.id, Status(state, steps=run.steps))


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_run_goes_to_another_machine_and_comes_back(storage, study, pairs, runs, tmp_path):
    pretext, downstream = runs
    storage.start(study, pairs)
    with storage.workplace(pretext, tmp_path, measured=True) as (place, cwd, copied):
        assert place.pairs_hash() == "a"
        assert cwd == tmp_path
        assert place.study() == study.study()
        assert files(copied) == files(pairs)
        assert (copied / "images" / "1.png").read_bytes() == b"image"
        train(place, pretext)
    assert not place.path.exists()
    storage.collect(study, pretext.id)
    assert files(study.run(pretext.id)) == {"best.ckpt", "metrics.csv", "status.json"}
    assert study.status(pretext.id) == Status("done", steps=pretext.steps)
    with storage.workplace(downstream, tmp_path / "none", measured=False) as (place, cwd, copied):
        assert cwd == place.path, "the working folder does not exist on this machine"
        assert copied is None
        assert (place.run(pretext.id) / "best.ckpt").read_text() == "best"
        assert not (place.run(pretext.id) / "last.ckpt").exists()


def test_a_lost_machine_costs_what_it_has_not_sent(storage, study, runs, tmp_path, monkeypatch):
    pretext, _ = runs
    monkeypatch.setattr(module, "POLL_S", 0.01)
    storage.start(study, None)
    first = storage.workplace(pretext, tmp_path, measured=False)
    place, _, _ = first.__enter__()
    train(place, pretext, "running")
    for _ in range(1000):
        if "last.ckpt" in storage._list(f"runs/{pretext.id}"):
            break
        module.time.sleep(0.01)
    # The first machine is never heard of again.
    with storage.workplace(pretext, tmp_path, measured=False) as (second, _, _):
        assert (second.run(pretext.id) / "last.ckpt").read_text() == "last"
    with pytest.raises(KeyError):
        first.gen.throw(KeyError)


def test_an_interrupted_run_is_sent_too(storage, study, runs, tmp_path):
    pretext, _ = runs
    storage.start(study, None)
    at_work = storage.workplace(pretext, tmp_path, measured=False)
    place, _, _ = at_work.__enter__()
    train(place, pretext, "running", last_ckpt="after Ctrl-C")
    with pytest.raises(KeyboardInterrupt):
        at_work.gen.throw(KeyboardInterrupt)
    with storage.workplace(pretext, tmp_path, measured=False) as (place, _, _):
        assert (place.run(pretext.id) / "last.ckpt").read_text() == "after Ctrl-C"


def test_only_what_has_changed_is_sent(storage, study, runs, monkeypatch):
    pretext, _ = runs
    storage.start(study, None)
    train(study, pretext)
    sent, known = [], {}
    monkeypatch.setattr(Storage, "_send", lambda self, files: sent.append({path.name for path in files}))
    storage.send_run(study.run(pretext.id), pretext.id, known)
    (study.run(pretext.id) / "metrics.csv").write_text("step\n1\n")
    storage.send_run(study.run(pretext.id), pretext.id, known)
    assert sent == [{"best.ckpt", "last.ckpt", "metrics.csv", "status.json"}, {"metrics.csv"}]


def test_a_new_folder_takes_what_has_ended_in_the_storage(storage, study, runs, tmp_path):
    pretext, downstream = runs
    storage.start(study, None)
    with storage.workplace(pretext, tmp_path, measured=False) as (place, _, _):
        train(place, pretext)
    with storage.workplace(downstream, tmp_path, measured=False) as (place, _, _):
        train(place, downstream, "running")
    again = StudyFolder(tmp_path / "again")
    again.start(study.study())
    storage.start(again, None)
    assert again.status(pretext.id).state == "done"
    assert again.status(downstream.id).state == "waiting"


def test_a_failed_run_that_was_removed_is_trained_again(storage, study, runs, tmp_path):
    pretext, _ = runs
    storage.start(study, None)
    with storage.workplace(pretext, tmp_path, measured=False) as (place, _, _):
        train(place, pretext, "failed")
    storage.start(study, None)
    assert study.status(pretext.id).state == "failed"
    shutil.rmtree(study.run(pretext.id))
    storage.start(study, None)
    assert study.status(pretext.id).state == "waiting"
    with storage.workplace(pretext, tmp_path, measured=False) as (place, _, _):
        assert not (place.run(pretext.id) / "status.json").exists()


def test_runs_trained_before_are_offered_once(storage, study, runs, tmp_path, monkeypatch):
    pretext, downstream = runs
    train(study, pretext)
    storage.start(study, None)
    storage.offer(study, pretext.id)
    with storage.workplace(downstream, tmp_path, measured=False) as (place, _, _):
        assert (place.run(pretext.id) / "best.ckpt").read_text() == "best"
    monkeypatch.setattr(Storage, "_send", lambda self, files: pytest.fail("it is there already"))
    storage.offer(study, pretext.id)


def test_another_study_is_refused(storage, study, declare, tmp_path):
    storage.start(study, None)
    other = StudyFolder(tmp_path / "other")
    other.start(replace(read_study([declare()]), seeds=[7]))
    with pytest.raises(WSSLError, match=r"was started with other settings \(seeds"):
        storage.start(other, None)


def test_new_pairs_replace_old_ones(storage, study, pairs, runs, tmp_path):
    storage.start(study, pairs)
    (pairs / "images" / "1.png").write_bytes(b"another")
    (pairs / "manifest.json").write_text('{"hash": "b"}')
    storage.start(study, pairs)
    with storage.workplace(runs[0], tmp_path, measured=True) as (_, _, copied):
        assert (copied / "images" / "1.png").read_bytes() == b"another"


def test_a_study_remembers_its_storage(storage, study):
    assert storage_of(study, None) is None
    storage.start(study, None)
    assert storage_of(study, None) == storage == storage_of(study, storage.url)
    with pytest.raises(WSSLError, match=r"storage=elsewhere: the study was started with .*: give that"):
        storage_of(study, "elsewhere")


def test_a_name_that_leads_out_of_the_folder_is_refused(study, monkeypatch, tmp_path):
    class Liar:
        protocol = "s3"

        def find(self, path):
            return [f"{path}/../../.bashrc"]

    monkeypatch.setattr(Storage, "_place", property(lambda self: (Liar(), "bucket")))
    with pytest.raises(StorageError, match="is no file of a study"):
        Storage("s3://bucket")._list("runs/x")


@pytest.mark.parametrize(
    ("url", "environment", "said"),
    [
        ("s3://nobody/x", {}, r"storage=s3://nobody/x: cannot be used \(.*bucket does not exist.*\): check the"),
        ("ftpx://host", {}, r"storage=ftpx://host: cannot be used \(Protocol not known: ftpx\)"),
        ("s3://studies/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "Could not connect to the endpoint URL"),
        ("/proc/version/x", {}, "storage=/proc/version/x: cannot be used"),
    ],
)  # fmt: skip
def test_what_does_not_answer_is_one_line(url, environment, said, study, s3, monkeypatch):
    pytest.importorskip("s3fs")
    given = {"AWS_ENDPOINT_URL": s3, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_MAX_ATTEMPTS": "1"}
    for name, value in (given | environment).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=said) as raised:
        Storage(url).start(study, None)
    assert "\n" not in str(raised.value)


def test_a_missing_package_is_named(study, monkeypatch):
    def refuse(url, **options):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.url_to_fs", refuse)
    with pytest.raises(StorageError, match=r"storage=s3://b/x: .*pip install 'wssl-pl\[stream\]'"):
        Storage("s3://b/x").start(study, None)


def test_a_full_disk_of_the_storage_leaves_no_part_of_a_file(study, tmp_path, monkeypatch):
    def full(source, target):
        target.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(StorageError, match="No space left on device"):
        Storage(str(tmp_path / "storage")).start(study, None)
    assert not files(tmp_path / "storage")


def test_pairs_from_elsewhere_travel_too(storage, declare, pairs, runs, tmp_path):
    folder = StudyFolder(tmp_path / "shifted")
    folder.start(replace(read_study([declare()]), out_of_domain=str(pairs)))
    storage.start(folder, pairs)
    with storage.workplace(runs[1], tmp_path, measured=True) as (place, cwd, _):
        there = cwd / place.elsewhere(runs[1])
        assert json.loads((there / "manifest.json").read_text()) == {"hash": "a"}
        assert there != pairs
        assert Path(there).is_relative_to(tmp_path / "cache")
