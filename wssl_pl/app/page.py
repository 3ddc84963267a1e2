"""The page: what is on it, and what happens when it is used."""

import functools
import html
import logging
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.context import LocalContext
from numpy.typing import NDArray

from wssl_pl.app.models import SHIPPED_NAME, Models
from wssl_pl.app.storage import Storage
from wssl_pl.app.strokes import read_strokes
from wssl_pl.app.work import Filled, describe, fill_photo, preview_photo, read_mask
from wssl_pl.errors import WSSLError
from wssl_pl.inference.photo import FORMATS, Photo
from wssl_pl.models import SHIPPED_LICENSE

logger = logging.getLogger(__name__)

BRUSH = "#ff008c"  # seldom in a photo

TITLE = "Fill what you paint over"
SENTENCE = "Load a photo, paint over what should go, and press **Fill**: only the painted pixels change."
FOOTER = """\
Photos stay on {where}: they are sent nowhere else, and deleted an hour after they were used.{license}

The same by HTTP, `pip install gradio_client`; white is hole in the mask, which has the photo's size:
```python
from gradio_client import Client, handle_file
fill = Client("{url}").predict
print(fill(handle_file("photo.jpg"), handle_file("mask.png"), api_name="/inpaint"))
```
"""
CSS = """
.gradio-container { width: 100%; max-width: 1240px !important; margin: 0 auto !important; }
.title h1 { margin-bottom: 0.1em; }
.small { font-size: 0.9em; }
#examples .grid-wrap { height: auto !important; min-height: 0; max-height: none; }
/* As long as there is no photo, there is nothing to paint on. */
.gradio-container:has(#photo input[type="file"]) #editor::after {
    content: "Load a photo, or take an example"; position: absolute; inset: 0; z-index: 200; display: grid;
    place-items: center; background: var(--block-background-fill); color: var(--body-text-color-subdued);
}
@media (max-width: 640px) { #editor { height: 400px !important; } }
"""


@dataclass(frozen=True)
class Settings:
    """What the page needs to know.

    Attributes:
        models: what can be chosen.
        examples: photos to try it with.
        storage: where files that are handed out are made: Gradio's own folder, which it serves and tidies.
        megapixels: the largest photo, in millions of pixels.
        concurrency: how many photos are filled at once.
        waiting: how many users may wait for their turn.
        where: where photos stay, in words.
        stop: set when the page ends.
    """

    models: Models
    examples: list[Path]
    storage: Storage
    megapixels: float
    concurrency: int = 1
    waiting: int = 32
    where: str = "this machine"
    stop: threading.Event = field(default_factory=threading.Event)


def theme() -> Any:
    """A theme that needs no font from elsewhere."""
    return gr.themes.Soft(
        primary_hue="indigo",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


def in_one_line(function: Callable[..., Any]) -> Callable[..., Any]:
    """Errors of use become a line on the page; of others it tells only where to look, since they name our files."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except WSSLError as error:
            raise gr.Error(on_page(error), title="Not yet", print_exception=False) from None
        except OSError as error:
            logger.warning("The page cannot store a file: %s", error.strerror)
            raise gr.Error("That cannot be stored here: the disk may be full", print_exception=False) from None
        except Exception:
            logger.exception("The page could not answer")
            text = "That went wrong here. The terminal that runs the page tells more."
            raise gr.Error(text, print_exception=False) from None

    return wrapped


def on_page(error: WSSLError) -> str:
    """The message as text: the page takes one for HTML, and it may hold the name of a visitor's file."""
    return html.escape(describe(error), quote=False)


class Actions:
    """What the page's controls call.

    Args:
        settings: see :class:`Settings`.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @in_one_line
    def open(self, photo: dict[str, Any] | None) -> list[Any]:
        """A photo was chosen or taken away: it appears in the editor, and what was filled before goes.

        One that cannot be used is taken away, so that the next can be dropped in its place.
        """
        if photo is None:
            return [None, None, *no_result()]
        try:
            return [gr.skip(), *self._opened(Path(photo["path"]))]
        except WSSLError as error:
            gr.Warning(on_page(error), title="Not a photo for here")
            return [None, None, *no_result()]

    @in_one_line
    def open_example(self, event: gr.SelectData) -> list[Any]:
        """An example was chosen: it appears as if it had been uploaded."""
        examples = self.settings.examples
        if not (isinstance(event.index, int) and 0 <= event.index < len(examples)):
            raise WSSLError(None, None, "there is no such example")
        # A copy of its own, since files that are handed out go after an hour.
        with self._new_folder() as folder:
            photo = folder / examples[event.index].name
            shutil.copyfile(examples[event.index], photo)
            return [str(photo), *self._opened(photo)]

    @in_one_line
    def fill(
        self,
        photo: dict[str, Any] | None,
        layers: list[dict[str, Any]] | None,
        model: str | None,
        progress: Any = gr.Progress(),  # noqa: B008 Gradio looks for it here
    ) -> list[Any]:
        """The button: the filled photo beside the original, to look at and to download."""
        if photo is None:
            raise WSSLError(None, None, "load a photo first")
        paths = [layer["path"] for layer in layers or []]

        def strokes(opened: Photo) -> NDArray[np.bool_]:
            return read_strokes(paths, opened.pixels.shape[0], opened.pixels.shape[1])

        filled = self._fill(Path(photo["path"]), strokes, model, progress)
        return [
            (str(filled.before), str(filled.after)),
            gr.update(value=str(filled.path), interactive=True),
            filled.summary,
        ]

    @in_one_line
    def inpaint(self, photo: dict[str, Any] | None, mask: dict[str, Any] | None, model: str | None = "") -> str:
        """Fills the hole of a photo.

        Args:
            photo: JPEG, PNG or WebP.
            mask: a picture of the photo's size, white where the hole is.
            model: one of the names in the page's list; the first one if left out.

        Returns:
            a PNG of the photo's size, in which the pixels outside the hole are those of the photo.
        """
        if photo is None or mask is None:
            raise WSSLError(None, None, "give a photo and a mask")
        path = Path(mask["path"])

        def white(opened: Photo) -> NDArray[np.bool_]:
            return read_mask(opened, path, self.settings.megapixels)

        return str(self._fill(Path(photo["path"]), white, model).path)

    def _fill(self, photo: Path, find: Callable[..., Any], model: str | None, progress: Any = None) -> Filled:
        inpainter = self.settings.models.get(model or "")

        def tell(done: int, total: int) -> None:
            if self.settings.stop.is_set():
                raise WSSLError(None, None, "the page has ended")
            if progress is not None:
                progress((done, total), desc="Filling", unit="pixels")

        with self._new_folder() as folder:
            return fill_photo(photo, find, inpainter, folder, self.settings.megapixels, tell)

    def _opened(self, photo: Path) -> list[Any]:
        with self._new_folder() as folder:
            preview_photo(photo, folder / "preview.png", self.settings.megapixels)
            return [{"background": str(folder / "preview.png"), "layers": [], "composite": None}, *no_result()]

    @contextmanager
    def _new_folder(self) -> Iterator[Path]:
        self.settings.storage.check()
        # A name that nobody could guess: the server gives each file to who knows its name.
        folder = self.settings.storage.folder / secrets.token_hex(16)
        folder.mkdir(parents=True)
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def loaded(self, request: gr.Request) -> list[Any]:
        """The page was loaded: list the models of the moment, and show the address by which it was reached."""
        names = self.settings.models.names()
        license = f" The {SHIPPED_NAME}'s weights are {SHIPPED_LICENSE}." if SHIPPED_NAME in names else ""
        url = f"{request.url.scheme}://{request.headers['host']}"
        return [
            gr.update(choices=names, value=names[0]),
            FOOTER.format(url=url, where=self.settings.where, license=license),
        ]


class Page(gr.Blocks):
    """Blocks that answer wrong calls in one line, before they queue, and print nothing of what was sent."""

    async def why_wrong(self, body: Any) -> str | None:
        """Return why a call cannot be made, or None: an unknown function, or arguments that it does not take."""
        function = self.fns.get(body.fn_index)
        if function is None or not function.fn:
            return "there is no such function"
        if len(body.data) != len(function.inputs):
            return f"it takes {len(function.inputs)} arguments, not {len(body.data)}"
        LocalContext.blocks.set(self)  # else Gradio takes paths of files that nobody has uploaded
        try:
            await self.preprocess_data(function, [*body.data], None)
        except OSError:
            pass  # a file that is gone: the function says so
        except gr.Error as error:
            return str(error.message)
        except Exception:
            return "its arguments are not of the kinds that it takes, or name files that were not uploaded"
        return None

    async def process_api(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Call a function."""
        try:
            return await super().process_api(*args, **kwargs)
        except gr.Error:
            raise
        except Exception as error:
            logger.warning("A call ended with %s", type(error).__name__)
            raise gr.Error("That could not be done", print_exception=False) from None


def no_result() -> list[Any]:
    """Nothing to see, nothing to download, nothing to say of it."""
    return [None, gr.update(value=None, interactive=False), ""]


def build_page(settings: Settings) -> gr.Blocks:
    """The page, ready to be launched."""
    actions = Actions(settings)
    names = settings.models.names()
    page = Page(title=TITLE, delete_cache=(600, 3600))
    with page:
        gr.Markdown(f"# {TITLE}\n{SENTENCE}", elem_classes="title")
        with gr.Row():
            with gr.Column(min_width=320):
                photo = gr.File(label="Photo", file_types=list(FORMATS), height=120, elem_id="photo")
                editor = gr.ImageEditor(
                    label="Paint here",
                    type="filepath",
                    format="png",
                    sources=(),
                    transforms=(),
                    layers=False,
                    brush=gr.Brush(colors=[BRUSH], default_color=BRUSH, color_mode="fixed", default_size=20),
                    buttons=["fullscreen"],
                    height=480,
                    elem_id="editor",
                )
                button = gr.Button("Fill", variant="primary", elem_id="fill")
                model = gr.Dropdown(names, value=names[0], label="Model")
            with gr.Column(min_width=320):
                slider = gr.ImageSlider(
                    label="Before and after",
                    interactive=False,
                    buttons=["fullscreen"],
                    max_height=560,
                    elem_id="result",
                )
                words = gr.Markdown(elem_id="words")
                download = gr.DownloadButton("Download PNG, full size", interactive=False, elem_id="download")
                gr.Markdown("Examples:", elem_classes="small")
                gallery = gr.Gallery(
                    [str(example) for example in settings.examples],
                    label="Examples",
                    show_label=False,
                    columns=3,
                    height="auto",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    elem_id="examples",
                )
        footer = gr.Markdown(elem_classes="small")
        with gr.Row(visible=False):
            layers = gr.File(file_count="multiple")
            api_photo, api_mask = gr.File(label="photo"), gr.File(label="mask")
            api_model, api_result = gr.Textbox("", label="model"), gr.File(label="result")
            api_button = gr.Button()
        result = [slider, download, words]
        # Raw values throughout: Gradio has checked that files were uploaded, we decode them within our limits.
        private: dict[str, Any] = {"api_visibility": "private", "preprocess": False}
        busy: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": settings.concurrency}
        # The editor sends its three pictures anew whenever a call that it takes part in, or shows the progress of, gets
        # on (six times for one stroke). So its strokes are taken over once, in the browser, and it shows no progress.
        opening: dict[str, Any] = private | {"show_progress_on": [words], "show_progress": "minimal"}
        # The editor's own bin takes the photo away with the strokes: it is put back.
        gr.on([photo.upload, photo.clear, editor.clear], actions.open, [photo], [photo, editor, *result], **opening)
        gallery.select(actions.open_example, None, [photo, editor, *result], **opening)
        taken = button.click(None, [editor], [layers], js="editor => [editor?.layers ?? []]", api_visibility="private")
        taken.then(actions.fill, [photo, layers, model], result, show_progress_on=[slider], **private, **busy)
        page.load(actions.loaded, None, [model, footer], show_progress="hidden", **private)
        inputs = [api_photo, api_mask, api_model]
        api_button.click(actions.inpaint, inputs, [api_result], api_name="inpaint", preprocess=False, **busy)
    # Clients could fill the memory with pictures by this door, which the page does not use.
    editor.accept_blobs = None
    page.queue(max_size=settings.waiting, default_concurrency_limit=4, api_open=False)
    push = page._queue.push

    async def checked(body: Any, *args: Any, **kwargs: Any) -> Any:
        why = await page.why_wrong(body)
        return (False, why, "error") if why else await push(body, *args, **kwargs)

    page._queue.push = checked  # type: ignore[method-assign]
    return page
