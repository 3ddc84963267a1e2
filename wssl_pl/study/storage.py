"""Where the runs of a study are kept when the machines of a cluster share no folder: a path, or a bucket.

study.json                  as in the study's folder
pairs/, out_of_domain/      the pairs on which runs are measured
runs/<id>/                  as in the study's folder

A run is trained in a temporary folder of the machine that Ray gives it to. What changes there is sent to the storage
while it is trained, so that another machine continues it when this one is lost. The driver fetches what has ended into
the study's folder, all but `last.ckpt`: reports and models are there as after a study on one machine.
"""

import hashlib
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from wssl_pl.errors import WSSLError, first_line
from wssl_pl.files import cache_folder, replacing, write_json, writing
from wssl_pl.records import read_json
from wssl_pl.study.folder import OUT_OF_DOMAIN, VERSION, Started, StudyFolder
from wssl_pl.study.plan import ENDED, Run

SYNC_S = 30.0  # between two times that the files of a training are sent; a lost machine costs so much of its work
POLL_S = 0.5  # between two looks for its first checkpoint, which is sent at once
LAST = ("last.ckpt", "status.json")  # sent after the files that they are about
OWN = (".study.lock", ".lock")  # of the process that trains
RECORD = "storage.json"

Known = dict[str, tuple[int, int]]  # time and size of files that were sent


class StorageError(WSSLError):
    """The storage of a study cannot be read or written."""


@dataclass(frozen=True)
class Storage:
    """A place that every machine of a cluster can read and write.

    Attributes:
        url: a path, or whatever fsspec takes: `s3://bucket/prefix`, `gs://...`, each with its own credentials.
    """

    url: str

    def start(self, folder: StudyFolder, pairs: Path | None) -> None:
        """Bring the study and its pairs here, and into its folder the runs that have ended here.

        Args:
            folder: the study's.
            pairs: those on which its runs are measured; None: they are not measured.

        Raises:
            StorageError: it cannot be reached, read or written.
            WSSLError: it holds another study.
        """
        with tempfile.TemporaryDirectory(prefix="wssl-") as temporary:
            if self._fetch("study.json", Path(temporary) / "study.json"):
                StudyFolder(temporary).check_same(folder.study())
        self._send({folder.path / "study.json": "study.json"})
        write_json(folder.path / RECORD, self.url)
        elsewhere = folder.study().out_of_domain
        for name, source in {"pairs": pairs, OUT_OF_DOMAIN: folder.cwd() / elsewhere if elsewhere else None}.items():
            if pairs is not None and source is not None:
                self._send_pairs(name, source)
        here = set(self._list("runs"))
        left = [
            run for run in folder.plan().runs if folder.status(run).state != "done" and f"{run}/status.json" in here
        ]
        with tempfile.TemporaryDirectory(prefix="wssl-") as temporary:
            states = StudyFolder(temporary)
            self._fetch_all({f"runs/{run}/status.json": states.run(run) / "status.json" for run in left})
            new = not (folder.path / "runs").is_dir()
            for run in left:
                state = states.status(run).state
                if state == "failed" and not new and not folder.run(run).is_dir():  # removed, to be trained again
                    self._remove_all(f"runs/{run}")
                elif state in ENDED:
                    self.collect(folder, run)

    def _send_pairs(self, name: str, source: Path) -> None:
        """Send a folder of pairs, its manifest last: without one it is incomplete."""
        manifest = source / "manifest.json"
        with tempfile.TemporaryDirectory(prefix="wssl-") as temporary:
            there = Path(temporary) / "manifest.json"
            if self._fetch(f"{name}/manifest.json", there) and there.read_bytes() == manifest.read_bytes():
                return
        files = [file for file in source.rglob("*") if file.is_file() and file != manifest]
        self._send({file: f"{name}/{file.relative_to(source).as_posix()}" for file in files})
        self._send({manifest: f"{name}/manifest.json"})

    def collect(self, folder: StudyFolder, run: str) -> None:
        """Fetch an ended run into the study's folder, its state last."""
        path = folder.run(run)
        names = [name for name in self._list(f"runs/{run}") if name not in LAST]
        with writing("out", folder.path):
            path.mkdir(parents=True, exist_ok=True)
            self._fetch_all({f"runs/{run}/{name}": path / name for name in [*names, "status.json"]})

    def offer(self, folder: StudyFolder, run: str) -> None:
        """Send a run that was trained, wholly or in part, without the storage."""
        if "status.json" not in self._list(f"runs/{run}"):
            self.send_run(folder.run(run), run, {})

    def send_run(self, path: Path, run: str, known: Known) -> None:
        """Send the files of a run that have changed.

        Args:
            path: the run's folder.
            run: its id.
            known: what was sent; it is brought up to date.
        """
        changed: dict[Path, str] = {}
        seen: Known = {}
        for file in path.rglob("*"):
            with suppress(FileNotFoundError):  # it has been replaced since
                name, about = file.relative_to(path).as_posix(), file.stat()
                if file.is_dir() or file.name in OWN or file.name.startswith(".wssl-"):
                    continue
                seen[name] = (about.st_mtime_ns, about.st_size)
                if known.get(name) != seen[name]:
                    changed[file] = f"runs/{run}/{name}"
        self._send(changed)
        known |= seen

    @contextmanager
    def workplace(self, run: Run, cwd: Path, measured: bool) -> Iterator[tuple[StudyFolder, Path, Path | None]]:
        """Yield a temporary folder of the study that has what a run needs, with its files as they were sent.

        Args:
            run: the one to train.
            cwd: the folder to which relative paths of its options belong.
            measured: whether it is measured.

        Yields:
            The folder, the working folder (the same where `cwd` does not exist on this machine), and the pairs.
        """
        with tempfile.TemporaryDirectory(prefix="wssl-study-", ignore_cleanup_errors=True) as temporary:
            folder = StudyFolder(temporary)
            if not self._fetch("study.json", folder.path / "study.json"):
                raise StorageError("storage", self.url, "holds no study", "start the study again")
            study = folder.study()
            pairs = self._pairs("pairs") if measured else None
            if measured and study.out_of_domain:
                study = replace(study, out_of_domain=str(self._pairs(OUT_OF_DOMAIN)))
            if pairs is not None:
                (folder.path / "pairs").symlink_to(pairs, target_is_directory=True)
            cwd = cwd if cwd.is_dir() else folder.path
            write_json(folder.path / "study.json", asdict(Started(VERSION, study, str(cwd))))
            for name in dict.fromkeys([*run.needs, run.id]):
                wanted = self._list(f"runs/{name}")
                # Of a pretext run its encoder, of a trial its curve.
                wanted = [
                    file for file in wanted if name == run.id or file.endswith((".ckpt", ".csv", ".json", ".yaml"))
                ]
                self._fetch_all({f"runs/{name}/{file}": folder.run(name) / file for file in wanted})
            with self._sending(folder.run(run.id), run.id):
                yield folder, cwd, pairs
            if folder.status(run.id).state in ENDED:
                self._remove(f"runs/{run.id}/last.ckpt")

    @contextmanager
    def _sending(self, path: Path, run: str) -> Iterator[None]:
        """Send what changes in a run's folder during the block and after it."""
        known: Known = {}
        ended = threading.Event()

        def send() -> None:
            due = 0.0
            while not ended.wait(POLL_S):
                if time.monotonic() >= due and (path / "last.ckpt").is_file():
                    with suppress(StorageError):  # raised by the last time
                        self.send_run(path, run, known)
                    due = time.monotonic() + SYNC_S

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.send_run(path, run, known)

    def _pairs(self, name: str) -> Path:
        """Return a folder of this machine with the pairs, which its first run fetches."""
        with tempfile.TemporaryDirectory(prefix="wssl-") as temporary:
            manifest = Path(temporary) / "manifest.json"
            if not self._fetch(f"{name}/manifest.json", manifest):
                raise StorageError("storage", self.url, f"has no {name}", "start the study again")
            digest = hashlib.sha256(manifest.read_bytes()).hexdigest()[:16]
            target = cache_folder() / "pairs" / digest
            if not target.is_dir():
                target.parent.mkdir(parents=True, exist_ok=True)
                unfinished = Path(tempfile.mkdtemp(prefix=".wssl-", dir=target.parent))
                self._fetch_all({f"{name}/{file}": unfinished / file for file in self._list(name)})
                try:
                    unfinished.rename(target)
                except OSError:  # another run of this machine was faster
                    shutil.rmtree(unfinished, ignore_errors=True)
        return target

    @property
    def _place(self) -> tuple[Any, str]:
        """Return the file system, which fsspec keeps, and the path in it."""
        with self._asking():
            import fsspec

            fs, root = fsspec.url_to_fs(self.url, use_listings_cache=False)
        return fs, root.rstrip("/")

    def _is_local(self, fs: Any) -> bool:
        return "file" in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)

    def _send(self, files: Mapping[Path, str]) -> None:
        """Send files, those of `LAST` after the others."""
        fs, root = self._place
        groups = [{file: name for file, name in files.items() if file.name not in LAST}]
        groups += [{file: name for file, name in files.items() if file.name == last} for last in LAST]
        with self._asking():
            for group in filter(None, groups):
                if self._is_local(fs):
                    for file, name in group.items():
                        copy(file, Path(root) / name)
                else:  # an object of a bucket is whole or not there at all
                    fs.put([str(file) for file in group], [f"{root}/{name}" for name in group.values()])

    def _fetch_all(self, files: Mapping[str, Path]) -> None:
        fs, root = self._place
        for target in files.values():
            target.parent.mkdir(parents=True, exist_ok=True)
        with self._asking():
            if self._is_local(fs):
                for name, target in files.items():
                    copy(Path(root) / name, target)
            elif files:
                fs.get([f"{root}/{name}" for name in files], [str(target) for target in files.values()])

    def _fetch(self, name: str, target: Path) -> bool:
        """Fetch a file, and return whether there is one."""
        fs, root = self._place
        with self._asking():
            if not fs.isfile(f"{root}/{name}"):
                return False
        self._fetch_all({name: target})
        return True

    def _list(self, name: str) -> list[str]:
        """Return the files below a folder, as paths from there."""
        fs, root = self._place
        with self._asking():
            found = [path[len(f"{root}/{name}/") :] for path in fs.find(f"{root}/{name}")]
        # Written by others: no file of ours has such a name.
        if wrong := [path for path in found if ".." in PurePosixPath(path).parts or path.startswith("/")]:
            raise StorageError("storage", self.url, f"holds {wrong[0]!r}, which is no file of a study", "remove it")
        return found

    def _remove(self, name: str) -> None:
        fs, root = self._place
        with self._asking(), suppress(FileNotFoundError):
            fs.rm_file(f"{root}/{name}")

    def _remove_all(self, name: str) -> None:
        fs, root = self._place
        with self._asking(), suppress(FileNotFoundError):
            fs.rm(f"{root}/{name}", recursive=True)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Say in one line why the storage does not answer."""
        try:
            yield
        except ImportError as error:
            remedy = "pip install 'wssl-pl[stream]' for s3://, or the package of another file system"
            raise StorageError("storage", self.url, first_line(error), remedy) from None
        except Exception as error:  # each file system has errors of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            remedy = "check the address, the credentials and the rights"
            raise StorageError("storage", self.url, f"cannot be used ({reason[:300]})", remedy) from None


def copy(source: Path, target: Path) -> None:
    """Copy a file, so that it is whole whenever it has its name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as content, replacing(target) as file:
        shutil.copyfileobj(content, file)


def storage_of(folder: StudyFolder, given: str | None) -> Storage | None:
    """Return the storage of a study: the one that is given, or that it was started with.

    Raises:
        WSSLError: it was started with another one.
    """
    path = folder.path / RECORD
    before: str | None = read_json(path, str, "storage", "delete the file") if path.is_file() else None
    if given is not None and before is not None and given != before:
        raise WSSLError("storage", given, f"the study was started with {before}", "give that, or a new folder")
    return None if (url := given or before) is None else Storage(url)
