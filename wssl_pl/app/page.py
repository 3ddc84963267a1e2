"""The page: its tabs, its style, and what is refused before it queues."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from wssl_pl.app.actions import Actions, Settings
from wssl_pl.app.batch_tab import BatchTab
from wssl_pl.app.models import SHIPPED_NAME
from wssl_pl.app.photo_tab import RESUME, PhotoTab
from wssl_pl.models import SHIPPED_LICENSE

logger = logging.getLogger(__name__)

PARTS = {
    name: Path(__file__).parents[1] / "web" / name if name.startswith("editor") else Path(__file__).parent / name
    for name in ("page.js", "connection.js", "page.css", "editor.js", "editor.css")
}
"""The files of our own that the page loads from its server, below /page/."""

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
HEAD = """\
<link rel="stylesheet" href="page/editor.css">
<link rel="stylesheet" href="page/page.css">
"""


def theme() -> Any:
    """A theme that needs no font from elsewhere."""
    return gr.themes.Soft(
        primary_hue="indigo",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


class Page(gr.Blocks):
    """Blocks that answer wrong calls in one line, before they queue, and print nothing of what was sent.

    Attributes:
        renew: called with the key of a photo whose tab is still open.
    """

    renew: Callable[[str], None]

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


def footer(url: str, where: str, names: Sequence[str]) -> str:
    """Return what the page says below its tabs, where it was reached by an address and offers models."""
    license = f" The {SHIPPED_NAME}'s weights are {SHIPPED_LICENSE}." if SHIPPED_NAME in names else ""
    return FOOTER.format(url=url, where=where, license=license)


def build_page(settings: Settings) -> Page:
    """The page, ready to be launched."""
    actions = Actions(settings)
    page = Page(title=TITLE, delete_cache=(600, 3600))
    with page:
        gr.Markdown(f"# {TITLE}\n{SENTENCE}", elem_classes="title")
        with gr.Tab("One photo", elem_id="one"):
            one = PhotoTab(settings)
        with gr.Tab("Several photos", elem_id="several"):
            several = BatchTab(settings)
        page.renew = one.actions.renew
        words = gr.Markdown(elem_classes="small")
        with gr.Row(visible=False):
            api_photo, api_mask = gr.File(label="photo"), gr.File(label="mask")
            api_model, api_result = gr.Textbox("", label="model"), gr.File(label="result")
            api_button = gr.Button()
        lists = [one.model, one.others, several.model]

        def loaded(chosen: Any, others: Any, of_batch: Any, request: gr.Request) -> list[Any]:
            """List the models of the moment, and show the address by which the page was reached."""
            names = settings.models.choices()
            url = f"{request.url.scheme}://{request.headers['host']}"

            def listed(value: Any, default: Any) -> Any:
                """The list; what is chosen by now stays, unless it is gone."""
                if all(name in names for name in (value if isinstance(value, list) else [value])):
                    return gr.update(choices=names)
                return gr.update(choices=names, value=default)

            first = names[0]
            new = [listed(chosen, first), listed(others or [], []), listed(of_batch, first)]
            return [*new, footer(url, settings.where, names)]

        private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
        page.load(loaded, lists, [*lists, words], **private)
        page.load(one.actions.resume, [one.key], one.shown, js=RESUME, **private)
        inputs = [api_photo, api_mask, api_model]
        api_button.click(
            actions.inpaint, inputs, [api_result], api_name="inpaint", preprocess=False,
            concurrency_id="model", concurrency_limit=settings.concurrency,
        )  # fmt: skip
    page.queue(max_size=settings.waiting, default_concurrency_limit=4, api_open=False)
    push = page._queue.push

    async def checked(body: Any, *args: Any, **kwargs: Any) -> Any:
        why = await page.why_wrong(body)
        return (False, why, "error") if why else await push(body, *args, **kwargs)

    page._queue.push = checked  # type: ignore[method-assign]
    return page
