"""The tab of several photos: each is filled by the mask of its name, and all come back in one ZIP file."""

import html
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

from wssl_pl.app.actions import FEATHER, Actions, Job, Settings, Stopped, explained, line, line_about, stopping
from wssl_pl.app.work import read_mask
from wssl_pl.errors import WSSLError
from wssl_pl.inference import Inpainter
from wssl_pl.inference.masks import MOST
from wssl_pl.inference.photo import PHOTO_SUFFIXES

MOST_PHOTOS = 200
BEGINS = "() => { window.wsslPage.batchBegins(); return {__type__: 'update', visible: true}; }"
ENDS = "() => { window.wsslPage.batchEnds(); return {__type__: 'update', visible: false}; }"
BROKEN_OFF = line("It broke off: press Fill all again", "problem")
FAILS = f"""\
() => {{
    const report = window.wsslPage.batchBreaks() ? {json.dumps(BROKEN_OFF)} : {{__type__: 'update'}};
    return [{{__type__: 'update', visible: false}}, report];
}}
"""
OFF = gr.update(value=None, interactive=False)
Jobs = list[tuple[str, Path, Path | None]]
"""The name of the result, the photo, and its mask if it has one, of each photo."""


class BatchTab:
    """The components of the tab, and what they call.

    Args:
        settings: of the page.
    """

    def __init__(self, settings: Settings) -> None:
        names, types = settings.models.choices(), sorted(PHOTO_SUFFIXES)
        gr.Markdown(
            "Each photo is filled by the mask of its name (`beach.jpg` by `beach.png`), or all by one mask of their "
            "size. White is the hole."
        )
        with gr.Row():
            several: dict[str, Any] = {
                "file_count": "multiple", "file_types": types, "height": 170, "min_width": 280,
            }  # fmt: skip
            photos = gr.File(label="Photos", elem_id="batch-photos", **several)
            masks = gr.File(label="Masks", elem_id="batch-masks", **several)
        gr.HTML('<p class="photo-note" role="alert"></p>', js_on_load=None, elem_id="batch-note")
        with gr.Row():
            self.model = gr.Dropdown(names, value=names[0], label="Model", elem_id="batch-model", min_width=220)
            feather = gr.Slider(0, FEATHER, 0, step=1, label="Soft edge, in pixels", min_width=220)
        with gr.Row(elem_classes="together"):
            fill = gr.Button("Fill all", variant="primary", elem_id="batch-fill", scale=3)
            stop = gr.Button("Stop", visible=False, elem_id="batch-stop", min_width=70)
        report = gr.HTML(js_on_load=None, elem_id="batch-report", min_height=28)
        download = gr.DownloadButton("Download ZIP", interactive=False, elem_id="batch-download")
        actions = BatchActions(settings)
        fill.click(None, None, [stop], js=BEGINS, api_visibility="private")  # first, as Gradio calls one after another
        filling = fill.click(
            actions.fill_all, [photos, masks, self.model, feather], [report, download], api_visibility="private",
            preprocess=False, concurrency_id="batch", concurrency_limit=1, show_progress="hidden",
        )  # fmt: skip
        filling.then(None, None, [stop], js=ENDS, api_visibility="private")
        filling.failure(None, None, [stop, report], js=FAILS, api_visibility="private")
        stopping(stop.click, actions, [filling], report)


class BatchActions(Actions):
    """What the controls of the tab call."""

    def fill_all(
        self, photos: list[dict[str, Any]] | None, masks: list[dict[str, Any]] | None, model: str | None, feather: Any,
        request: gr.Request | None = None,
    ) -> Iterator[list[Any]]:  # fmt: skip
        """Fill all photos; a bad one does not stop the others. Yields the report so far, and in the end the ZIP."""
        try:
            jobs = paired([Path(each["path"]) for each in photos or []], [Path(each["path"]) for each in masks or []])
            inpainter = self.settings.models.get(model or "")
            with self.new_folder() as folder, self.job(request) as job:
                yield from self._fill_jobs(jobs, folder / "filled.zip", inpainter, feather, job)
        except Exception as error:
            yield [line_about(error), OFF]

    def _fill_jobs(self, jobs: Jobs, out: Path, inpainter: Inpainter, feather: Any, job: Job) -> Iterator[list[Any]]:
        """Fill photos into a ZIP file; yield as `fill_all`."""
        done, ended = 0, ""
        problems: list[str] = []
        with zipfile.ZipFile(out, "w") as archive:
            for number, (name, photo, mask) in enumerate(jobs):
                renew(jobs[number:])
                yield [report(f"{number} of {len(jobs)} photos done; {html.escape(name)} …", problems), OFF]
                try:
                    note = self._fill_one(archive, name, photo, mask, inpainter, feather, job)
                    done += 1
                except Stopped as error:
                    ended = f"{explained(error)}: "
                    break
                except Exception as error:
                    # Whatever went wrong with one photo, the others are still to be done.
                    note = explained(error)
                if note:
                    shown = html.escape(photo.name, quote=False)
                    problems.append(note if f"photo {shown} " in note else f"{shown}: {note}")
        if not done:
            out.unlink()
        value = gr.update(value=str(out), interactive=True) if done else OFF
        yield [report(f"{ended}{done} of {len(jobs)} photos filled", problems), value]

    def _fill_one(
        self, archive: zipfile.ZipFile, name: str, photo: Path, mask: Path | None, inpainter: Inpainter, feather: Any,
        job: Job,
    ) -> str:  # fmt: skip
        """Fill one photo into the archive; return a note about its mask, or nothing."""
        if mask is None:
            raise WSSLError(None, None, "there is no mask of its name")
        fractions = []

        def white(opened: Any) -> Any:
            hole = read_mask(opened, mask, self.settings.megapixels)
            fractions.append(float(hole.mean()))
            return hole

        with self.new_folder() as folder:
            version = self.filled(photo, white, inpainter, folder, job, feather)
            archive.write(version.path, name)
            version.path.unlink()
            version.preview.unlink()
            folder.rmdir()
        most = fractions[0] > MOST
        return f"its mask marks {fractions[0]:.0%} of it; is white the hole?" if most else ""


def renew(jobs: Jobs) -> None:
    """Make the files of jobs that wait new: Gradio deletes what was not used for an hour."""
    for path in {path for _, *pair in jobs for path in pair if path}:
        with suppress(OSError):
            os.utime(path)


def paired(photos: Sequence[Path], masks: Sequence[Path]) -> Jobs:
    """Return (name of the result, photo, mask or None) of each photo; one mask is for all.

    Raises:
        WSSLError: no photos or masks, too many, or several masks of one name.
    """
    if not photos:
        raise WSSLError(None, None, "load photos first")
    if not masks:
        raise WSSLError(None, None, "load masks: one of each photo's name, or one for all")
    if len(photos) > MOST_PHOTOS:
        raise WSSLError(None, None, f"load at most {MOST_PHOTOS} photos at once")
    by_name: dict[str, Path] = {}
    for mask in masks:
        if by_name.setdefault(mask.stem, mask) != mask:
            raise WSSLError(None, None, f"there are two masks of the name {mask.stem[:80]}")
    jobs: Jobs = []
    taken: set[str] = set()
    for photo in photos:
        name, number = photo.stem[:80], 2
        while name in taken:
            name, number = f"{photo.stem[:80]}-{number}", number + 1
        taken.add(name)
        jobs.append((f"{name}.png", photo, by_name.get(photo.stem) if len(masks) > 1 else masks[0]))
    return jobs


def report(text: str, problems: Sequence[str]) -> str:
    """Return the report, of HTML; `problems` are HTML too."""
    items = "".join(f"<li>{each}</li>" for each in problems)
    return line(text) + (f'<ul class="problems">{items}</ul>' if items else "")
