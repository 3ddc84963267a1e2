"""What all parts of the page share: its settings, files of a visitor's own, and errors in one line."""

import functools
import html
import json
import logging
import secrets
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from wssl_pl.app.models import Models
from wssl_pl.app.session import Version
from wssl_pl.app.storage import Storage
from wssl_pl.app.work import FindMask, describe, fill_photo, read_mask
from wssl_pl.errors import WSSLError
from wssl_pl.inference import Inpainter

logger = logging.getLogger(__name__)

FEATHER = 64  # the most pixels
STOPS = 1000  # that are remembered, until the calls that they stop have arrived
MAX_HASH = 64  # characters; Gradio's client makes 11, another one may send anything
POLL_S = 0.1  # in which a fill that waits for another one notices that it was stopped


@dataclass(frozen=True)
class Settings:
    """What the page needs to know.

    Attributes:
        models: what can be chosen.
        examples: photos to try it with.
        storage: where files that are handed out are made: Gradio's own folder, which it serves and tidies.
        megapixels: the largest photo, in millions of pixels.
        megabytes: the largest upload, in millions of bytes.
        concurrency: how many photos are filled at once.
        waiting: how many users may wait for their turn.
        where: where photos stay, in words.
        stop: set when the page ends.
        computing: held while a photo is filled.
    """

    models: Models
    examples: list[Path]
    storage: Storage
    megapixels: float
    megabytes: float = 50.0
    concurrency: int = 1
    waiting: int = 32
    where: str = "this machine"
    stop: threading.Event = field(default_factory=threading.Event)
    computing: threading.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "computing", threading.BoundedSemaphore(self.concurrency))


class Stopped(Exception):
    """Nobody waits for the result any more: Stop was pressed, or the page or the photo was closed."""


class Job:
    """What one press of a button starts.

    Args:
        settings: of the page.
        progress: one of Gradio, which shows how far it is.
        closed: set when the photo is closed.

    Attributes:
        stopped: set to stop it.
    """

    def __init__(self, settings: Settings, progress: Any = None, closed: threading.Event | None = None) -> None:
        self.progress, self.stopped, self._computing = progress, threading.Event(), settings.computing
        self._ends = [self.stopped, settings.stop, *([closed] if closed else [])]

    def check(self) -> None:
        """Raise `Stopped` if nobody waits for the result any more."""
        if any(end.is_set() for end in self._ends):
            raise Stopped

    def reported(self, what: str) -> Callable[[int, int], None]:
        """Return what is called with (pixels done, of how many): it shows them, and ends work that was stopped."""

        def report(done: int, total: int) -> None:
            self.check()
            if self.progress is not None:
                self.progress((done, total), desc=what, unit="pixels")

        return report

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until fewer photos are filled than may be at once."""
        while not self._computing.acquire(timeout=POLL_S):
            self.check()
        try:
            yield
        finally:
            self._computing.release()


def explained(error: Exception) -> str:
    """Return a line about what went wrong; of other errors than those of use only where to look, as they name files."""
    if isinstance(error, Stopped):
        return "Stopped"
    if isinstance(error, gr.Error):
        return str(error.message)
    if isinstance(error, WSSLError):
        return on_page(error)
    if isinstance(error, OSError):
        logger.warning("The page cannot store a file: %s", error.strerror)
        return "That cannot be stored here: the disk may be full"
    logger.error("The page could not answer", exc_info=error)
    return "That went wrong here. The terminal that runs the page has details."


def in_one_line(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make each error of a function one of Gradio's, in one line."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise gr.Error(explained(error), title="Not yet", print_exception=False) from None

    return wrapped


def on_page(error: WSSLError) -> str:
    """The message as text: the page takes one for HTML, and it may hold the name of a visitor's file."""
    return html.escape(describe(error), quote=False)


def line(text: str, kind: str = "done") -> str:
    """Return a line of the page, of HTML; a problem is read out."""
    role = "alert" if kind == "problem" else "status"
    return f'<p class="line {kind}" role="{role}">{text}</p>' if text else ""


def line_about(error: Exception) -> str:
    """Return the line about what went wrong, or that it was stopped."""
    return line(explained(error), "stopped" if isinstance(error, Stopped) else "problem")


STOPPED = line_about(Stopped())


class Actions:
    """What is called through HTTP, and what the calls of the tabs have in common.

    Args:
        settings: see `Settings`.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._jobs: dict[str | None, Job] = {}
        self._stopped: deque[tuple[str | None, int]] = deque(maxlen=STOPS)

    @contextmanager
    def job(
        self,
        request: gr.Request | None,
        progress: Any = None,
        closed: threading.Event | None = None,
        press: int | None = None,
    ) -> Iterator[Job]:
        """Yield a `Job` that `stop` ends when the same page of the same visitor calls it.

        Raises:
            Stopped: this press of a button was stopped before its call arrived.
        """
        key = request.session_hash if request else None
        self._jobs[key] = job = Job(self.settings, progress, closed)
        try:
            if (key, press) in self._stopped:
                raise Stopped
            yield job
        finally:
            if self._jobs.get(key) is job:
                del self._jobs[key]

    def stop(self, request: gr.Request, press: int | None = None) -> None:
        """Stop what this page of a visitor computes, and none of the visitor's other pages.

        Args:
            request: of the page.
            press: the number of the press that started it, whose call may still be on the way.

        Raises:
            gr.Error: nothing is computed yet; Gradio can remove what waits in its queue.
        """
        if isinstance(press, int) and len(request.session_hash or "") <= MAX_HASH:
            self._stopped.append((request.session_hash, press))
        job = self._jobs.get(request.session_hash)
        if job is None:
            raise gr.Error("", visible=False, print_exception=False)
        job.stopped.set()

    @in_one_line
    def inpaint(self, photo: dict[str, Any] | None, mask: dict[str, Any] | None, model: str | None = "") -> str:
        """Fills the hole of a photo.

        Args:
            photo: JPEG, PNG, WebP, TIFF or HEIC.
            mask: an image of the photo's size, white where the hole is.
            model: one of the names in the page's list; default: the first one.

        Returns:
            a PNG of the photo's size, in which the pixels outside the hole are those of the photo.
        """
        if photo is None or mask is None:
            raise WSSLError(None, None, "give a photo and a mask")
        path = Path(mask["path"])
        with self.new_folder() as folder:
            version = self.filled(
                Path(photo["path"]),
                lambda opened: read_mask(opened, path, self.settings.megapixels),
                self.settings.models.get(model or ""),
                folder,
                Job(self.settings),
            )
        return str(version.path)

    def filled(
        self, photo: Path, find: FindMask, inpainter: Inpainter, folder: Path, job: Job, feather: Any = 0
    ) -> Version:
        """Fill the hole of a photo when it is its turn."""
        if not (isinstance(feather, int | float) and 0 <= feather <= FEATHER):
            raise WSSLError(None, None, f"the soft edge must have 0 to {FEATHER} pixels")
        with job.turn():
            report = job.reported("Filling")
            made = fill_photo(photo, find, inpainter, folder, self.settings.megapixels, report, int(feather))
        job.check()
        return made

    @contextmanager
    def new_folder(self) -> Iterator[Path]:
        """Yield a new folder for files that are handed out; it is removed if the block fails.

        Raises:
            WSSLError: the page holds as much as it may.
        """
        self.settings.storage.check()
        # A name that nobody could guess: the server gives each file to who knows its name.
        folder = self.settings.storage.folder / secrets.token_hex(16)
        folder.mkdir(parents=True)
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def stopping(
    pressed: Callable[..., Any], actions: Actions, events: list[Any], output: gr.HTML, press: gr.Number | None = None
) -> None:
    """Let a button stop what other events have started: what is computed, and what waits in Gradio's queue.

    Args:
        pressed: adds what the button calls.
        actions: whose `stop` that is.
        events: what it stops.
        output: where that is said.
        press: the number of the press that started them, if they are given it.
    """
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    waiting = gr.Button(visible="hidden", elem_id=f"{output.elem_id}-waiting")
    waiting.click(None, None, [output], js=f"() => {json.dumps(STOPPED)}", cancels=events, **private)
    count: dict[str, Any] = {"js": "() => [window.wsslPage.presses()]"} if press else {}
    stop = pressed(actions.stop, [press] if press else None, None, preprocess=False, **count, **private)
    # By a button, as Gradio does not look at `cancels` of what comes after a failure.
    stop.failure(None, None, None, js=f"() => document.getElementById('{waiting.elem_id}').click()", **private)
