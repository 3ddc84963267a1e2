"""The arithmetic of the page against that of `wssl_pl.inference`, with a function in place of the network, by Node."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import wssl_pl
from wssl_pl.inference.engine import Tiling, fill_images
from wssl_pl.models import ModelInfo

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node on this machine")

SCRIPT = """
import {readFileSync, writeFileSync} from "node:fs";
const {fill} = await import("data:text/javascript;base64," + readFileSync(process.argv[2]).toString("base64"));
for (const {name, width, height, channels, tiling, transparent} of JSON.parse(readFileSync("cases.json"))) {
  const image = {data: new Uint8Array(readFileSync(name + ".image")), width, height, channels, scale: 255};
  if (transparent) image.alpha = new Uint8Array(readFileSync(name + ".alpha"));
  const mask = {data: new Uint8Array(readFileSync(name + ".mask")), width, height};
  const network = async (planes, holes, batch, rows, columns) => {
    const area = rows * columns, output = new Float32Array(planes.length);
    for (let i = 0; i < output.length; i++) {
      const y = Math.floor(i % area / columns), x = i % columns, plane = Math.floor(i / area);
      const before = planes[plane * area + y * columns + Math.max(0, x - 3)];
      const hole = holes[Math.floor(plane / 3) * area + i % area];
      output[i] = 0.6 * before + 0.2 * hole + 0.05 * (plane % 3) + 0.15 * y / rows + 0.1 * x / columns;
    }
    return output;
  };
  let last;
  await fill(image, mask, network, tiling, (done, total) => { last = done / total; });
  if (last !== 1) throw new Error(`${name}: progress ended at ${last}`);
  writeFileSync(name + ".result", image.data);
}
"""
SMALL = Tiling(whole=64, radius=6.4, tile=128, margin=32, batch=2 * 128 * 128)


def network(planes, holes):
    """Something that depends on the place in the window, on known pixels and on the mask, padded as for ONNX files."""
    height, width = planes.shape[2:]
    pads = [((max(32, side) - side) // 2, -((side - max(32, side)) // 2)) for side in (height, width)]
    for axis, pad in zip((2, 3), pads, strict=True):
        spread = [(0, 0)] * 4
        spread[axis] = pad
        mode = "edge" if pad[1] >= planes.shape[axis] else "reflect"
        planes, holes = np.pad(planes, spread, mode), np.pad(holes, spread, mode)
    before = np.concatenate([np.repeat(planes[..., :1], 3, axis=3), planes], axis=3)[..., : planes.shape[3]]
    rows, columns = planes.shape[2:]
    output = 0.6 * before + 0.2 * holes + 0.05 * np.arange(3).reshape(3, 1, 1)
    output = output + 0.15 * np.arange(rows)[:, None] / rows + 0.1 * np.arange(columns) / columns
    (top, _), (left, _) = pads
    return output[:, :, top : top + height, left : left + width].astype(np.float32)


def discs(height, width, radii, seed):
    random = np.random.default_rng(seed)
    rows, columns = np.ogrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for radius in radii:
        mask |= np.hypot(rows - random.uniform(0, height), columns - random.uniform(0, width)) < radius
    return mask


CASES = {
    "whole": ((60, 50, 3), discs(60, 50, [5, 3], 0), SMALL),
    "tiny": ((9, 40, 3), discs(9, 40, [3], 2), SMALL),
    "pixel": ((2, 1, 3), np.array([[True], [False]]), SMALL),
    "grey": ((61, 47, 1), discs(61, 47, [6], 1), SMALL),
    "deep": ((150, 211, 3), discs(150, 211, [40, 12], 3), SMALL),
    "many": ((301, 260, 3), discs(301, 260, [9] * 9 + [3] * 20 + [30], 4), SMALL),
    "grey and deep": ((300, 130, 1), discs(300, 130, [60, 5, 5], 5), SMALL),
    "noise": ((130, 130, 3), np.random.default_rng(6).random((130, 130)) < 0.4, SMALL),
    "model": ((400, 500, 3), discs(400, 500, [60, 20, 20, 9], 7), Tiling.of(
        ModelInfo("model", {"width": 16}, {"image_size": 128}))),
}  # fmt: skip
# Where pixels are wholly transparent; their colours mean nothing.
INVISIBLE = {
    "whole": discs(60, 50, [20], 8),
    "deep": np.mgrid[:150, :211][1] > 100,
    "grey": np.ones((61, 47), bool),
    "model": discs(400, 500, [120, 90, 150], 9),
}


def test_the_page_computes_what_python_computes(tmp_path):
    random = np.random.default_rng(0)
    expected, given, cases = {}, {}, []
    for name, (shape, mask, tiling) in CASES.items():
        assert 0 < mask.sum() < mask.size
        smooth = random.integers(0, 256, (-(-shape[0] // 8), -(-shape[1] // 8), shape[2]))
        given[name] = np.kron(smooth, np.ones((8, 8, 1)))[: shape[0], : shape[1]].astype(np.uint8)
        invisible = INVISIBLE.get(name)
        (expected[name],) = fill_images([given[name]], [mask], network, tiling, invisible=[invisible])
        if invisible is not None:
            (tmp_path / f"{name}.alpha").write_bytes(np.where(invisible, 0, 9).astype(np.uint8).tobytes())
        (tmp_path / f"{name}.image").write_bytes(given[name].tobytes())
        (tmp_path / f"{name}.mask").write_bytes(mask.tobytes())
        sizes = {"height": shape[0], "width": shape[1], "channels": shape[2], "tiling": vars(tiling)}
        cases.append(sizes | {"name": name, "transparent": invisible is not None})
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    (tmp_path / "script.mjs").write_text(SCRIPT)
    module = Path(wssl_pl.__file__).parent / "web" / "fill.js"
    done = subprocess.run(["node", "script.mjs", module], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, (_, mask, _) in CASES.items():
        result = np.frombuffer((tmp_path / f"{name}.result").read_bytes(), np.uint8).reshape(given[name].shape)
        assert (result[~mask] == given[name][~mask]).all(), name
        apart = np.abs(result.astype(int) - expected[name])
        assert apart.max() <= 1, (name, apart.max())
        assert (apart > 0).mean() < 1e-3, name
