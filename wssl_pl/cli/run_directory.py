"""Where a run keeps its files, and how a stopped one is found again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from wssl_pl.errors import WSSLError

# jsonargparse reads `run.dir` from here; processes that Lightning starts for DDP inherit it from the first one.
RUN_DIR_VARIABLE = "WSSL_RUN__DIR"

AUTO = "auto"


def holds_run(directory: Path) -> bool:
    """Whether the folder holds the configuration or a checkpoint of a run."""
    return (directory / "config.yaml").exists() or any(directory.glob("*.ckpt"))


def find_resumed(resume: str | None, run_dir: str | None) -> Path | None:
    """Return the checkpoint that `resume=` names: a file, a run directory, `last` or `auto` in the directory `run.dir`.

    Returns:
        None for `auto` where there is no checkpoint yet, and where nothing is resumed.

    Raises:
        WSSLError: there is no such checkpoint.
    """
    if resume is None:
        return None
    if resume in ("last", AUTO):
        if run_dir is None:
            raise WSSLError("resume", resume, "the run directory is needed", "add --run.dir=runs/<stage>/<name>")
        path = Path(run_dir) / "last.ckpt"
        if resume == AUTO and not path.exists():
            return None
    else:
        path = Path(resume)
        if path.is_dir():
            path = path / "last.ckpt"
    if not path.is_file():
        raise WSSLError("resume", resume, f"there is no checkpoint {path}")
    return path


def is_first_process() -> bool:
    """Return whether this is the process that writes: rank 0 of node 0, whoever started the processes.

    torchrun, Lightning's own launcher and SLURM name ranks by different variables, before any of them is connected.
    """
    other_node = any(os.environ.get(name, "0") != "0" for name in ("NODE_RANK", "GROUP_RANK"))
    return getattr(rank_zero_only, "rank", 0) == 0 and not other_node


def choose_directory(
    stage: str, run_dir: str | None, resumed: Path | None, resume: str | None = None, label: str = ""
) -> Path:
    """Return the directory of the run: as given, that of the resumed checkpoint, or a new `runs/<stage>/<run>`.

    Args:
        stage: `pretext` or `downstream`.
        run_dir: the directory that was typed.
        resumed: the checkpoint that is resumed.
        resume: `resume=` as typed. With `auto` a directory whose run was killed before its first `last.ckpt` is used
            again: the run starts from the beginning.
        label: what the run is, for the name of a new directory.

    Raises:
        WSSLError: the directory holds a run already, and this one does not resume it.
    """
    if resumed is not None:
        if run_dir is None or Path(run_dir).resolve() == resumed.parent.resolve():
            return resumed.parent
        if is_first_process() and holds_run(Path(run_dir)):
            raise WSSLError("run.dir", run_dir, f"holds another run than resume={resumed}", "name a new folder")
        return Path(run_dir)
    if run_dir is None:
        return new_directory(stage, label)
    directory = Path(run_dir)
    if directory.exists() and not directory.is_dir():
        raise WSSLError("run.dir", run_dir, "is a file", "name a folder")
    # The other processes of a distributed run find a directory that the first one has started to fill.
    if resume != AUTO and is_first_process() and holds_run(directory):
        remedy = "resume it with resume=last (or always with resume=auto), or name a new directory"
        raise WSSLError("run.dir", run_dir, "holds a run already", remedy)
    return directory


def new_directory(what: str, label: str = "") -> Path:
    """Make `runs/<what>/<time>-<label>`; processes other than the first, which write nothing, get the name alone."""
    name = datetime.now().strftime("%Y%m%d-%H%M%S") + (f"-{label}" if label else "")
    fresh = Path("runs") / what / name
    return rank_zero_only(make_new, default=fresh)(fresh)


def make_new(directory: Path) -> Path:
    """Makes the folder, with a number after its name where there is one already.

    The folder itself is the claim to the name: of two runs begun in the same second, one gets the next number.
    """
    candidate, number = directory, 1
    while True:
        try:
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            number += 1
            candidate = directory.with_name(f"{directory.name}-{number}")


@contextmanager
def dropped_if_empty(directory: Path | None) -> Iterator[None]:
    """Remove the directory `runs/<stage>/<run>` of a run that failed before it wrote anything, and empty parents."""
    try:
        yield
    except BaseException:
        remove_if_empty(directory)
        raise


def remove_if_empty(directory: Path | None) -> None:
    """Remove a directory in which nothing is, and its parents `runs/<stage>` and `runs` if nothing else is in them."""
    if directory is not None:
        with suppress(OSError):  # not empty
            for empty in (directory, *directory.parents[:2]):
                empty.rmdir()
