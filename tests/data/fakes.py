"""Small images and masks made by code."""

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def face(number: int, size: int = 48) -> Image.Image:
    """A smooth picture that tells its number by its colours."""
    rows, columns = np.mgrid[0:size, 0:size] / size
    shade = np.stack([rows, columns, np.full_like(rows, (number * 37 % 256) / 255)], axis=2)
    return Image.fromarray((shade * 255).astype(np.uint8))


def image_tree(root: Path, counts: dict[str, int], suffix: str = ".png", size: int = 48) -> Path:
    """``counts`` maps a folder (``""``: the root) to how many images it gets."""
    number = 0
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            face(number, size).save(root / folder / f"{number}{suffix}")
            number += 1
    return root


def hole_mask(ratio: float, size: int = 64, shift: int = 0) -> np.ndarray:
    """A band of holes, 1 = hole, over ``ratio`` of the rows, moved down by ``shift`` rows."""
    mask = np.zeros((size, size), np.uint8)
    mask[: round(ratio * size)] = 1
    return np.roll(mask, shift, axis=0)


def mask_tree(root: Path, ratios: dict[str, list[float]], hole: str = "black", size: int = 64) -> Path:
    """``ratios`` maps a folder to the hole ratios of its masks, in QD-IMD's names."""
    for folder, values in ratios.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number, ratio in enumerate(values):
            holes = hole_mask(ratio, size, shift=5 * number).astype(bool)
            bright = holes if hole == "white" else ~holes
            Image.fromarray(bright).save(root / folder / f"{number:05d}_{folder or 'mask'}.png")
    return root


def save_with_xmp(image, path, turn):
    """Save an image whose XMP says an orientation, which viewers do not read, and whose EXIF says none."""
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{turn}"/>'
        "</rdf:RDF></x:xmpmeta>"
    )
    if path.suffix == ".png":
        texts = PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", packet)
        image.save(path, pnginfo=texts)
    elif path.suffix == ".tif":
        image.save(path, tiffinfo={700: packet.encode()})
    else:
        image.save(path, xmp=packet.encode(), quality=95)
    with Image.open(path) as saved:
        assert saved.getexif()[0x0112] == turn, "Pillow reads it"
    return path
