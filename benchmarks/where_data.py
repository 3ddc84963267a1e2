"""Prepares what `wssl study where` reads: `data/where`, from a folder with celeba_hq, utkface, qd_imd and nvidia_masks.

    python benchmarks/where_data.py DATA

celeba                 a cache of CelebA-HQ at 72 px, with every second test image
pool                   a cache of the pretext stage's images: CelebA-HQ's for training, and UTKFace without every tenth
masks                  a link to qd_imd
out_of_domain          pairs `SET-NUMBER` of 64 px from elsewhere, whose images are changed
out_of_domain_damaged  the same for a network that restores: inputs are damaged by saturation and sharpness, and what
                       takes something from an image (grey, blurred, noisy, jpeg) is done to the input alone

Sets: `own`, the test images and masks of the study; UTKFace; NVIDIA's masks; boxes; `own` turned by 90 degrees, grey,
blurred, noisy, JPEG-compressed; and the synthetic dataset. What is there already is not made again.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from wssl_pl.data import WSSLDataModule
from wssl_pl.data.cache import MANIFEST
from wssl_pl.data.files import list_images
from wssl_pl.data.prepare import prepare
from wssl_pl.evaluation.inputs import Damaging, Entry
from wssl_pl.evaluation.pairs import write_entries, write_pairs

OUT = Path("data/where")
SIZE, RESIZE = 64, 72
COUNT = 200  # pairs of a set; the test images of the study
RESTORE = ["saturation", "sharpness"]
SEED = 0
BLUR_PX, NOISE, QUALITY = 1.5, 25.0, 20
HOLES = (0.3, 0.5)

Pixels = NDArray[np.uint8]


def link(files: list[Path], folder: Path) -> None:
    """Link image files into a folder."""
    folder.mkdir(parents=True)
    for file in files:
        (folder / file.name).symlink_to(file.resolve())


def make_caches(data: Path, out: Path, links: Path) -> None:
    """Make the caches of the study's images and of the pool, by folders of links."""
    faces = {split: list_images(data / "celeba_hq" / split) for split in ("train", "val", "test")}
    others = sorted(list_images(data / "utkface"))
    faces["test"] = faces["test"][:: max(1, len(faces["test"]) // COUNT)]
    for split, files in faces.items():
        link(files, links / "celeba" / split)
    link(faces["train"], links / "pool" / "train" / "celeba")
    link([file for number, file in enumerate(others) if number % 10], links / "pool" / "train" / "utkface")
    link(faces["val"], links / "pool" / "val")
    for name in ("celeba", "pool"):
        if not (out / name / MANIFEST).is_file():  # an interrupted call is resumed
            prepare(links / name, out / name, RESIZE, progress=True)


def read_set(
    images: Path | str, masks: Path | str, hole: Literal["black", "white"] = "black"
) -> list[tuple[Pixels, Pixels]]:
    """Return images `(64, 64, 3)` and masks `(64, 64)` of pairs as `wssl pairs` draws them, `COUNT` at most."""
    with tempfile.TemporaryDirectory() as folder:
        module = WSSLDataModule(
            str(images), str(masks), image_size=SIZE, resize=RESIZE, hole=hole, hole_ratio=HOLES, limit=COUNT
        )
        pairs = write_pairs(module, "test", Path(folder) / "pairs")
        read = [pairs.read([pair]) for pair in pairs.pairs]
    return [(image[0].permute(1, 2, 0).numpy(), mask[0, 0].numpy()) for image, mask in read]


def box(number: int) -> Pixels:
    """Return a mask with one rectangle of 30 to 50 % of the image, by the number of the pair."""
    generator = np.random.Generator(np.random.PCG64([SEED, number]))
    area, aspect = generator.uniform(*HOLES) * SIZE**2, generator.uniform(0.75, 1.33)
    height = min(SIZE, round((area * aspect) ** 0.5))
    width = min(SIZE, round(area / height))
    top, left = generator.integers(SIZE - height + 1), generator.integers(SIZE - width + 1)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[top : top + height, left : left + width] = 1
    return mask


def grey(image: Pixels, number: int) -> Pixels:
    """Return the luma of an image in three channels."""
    return np.asarray(Image.fromarray(image).convert("L").convert("RGB"))


def blurred(image: Pixels, number: int) -> Pixels:
    """Return an image blurred by a Gaussian of 1.5 px."""
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(BLUR_PX)))


def noisy(image: Pixels, number: int) -> Pixels:
    """Return an image with Gaussian noise of 25 levels."""
    noise = np.random.Generator(np.random.PCG64([SEED, number])).normal(0.0, NOISE, image.shape)
    return (image + noise).round().clip(0, 255).astype(np.uint8)


def jpeg(image: Pixels, number: int) -> Pixels:
    """Return an image after JPEG compression of quality 20."""
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, format="jpeg", quality=QUALITY)
    return np.asarray(Image.open(buffer))


LOSSES: dict[str, Callable[[Pixels, int], Pixels]] = {"grey": grey, "blurred": blurred, "noisy": noisy, "jpeg": jpeg}


def entries(data: Path, out: Path, links: Path, restore: bool) -> Iterator[Entry]:
    """Yield all pairs; with `restore` with damaged inputs."""
    masks = out / "masks"
    held_out = [file for number, file in enumerate(sorted(list_images(data / "utkface"))) if number % 10 == 0]
    if not (links / "utkface").is_dir():
        link(held_out[:: max(1, len(held_out) // COUNT)][:COUNT], links / "utkface" / "test")
        link(list_images(data / "nvidia_masks", "masks"), links / "nvidia" / "test")
    own = read_set(out / "celeba", masks)
    sets = {
        "own": own,
        "utkface": read_set(links / "utkface", masks),
        "nvidia_masks": read_set(out / "celeba", links / "nvidia", "white"),
        "boxes": [(image, box(number)) for number, (image, _) in enumerate(own)],
        "turned": [(np.rot90(image).copy(), mask) for image, mask in own],
        "synthetic": read_set("synthetic", masks),
        **dict.fromkeys(LOSSES, own),
    }
    damage = Damaging(RESTORE, SEED, "out of domain") if restore else None
    for name, pairs in sets.items():
        for number, (image, mask) in enumerate(pairs):
            changed = LOSSES[name](image, number) if name in LOSSES else image
            # Of an inpainted image the truth is as grey as what is given; of a restored one it is the clean image.
            entry = Entry(f"{name}-{number:05d}", image if restore else changed, mask, "")
            yield entry if damage is None else damage(entry, number, changed, 0)


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    data, out = options.data.resolve(), options.out
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "masks").exists():
        (out / "masks").symlink_to(data / "qd_imd")
    with tempfile.TemporaryDirectory() as folder:
        links = Path(folder)
        make_caches(data, out, links)
        for name, restore in (("out_of_domain", []), ("out_of_domain_damaged", RESTORE)):
            if (out / name / "manifest.json").is_file():
                continue
            shutil.rmtree(out / name, ignore_errors=True)  # what was interrupted
            written = write_entries(out / name, entries(data, out, links, bool(restore)), restore)
            print(f"{len(written)} pairs in {out / name}, hash {written.manifest.hash[:16]}", flush=True)


if __name__ == "__main__":
    main()
