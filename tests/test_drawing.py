"""Images beside each other, with titles."""

import io

import numpy as np
from PIL import Image

from wssl_pl.drawing import Panel, draw_panels, figure_png


def test_panels_keep_their_pixels_and_short_rows_end_earlier():
    red = np.zeros((96, 96, 3), np.uint8)
    red[..., 0] = 255
    rows = [[Panel(red, "red", frame=(8, 8, 32)), Panel(np.full((96, 96), 0.5), "a grey one")], [Panel(red / 255.0)]]
    image = np.asarray(Image.open(io.BytesIO(figure_png(draw_panels(rows, inches=0.96)))).convert("RGB"))
    assert image.shape[1] == 192  # 100 dots per inch
    assert image.shape[0] == 192 + 40  # one row has titles
    is_red = (image == [255, 0, 0]).all(axis=-1)
    assert is_red[-48, 48]
    assert not is_red[:, 97:].any()
    assert (image[:96, 97:] == 127).all(axis=-1).any()
    yellow = (image == [255, 255, 0]).all(axis=-1)
    assert 0 < yellow.sum() < 400
