"""`wssl app`."""

from wssl_pl.app.options import AppOptions


def app(*, options: AppOptions) -> None:
    """Serve a page in the browser: load a photo, paint the hole, see and download the result. Ctrl-C ends it.

    Example:
        wssl app ckpt=best.ckpt port=8000

    Args:
        options: of the page
    """
    from wssl_pl.app.server import serve

    serve(options)
