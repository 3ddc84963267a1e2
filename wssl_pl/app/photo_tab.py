"""The tab of one photo: paint, fill, go on from the result, compare."""

import functools
import html
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from wssl_pl.app.actions import FEATHER, Actions, Job, Settings, Stopped, explained, line, line_about, stopping
from wssl_pl.app.session import Session, Step, Version
from wssl_pl.app.work import DECODING, check_there, draw_windows, original, read_mask, restore_photo, turn_photo
from wssl_pl.errors import WSSLError
from wssl_pl.inference import Inpainter
from wssl_pl.inference.photo import PHOTO_SUFFIXES, Photo

BROKE_OFF = "The connection had broken off: this is the photo as it is now"
GONE = "this photo is not here any more: load it again"
MOST_MODELS = 6  # on one mask
CANVAS = """\
<div class="photo-bar">
  <label class="photo-open">Open a photo<input type="file" id="photo" aria-label="Photo" accept="{accept}"></label>
  <span>or drop it here, or paste it</span>
</div>
<p class="photo-note" role="alert"></p>
<div class="photo-mask"></div>
<div class="photo-busy" hidden>
  <span role="status"></span>
  <button type="button" class="photo-stop" aria-keyshortcuts="Escape" title="Stop (Esc)">Stop</button>
</div>
"""
ON_LOAD = """\
const load = () => import(new URL('page/page.js', document.baseURI));
load().catch(load).then(page => page.start({{
    element, trigger, props, watch, again: () => trigger('again'), limit: {limit},
}})).catch(() => {{
    element.querySelector('.photo-note').textContent = 'This page did not arrive as a whole: reload it';
}});
"""
MASK_FIRST = """\
async (session, mask, basis, press, ...others) => [session, ...await window.wsslPage.takeMask(), ...others]
"""
BEGIN = "(session, model) => [session, model, window.wsslPage.begin()]"
LOOK = "(session, model) => { window.wsslPage.look(); return [session, model]; }"
EXAMPLE = "session => { window.wsslPage.open(); return [session]; }"
AGAIN = "session => [session, window.wsslPage.key()]"
FOUND = "() => window.wsslPage.found()"
RESUME = "() => { try { return [sessionStorage.getItem('wssl')]; } catch { return ['']; } }"
DONE = """\
async () => {
    await window.wsslPage.done();
    const hidden = {__type__: 'update', visible: false};   // what was found in the version before
    return ['', hidden, hidden];
}
"""


class PhotoTab:
    """The components of the tab, and what they call.

    Args:
        settings: of the page.
    """

    def __init__(self, settings: Settings) -> None:
        self.actions = PhotoActions(settings)
        names = settings.models.choices()
        self.session = gr.State(None, delete_callback=lambda session: session and session.close())
        with gr.Row():
            with gr.Column(min_width=320):
                self.canvas = gr.HTML(
                    html_template=CANVAS.format(accept=",".join(sorted(PHOTO_SUFFIXES))),
                    js_on_load=ON_LOAD.format(limit=settings.megabytes * 1e6),
                    apply_default_css=False,
                    elem_id="canvas",
                )
                with gr.Row(elem_classes="together"):
                    self.fill = gr.Button("Fill", variant="primary", elem_id="fill", scale=2, min_width=70)
                    self.undo = gr.Button("Undo fill", interactive=False, elem_id="undo", min_width=70)
                    self.redo = gr.Button("Redo fill", interactive=False, elem_id="redo", min_width=70)
                self.status = gr.HTML(js_on_load=None, elem_id="status", min_height=28)
                self.model = gr.Dropdown(names, value=names[0], label="Model", elem_id="model")
                with gr.Accordion("More: several models, soft edge", open=False):
                    self.others = gr.Dropdown(
                        names, value=[], multiselect=True, max_choices=MOST_MODELS - 1, elem_id="others",
                        label="Fill with these too, side by side",
                    )  # fmt: skip
                    self.feather = gr.Slider(
                        0, FEATHER, 0, step=1, label="Soft edge: pixels around the hole that are blended"
                    )
                with gr.Accordion("What is wrong with this photo?", open=False):
                    gr.Markdown("What a model that was trained to see damages sees in the photo.")
                    self.look = gr.Button("Look at it", elem_id="diagnose")
                    self.findings = gr.HTML(js_on_load=None, elem_id="findings")
                    self.upright = gr.Button("Turn upright", visible=False, elem_id="upright")
                    self.restore = gr.Button("Restore", visible=False, elem_id="restore")
            with gr.Column(min_width=320):
                self.slider = gr.ImageSlider(
                    label="Compare",
                    interactive=False,
                    buttons=["fullscreen"],
                    max_height=560,
                    elem_id="result",
                )
                with gr.Row():
                    self.left = gr.Dropdown([], label="Left", min_width=180, elem_id="left")
                    self.right = gr.Dropdown([], label="Right", min_width=180, elem_id="right")
                self.results = gr.Gallery(
                    label="Choose the one to go on with",
                    columns=3,
                    height="auto",
                    allow_preview=False,
                    interactive=False,
                    visible=False,
                    buttons=[],
                    elem_id="results",
                )
                self.download = gr.DownloadButton("Download PNG, full size", interactive=False, elem_id="download")
                self.shows = gr.Checkbox(False, label="Show what the model looked at", elem_id="shows")
                self.seen = gr.Image(
                    label="Blue: at full size; orange: reduced, for the middle of large holes", visible=False,
                    interactive=False, buttons=[], elem_id="seen",
                )  # fmt: skip
                gr.Markdown("Examples:", elem_classes="small")
                self.examples = gr.Gallery(
                    [(str(example), example.stem.replace("-", " ")) for example in settings.examples],
                    label="Examples",
                    show_label=False,
                    columns=3,
                    height="auto",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    elem_id="examples",
                )
        with gr.Row(visible=False):
            self.photo, self.mask, self.basis, self.key = gr.File(), gr.File(), gr.Textbox(), gr.Textbox()
            self.press = gr.Number(precision=0)
        self._connect(settings)

    def _connect(self, settings: Settings) -> None:
        do, session, model = self.actions, self.session, self.model
        self.shown = shown = [
            session, self.status, self.canvas, self.slider, self.left, self.right, self.undo, self.redo, self.results,
            self.download,
        ]  # fmt: skip
        # Raw values throughout: Gradio has checked that files were uploaded, we decode them within our limits.
        private: dict[str, Any] = {"api_visibility": "private", "preprocess": False}
        short: dict[str, Any] = private | {"show_progress": "hidden"}
        busy: dict[str, Any] = private | {
            "concurrency_id": "model", "concurrency_limit": settings.concurrency, "show_progress_on": [self.status],
        }  # fmt: skip
        # However fast the clicks are, one after the other: Gradio ignores those before the last one's answer otherwise.
        each: dict[str, Any] = short | {"trigger_mode": "multiple", "concurrency_id": "undo", "concurrency_limit": 1}
        painted = [session, self.mask, self.basis, self.press, model, self.others, self.feather]
        taken = "(session, photo) => [session, window.wsslPage.taken()]"
        long = [
            self.fill.click(do.fill, painted, shown, js=MASK_FIRST, **busy),
            self.upright.click(do.turn_upright, [session, model, self.press], shown, js=BEGIN, **busy),
            self.restore.click(do.restore, [session, model, self.press], shown, js=BEGIN, **busy),
        ]
        stopping(self.canvas.stop, do, long, self.status, self.press)
        changes = [
            *long,
            self.canvas.upload(do.open, [session, self.photo], shown, js=taken, **short),
            self.examples.select(do.open_example, [session], shown, js=EXAMPLE, **short),
            self.undo.click(do.undo, [session], shown, **each),
            self.redo.click(do.redo, [session], shown, **each),
            self.results.select(do.choose, [session], shown, **short),
        ]
        again = self.canvas.again(do.again, [session, self.key], shown, js=AGAIN, **short)
        for end in (again.then, again.failure):
            end(None, None, None, js=FOUND, api_visibility="private")
        found = [self.findings, self.upright, self.restore]
        for change in changes:
            for end in (change.then, change.failure):  # `then` is not called after an error
                end(None, None, found, js=DONE, api_visibility="private")
        gr.on(
            [self.left.input, self.right.input], do.compare, [session, self.left, self.right], [self.slider],
            trigger_mode="always_last", **short,
        )  # fmt: skip
        gr.on([self.slider.change, self.shows.input], do.show_windows, [session, self.shows], [self.seen], **short)
        looked = self.look.click(
            do.diagnose, [session, model], found, js=LOOK, **busy | {"show_progress_on": [self.findings]}
        )
        for end in (looked.then, looked.failure):
            end(None, None, None, js="() => window.wsslPage.done()", api_visibility="private")


def shows_errors(method: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Show an error of a method where its visitor looks, and leave all else of what it returns as it is."""

    @functools.wraps(method)
    def wrapped(self: "PhotoActions", *args: Any, **kwargs: Any) -> list[Any]:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            return [gr.skip(), line_about(error), *[gr.skip()] * 8]

    return wrapped


class PhotoActions(Actions):
    """What the controls of the tab call. Each returns what is shown: session, line, editor, slider, ..., download."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        # As long as Gradio holds them: an hour after their page was left.
        self._sessions: weakref.WeakValueDictionary[str, Session] = weakref.WeakValueDictionary()

    @shows_errors
    def resume(self, key: Any) -> list[Any]:
        """The page was loaded: if its tab has shown a photo before, that appears again with its versions."""
        session = self._sessions.get(key) if isinstance(key, str) else None
        if session and not session.closed.is_set() and all(each.preview.is_file() for each in session.versions):
            return self._shown(session.taken_over())
        return [gr.skip()] * 10

    def renew(self, key: str) -> None:
        """A tab is open: its files are not deleted, however long nothing but painting is done in it."""
        session = self._sessions.get(key)
        if session and not session.closed.is_set():
            session.renew()

    @shows_errors
    def again(self, session: Session | None, key: Any) -> list[Any]:
        """A call of the page broke off: the photo appears as it is now, and what is computed for it ends."""
        if session is None:
            found = self.resume(key)
            if key and found[0] == gr.skip():
                raise WSSLError(None, None, GONE)
            return found
        return self._shown(opened(session)[1].taken_over(), BROKE_OFF)

    @shows_errors
    def open(self, session: Session | None, photo: dict[str, Any] | None) -> list[Any]:
        """A photo was uploaded. One that cannot be used leaves what is there."""
        if photo is None:
            raise WSSLError(None, None, "the photo did not arrive: load it again")
        return self._opened(session, Path(photo["path"]))

    @shows_errors
    def open_example(self, session: Session | None, event: gr.SelectData) -> list[Any]:
        """An example was chosen: it appears as if it had been uploaded."""
        examples = self.settings.examples
        if not (isinstance(event.index, int) and 0 <= event.index < len(examples)):
            raise WSSLError(None, None, "there is no such example")
        # A copy of its own, since files that are handed out go after an hour.
        with self.new_folder() as folder:
            photo = folder / examples[event.index].name
            shutil.copyfile(examples[event.index], photo)
            return self._opened(session, photo)

    @shows_errors
    def fill(
        self,
        session: Session | None,
        mask: dict[str, Any] | None,
        basis: str | None,
        press: int | None,
        model: str | None,
        others: list[str] | None,
        feather: Any,
        progress: Any = gr.Progress(),
        request: gr.Request | None = None,
    ) -> list[Any]:
        """The button: one more version of the photo, or one of each model.

        `basis` is the version that the mask was painted on. If the photo has another one by now, that is shown alone.
        """
        names = list(dict.fromkeys([model or self.settings.models.names()[0], *(others or [])]))
        if session is None and basis:
            raise WSSLError(None, None, GONE)
        photo, session = opened(session)
        if mask is None:
            raise WSSLError(None, None, "nothing is painted yet: paint with the brush over what is to be filled")
        if len(names) > MOST_MODELS:
            raise WSSLError(None, None, f"choose at most {MOST_MODELS} models at once")
        path = Path(mask["path"])

        def white(image: Photo) -> Any:
            return read_mask(image, path, self.settings.megapixels, scaled=True)

        versions: list[Version] = []
        failed: list[str] = []
        with self.job(request, progress, session.closed, press) as job:
            if basis and basis != str(photo.preview):
                return self._shown(session, "The photo has changed meanwhile: paint again")
            for name in names:
                try:
                    inpainter = self.settings.models.get(name)
                    with self.new_folder() as folder:
                        made = self.filled(photo.path, white, inpainter, folder, job, feather)
                except Stopped:
                    if not versions:
                        raise
                    failed.append("Stopped")
                    break
                except Exception as error:
                    if len(names) == 1:
                        raise
                    # Whatever went wrong with one model, what others have made is shown.
                    failed.append(f"{html.escape(str(name)[:80])}: {explained(error)}")
                    continue
                versions.append(replace(made, title=f"Fill {session.position + 1}: {name}", by=name))
        if not versions:
            raise gr.Error(". ".join(failed), print_exception=False)
        return self._added(session, Step(tuple(versions), mask=path), ". ".join(failed))

    @shows_errors
    def turn_upright(
        self, session: Session | None, model: str | None, press: int | None, request: gr.Request | None = None
    ) -> list[Any]:
        """A fix: the photo turned as the model's head says."""
        photo, session = opened(session)
        inpainter = self.settings.models.get(model or "")
        with self.job(request, None, session.closed, press) as job, job.turn(), self.new_folder() as folder:
            angle = self._angle(photo, inpainter)
            if not angle:
                raise WSSLError(None, None, "the photo is upright, as the model sees it")
            made = turn_photo(photo.path, 360 - angle, folder, self.settings.megapixels)
            job.check()
        return self._added(session, Step((replace(made, title=f"Turn {session.position + 1}"),)))

    @shows_errors
    def restore(
        self,
        session: Session | None,
        model: str | None,
        press: int | None,
        progress: Any = gr.Progress(),
        request: gr.Request | None = None,
    ) -> list[Any]:
        """A fix: the photo without the damages that the model can undo."""
        photo, session = opened(session)
        inpainter = self.settings.models.get(model or "")
        with self.job(request, progress, session.closed, press) as job, job.turn(), self.new_folder() as folder:
            report = job.reported("Restoring")
            made = restore_photo(photo.path, inpainter, folder, self.settings.megapixels, report)
            job.check()
        by = model or self.settings.models.names()[0]
        return self._added(session, Step((replace(made, title=f"Restore {session.position + 1}: {by}", by=by),)))

    @shows_errors
    def undo(self, session: Session | None) -> list[Any]:
        """Back to the version before, with its mask to paint on."""
        _, session = opened(session)
        return self._shown(session.moved(-1), mask=session.step.mask)

    @shows_errors
    def redo(self, session: Session | None) -> list[Any]:
        """On to the version that was undone."""
        return self._shown(opened(session)[1].moved(1))

    @shows_errors
    def choose(self, session: Session | None, event: gr.SelectData) -> list[Any]:
        """A result of several models was chosen, to go on with."""
        _, session = opened(session)
        return self._shown(session.choose(event.index if isinstance(event.index, int) else -1))

    def compare(self, session: Session | None, left: Any, right: Any) -> Any:
        """Two versions were chosen: they appear under the slider."""
        versions = session.versions if session and not session.closed.is_set() else []
        if not all(isinstance(index, int) and 0 <= index < len(versions) for index in (left, right)):
            return gr.skip()
        return str(versions[left].preview), str(versions[right].preview)

    def show_windows(self, session: Session | None, show: Any) -> Any:
        """What the model looked at, if that is to be shown."""
        version = session.step.version if session else None
        if not (show and version and any(version.windows) and version.preview.is_file()):
            return gr.update(value=None, visible=False)
        path = version.preview.with_name("windows.png")
        draw_windows(version, path)
        return gr.update(value=str(path), visible=True)

    def diagnose(self, session: Session | None, model: str | None) -> list[Any]:
        """What is wrong with the photo, and the buttons of what can be done about it."""
        hidden = gr.update(visible=False)
        try:
            photo, _ = opened(session)
            inpainter = self.settings.models.get(model or "")
            with Job(self.settings).turn():
                diagnosis = self._diagnosis(photo, inpainter)
        except Exception as error:
            return [line_about(error), hidden, hidden]
        items = "".join(f"<li>{html.escape(each.text)} ({each.probability:.0%})</li>" for each in diagnosis.findings)
        note = "" if diagnosis.calibrated else "<p>The probabilities of this model are too sure.</p>"
        turned = any(each.task == "rotation" and each.found for each in diagnosis.findings)
        undoes = inpainter.info.hyper_parameters.get("restore") or []
        damaged = any(each.found and each.task in undoes for each in diagnosis.findings)
        return [
            f"<ul>{items}</ul>{note}",
            gr.update(visible=turned),
            gr.update(visible=damaged, value=f"Restore {', '.join(map(str, undoes))}"),
        ]

    def _diagnosis(self, photo: Version, inpainter: Inpainter) -> Any:
        check_there(photo.path)
        with DECODING:
            return inpainter.diagnose(photo.path)

    def _angle(self, photo: Version, inpainter: Inpainter) -> int:
        found = [each for each in self._diagnosis(photo, inpainter).findings if each.task == "rotation" and each.found]
        return int(found[0].level) if found else 0

    def _opened(self, session: Session | None, photo: Path) -> list[Any]:
        with self.new_folder() as folder:
            version = original(photo, folder, self.settings.megapixels)
        if session is not None:
            session.close()
        height, width = version.size
        text = ". ".join(filter(None, [f"{width} × {height} pixels", version.summary]))
        return self._shown(Session((Step((version,)),)), text)

    def _added(self, session: Session, step: Step, problem: str = "") -> list[Any]:
        if session.closed.is_set():
            return [gr.skip()] * 10  # another photo was opened meanwhile
        text = step.version.summary + (f"<br>{problem}" if problem else "")
        return self._shown(session.add(step), text)

    def _shown(self, session: Session, text: str = "", mask: Path | None = None) -> list[Any]:
        session.renew()
        self._sessions[session.key] = session
        version, titles = session.step.version, [version.title for version in session.versions]
        choices = [(title, index) for index, title in enumerate(titles)]
        now = session.versions.index(version)
        several = session.step.versions if len(session.step.versions) > 1 else ()
        results = [(str(each.preview), f"{each.by} · {each.seconds:.2f} s") for each in several]
        compared = (str(session.versions[0].preview), str(version.preview)) if session.position else None
        return [
            session,
            line(text or version.summary or version.title),
            {
                "photo": served(version.preview),
                "mask": served(mask) if mask and mask.is_file() else None,
                "width": version.size[1],
                "height": version.size[0],
                "first": len(session.steps) == 1,
                "key": session.key,
            },
            compared,
            gr.update(choices=choices, value=0),
            gr.update(choices=choices, value=now),
            gr.update(interactive=session.position > 0),
            gr.update(interactive=session.position + 1 < len(session.steps)),
            gr.update(value=results, visible=bool(results), selected_index=session.step.chosen if results else None),
            gr.update(value=str(version.path) if session.position else None, interactive=session.position > 0),
        ]


def opened(session: Session | None) -> tuple[Version, Session]:
    """Return the shown version of a session.

    Raises:
        WSSLError: there is none, since no photo is open, or none any more.
    """
    if session is None:
        raise WSSLError(None, None, "load a photo first")
    if session.closed.is_set():
        raise WSSLError(None, None, "this photo has gone to another tab", "reload this page to have it here again")
    return session.step.version, session


def served(path: Path) -> dict[str, Any]:
    """Return a file as Gradio hands it to its page, with an address."""
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}
