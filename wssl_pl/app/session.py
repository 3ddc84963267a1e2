"""What one visitor has made of one photo: the original, and each version that came of it."""

import os
import secrets
import shutil
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from wssl_pl.inference.tiles import Box


@dataclass(frozen=True)
class Version:
    """A photo at full size, as a file, and what the page says about it.

    Attributes:
        title: its name in lists.
        path: the file; of the original the upload.
        preview: an image of it for the screen, in a folder of its own.
        summary: a line about it.
        by: the model that made it; empty for none.
        seconds: the time that took.
        size: (height, width) in pixels.
        windows: what the model looked at, at full size and reduced; see `Inpainter.windows`.
    """

    title: str
    path: Path
    preview: Path
    summary: str
    by: str = ""
    seconds: float = 0.0
    size: tuple[int, int] = (0, 0)
    windows: tuple[tuple[Box, ...], tuple[Box, ...]] = ((), ())


@dataclass(frozen=True)
class Step:
    """What one press of a button made: one version, or one of each of several models, from which the user chooses.

    Attributes:
        versions: the versions.
        chosen: the index of that which the next step starts from.
        mask: the uploaded mask, to paint on when the step is undone; None for a step without one.
    """

    versions: tuple[Version, ...]
    chosen: int = 0
    mask: Path | None = None

    @property
    def version(self) -> Version:
        """The chosen one."""
        return self.versions[self.chosen]


@dataclass(frozen=True)
class Session:
    """The steps of one photo. Never changed: what is done gives another one.

    Attributes:
        steps: the original first; those after `position` were undone.
        position: the step that is shown.
        closed: set when another photo was opened, or a newer page has taken the session over.
        key: which only the visitor's tab knows; with it the page finds the session after a reload.
    """

    steps: tuple[Step, ...]
    position: int = 0
    closed: threading.Event = field(default_factory=threading.Event, compare=False)
    key: str = field(default_factory=lambda: secrets.token_hex(16), compare=False)

    @property
    def step(self) -> Step:
        """The step that is shown."""
        return self.steps[self.position]

    @property
    def versions(self) -> list[Version]:
        """All versions, the oldest first, undone ones included."""
        return [version for step in self.steps for version in step.versions]

    def add(self, step: Step) -> "Session":
        """Return the session after one more step; the files of steps that were undone are deleted."""
        _delete(version for old in self.steps[self.position + 1 :] for version in old.versions)
        return replace(self, steps=(*self.steps[: self.position + 1], step), position=self.position + 1)

    def moved(self, by: int) -> "Session":
        """Return the session some steps on (redo), or back (undo)."""
        return replace(self, position=min(max(0, self.position + by), len(self.steps) - 1))

    def choose(self, index: int) -> "Session":
        """Return the session with another version of the shown step; what came after that step is deleted."""
        if not 0 <= index < len(self.step.versions) or index == self.step.chosen:
            return self
        _delete(version for old in self.steps[self.position + 1 :] for version in old.versions)
        return replace(self, steps=(*self.steps[: self.position], replace(self.step, chosen=index)))

    def renew(self) -> None:
        """Make the files new: the page deletes those that were not used for an hour."""
        masks = [step.mask for step in self.steps if step.mask]
        for path in [path for version in self.versions for path in (version.path, version.preview)] + masks:
            with suppress(OSError):
                os.utime(path)

    def taken_over(self) -> "Session":
        """Return the same for a newer page; this one is closed, and its files stay."""
        self.closed.set()
        return replace(self, closed=threading.Event())

    def close(self) -> None:
        """Delete all files but the uploads, which another visitor may have loaded too."""
        if not self.closed.is_set():
            self.closed.set()
            _delete(self.versions)


def _delete(versions: Iterable[Version]) -> None:
    for version in versions:
        shutil.rmtree(version.preview.parent, ignore_errors=True)
