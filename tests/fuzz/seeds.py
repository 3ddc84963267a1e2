"""The undamaged files that cases start from, all small and made by code."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tests.data.fakes import face, image_tree, mask_tree
from tests.fuzz.mutations import png_chunks, png_file

SIDE = 32
DATA = ["data.image_size=32", "data.resize=36", "data.batch_size=2", "data.num_workers=0"]
TRAINER = [
    "trainer.max_steps=2", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.logger=false",
    "trainer.precision=32-true",
]  # fmt: skip


def make(base: Path) -> None:
    """Write the seed files into an empty folder: pictures, models, checkpoints, a cache, pairs, results, a study."""
    from wssl_pl.cli import main

    _pictures(base / "pictures")
    image_tree(base / "images", {"train": 4, "val": 2, "test": 3}, size=24)
    mask_tree(base / "masks", {"train": [0.2, 0.35, 0.45, 0.5], "test": [0.3, 0.4, 0.45]}, size=24)
    data = [f"data.images={base / 'images'}", f"data.masks={base / 'masks'}", *DATA]
    pairs = [option.removeprefix("data.") for option in data]
    pretext, downstream = base / "pretext", base / "downstream"
    model = ["model.width=2", *TRAINER]
    main(["stage=pretext", "tasks=rotation,saturation", f"run.dir={pretext}", *data, *model])
    main(["stage=downstream", f"ckpt={pretext / 'best.ckpt'}", f"run.dir={downstream}", *data, *TRAINER])
    ckpt = f"ckpt={downstream / 'best.ckpt'}"
    main(["export", "safetensors", ckpt, f"out={base / 'model.safetensors'}"])
    main(["export", "safetensors", ckpt, f"out={base / 'exported'}"])
    main(["prepare", f"images={base / 'images'}", f"out={base / 'cache'}", "size=36", "workers=0"])
    main(["masks", "stats", str(base / "masks"), f"out={base / 'stats.png'}", "size=32"])
    main(["pairs", f"out={base / 'pairs'}", *pairs])
    for name, method in (("mean", "method=mean"), ("model", f"ckpt={base / 'model.safetensors'}")):
        main(["evaluate", f"pairs={base / 'pairs'}", f"out={base / 'results' / name}", method, "accelerator=cpu"])
    _onnx(base)
    _studies(base)
    for path in base.rglob(".wssl-masks-*"):  # made by the commands above; the family `masks` wants them apart
        shutil.copy(path, base / "mask-index.parquet")


def _pictures(folder: Path) -> None:
    folder.mkdir()
    rgb = face(5, SIDE)
    alpha = np.full((SIDE, SIDE), 255, np.uint8)
    alpha[8:20, 8:20] = 0
    rgba = Image.fromarray(np.dstack([np.asarray(rgb), alpha]))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a face"
    wide = face(3, 48).crop((0, 0, 48, SIDE))
    rgb.save(folder / "rgb.png")
    rgba.save(folder / "rgba.png")
    rgb.convert("L").save(folder / "grey.png")
    rgb.convert("LA").save(folder / "grey_alpha.png")
    rgb.quantize(16).save(folder / "palette.png", transparency=3)
    rgb.convert("1").save(folder / "bits.png")
    Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257).save(folder / "grey16.png")
    _sixteen(folder / "rgb16.png", np.asarray(rgb))
    _sixteen(folder / "rgba16.png", np.asarray(rgba))
    chunks = png_chunks((folder / "rgb.png").read_bytes())
    extra = [(b"gAMA", (45455).to_bytes(4, "big")), (b"tEXt", b"Comment\0a face"), (b"pHYs", bytes(8) + b"\1")]
    extra += [(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")), (b"sRGB", b"\0")]
    (folder / "chunks.png").write_bytes(png_file([chunks[0], *extra, *chunks[1:]]))
    rgb.save(folder / "plain.jpg", quality=90)
    wide.save(folder / "turned.jpg", exif=exif, icc_profile=_profile())
    rgb.save(folder / "progressive.jpg", progressive=True, quality=60)
    rgb.convert("L").save(folder / "grey.jpg")
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    rgb.save(folder / "lossy.webp", quality=80)
    rgba.save(folder / "lossless.webp", lossless=True, exif=exif)
    rgb.save(folder / "moving.webp", save_all=True, append_images=[face(9, SIDE)])
    hole = np.zeros((SIDE, SIDE), np.uint8)
    hole[6:20, 9:24] = 255
    (folder.parent / "holes").mkdir()
    for name, picture in (("mask.png", Image.fromarray(hole)), ("mask.jpg", Image.fromarray(hole))):
        picture.save(folder.parent / "holes" / name)


def _profile() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _sixteen(path: Path, pixels: np.ndarray) -> None:
    import cv2

    order = [2, 1, 0, 3][: pixels.shape[-1]]
    path.write_bytes(cv2.imencode(".png", pixels[..., order].astype(np.uint16) * 257 + 1)[1].tobytes())


def jpeg(picture: Image.Image) -> bytes:
    """Return a picture as JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return buffer.getvalue()


def onnx_model(
    inputs: dict[str, list[Any]], nodes: list[Any], metadata: dict[str, str], initializers: tuple[Any, ...] = ()
) -> Any:
    """Return an ONNX model that gives `output` from float inputs of these shapes."""
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "graph", values, [output], list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    return model


def onnx_metadata() -> dict[str, str]:
    """Return the metadata of a file of `wssl export onnx`."""
    return {"hyper_parameters": json.dumps({"width": 2}), "training": json.dumps({"image_size": 32})}


def onnx_inputs() -> dict[str, list[Any]]:
    """Return the inputs of such a file."""
    return {"image": ["B", 3, "H", "W"], "mask": ["B", 1, "H", "W"]}


def _onnx(base: Path) -> None:
    import onnx
    from onnx import helper, numpy_helper

    # A hole becomes grey: image + mask * weight, with the weight stored as the weights of a network are.
    weight = numpy_helper.from_array(np.full((1, 3, 1, 1), 0.5, np.float32), "weight")
    nodes = [helper.make_node("Mul", ["mask", "weight"], ["grey"])]
    nodes.append(helper.make_node("Add", ["image", "grey"], ["output"]))
    onnx.save(onnx_model(onnx_inputs(), nodes, onnx_metadata(), (weight,)), base / "model.onnx")
    fixed = {"image": [1, 3, 64, 64], "mask": [1, 1, 64, 64]}
    onnx.save(onnx_model(fixed, nodes, {}, (weight,)), base / "foreign.onnx")


def _studies(base: Path) -> None:
    from tests.study.conftest import TINY
    from tests.study.fakes import FakeArm, one_task, write_study
    from wssl_pl.study.definition import Claim

    arms = {"frozen": one_task("rotation", effect=0.3), "scratch": FakeArm()}
    claims = [Claim("frozen beats scratch", ["frozen"], ["scratch"])]
    write_study(base / "study", arms, claims, seeds=(0, 1), images=12)
    tuned = TINY | {"tune": {"option": "model.lr", "values": [1e-4, 5e-4], "steps": 2}, "plots": ["figure3"]}
    (base / "study.yaml").write_text(yaml.safe_dump(tuned, sort_keys=False))
