"""A static page that fills holes of photos in the browser, by onnxruntime-web."""

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import wssl_pl
from wssl_pl.errors import WSSLError
from wssl_pl.files import cache_folder, check_readable, writing
from wssl_pl.inference.engine import Tiling
from wssl_pl.models.info import SHIPPED, SHIPPED_LICENSE, Convention, Predictor
from wssl_pl.models.onnx import open_onnx

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
# The SHA-512 that npm states of it.
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
# Of the package's folder dist: what all browsers load, and what those with WebGPU load in its place.
WASM = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
WEBGPU = ("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm")
SOURCE = Path(wssl_pl.__file__).parent / "web"
STATIC = (
    "index.html", "page.css", "page.js", "editor.css", "editor.js", "icon.svg", "worker.js", "fill.js", "photo.js"
)  # fmt: skip
CORE = (*STATIC, "config.json", "model.onnx", "example.png")
FILES = (*CORE, "service_worker.js", "ort", "LICENSE-weights")
FOREIGN = "give a checkpoint, or a file of wssl export onnx"
CHECK_SIDE, CHECK_STEP, TOLERANCE = 64, 97, 0.02  # of a small image, on which the page checks what it computes


def find_runtime(runtime: Path | None, download: bool) -> dict[str, bytes]:
    """Return the files of onnxruntime-web that a page may need, by name.

    Args:
        runtime: the npm package, packed or unpacked; default: of the cache.
        download: get it by npm into the cache if it is not there.

    Raises:
        WSSLError: it is not there, has another version, or is not the package that npm had when its version was pinned.
    """
    if runtime is not None:
        check_readable(runtime, "runtime")
        return _unpacked(runtime) if runtime.is_dir() else _unpack(runtime.read_bytes(), "runtime", runtime)
    cached = cache_folder() / f"{PACKAGE}-{VERSION}.tgz"
    if not cached.is_file():
        if not download:
            reason = f"{PACKAGE} {VERSION} is not in {cached.parent}"
            remedy = "download=true gets it by npm; or give the package, `npm pack` elsewhere, as runtime="
            raise WSSLError(None, None, reason, remedy)
        _download(cached)
    return _unpack(cached.read_bytes(), None, cached)


def npm_reason(stderr: str) -> str:
    """Return why npm failed: its code, and the first line that is a sentence; the last ones name a log and a proxy."""
    lines = [line.removeprefix("npm error ") for line in stderr.splitlines() if line.startswith("npm error ")]
    codes = [line.removeprefix("code ") for line in lines if line.startswith("code ")]
    reasons = [line for line in lines if not line.startswith(("code ", "syscall ", "errno "))]
    return ": ".join([*codes[:1], *reasons[:1]])


def _download(cached: Path) -> None:
    """Let npm write the package into the cache.

    Raises:
        WSSLError: there is no npm, or it fails, or the package is not the pinned one.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise WSSLError("download", "true", "needs npm, which is not installed", "give the package as runtime=")
    with writing("download", cached):
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
            command = [npm, "pack", "--ignore-scripts", "--fetch-retries=1", f"{PACKAGE}@{VERSION}"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            packed = Path(folder, cached.name)
            if done.returncode or not packed.is_file():
                reason = npm_reason(done.stderr) or "no package was written"
                raise WSSLError("download", "true", f"npm fails: {reason}", "give the package as runtime=")
            _unpack(packed.read_bytes(), "download", cached)
            packed.replace(cached)


def _unpack(content: bytes, parameter: str | None, path: Path) -> dict[str, bytes]:
    """Return the files of a package as npm packs it, whose checksum must be the pinned one."""
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != INTEGRITY:
        raise WSSLError(parameter, path, f"is not {PACKAGE} {VERSION} as npm has it: its checksum differs")
    files = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for name in WASM + WEBGPU:
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None, name
            files[name] = member.read()
    return files


def _unpacked(folder: Path) -> dict[str, bytes]:
    """Return the files of an unpacked package.

    Raises:
        WSSLError: it is not the package, or has another version.
    """
    remedy = f"give the folder with package.json of {PACKAGE} {VERSION}"
    try:
        facts = json.loads((folder / "package.json").read_text())
        files = {name: (folder / "dist" / name).read_bytes() for name in WASM + WEBGPU}
    except (OSError, ValueError) as error:
        missing = f"{Path(error.filename).name} is missing" if isinstance(error, FileNotFoundError) else str(error)
        raise WSSLError("runtime", folder, f"is not {PACKAGE}: {missing}", remedy) from None
    if (facts.get("name"), facts.get("version")) != (PACKAGE, VERSION):
        raise WSSLError("runtime", folder, f"is {facts.get('name')} {facts.get('version')}", remedy)
    return files


def write_page(folder: Path, name: str, runtime: dict[str, bytes], webgpu: bool = True) -> None:
    """Write the page around an ONNX file.

    Args:
        folder: where to; its only file is `model.onnx`, of `wssl export onnx`.
        name: what the model is called.
        runtime: of `find_runtime`.
        webgpu: also with the files for WebGPU.

    Raises:
        WSSLError: a package is missing, or the file is another project's.
        OSError: it cannot be written.
    """
    from wssl_pl.synthetic import draw_face

    predictor = open_onnx(folder / "model.onnx", "cpu", None, Convention())
    if predictor.info.foreign:
        raise WSSLError("ckpt", name, "is another project's, whose conventions the page does not know", FOREIGN)
    _shorten(folder / "model.onnx")
    (folder / "ort").mkdir()
    for file in WASM + (WEBGPU if webgpu else ()):
        # Some hosts do not know that .mjs is JavaScript.
        (folder / "ort" / file.replace(".mjs", ".js")).write_bytes(runtime[file])
    for file in STATIC:
        shutil.copyfile(SOURCE / file, folder / file)
    shipped = predictor.info.training.get("license") == SHIPPED_LICENSE
    if shipped:
        shutil.copyfile(SHIPPED.parent / "LICENSE", folder / "LICENSE-weights")
    Image.fromarray(draw_face(27, 512)).save(folder / "example.png")
    config = {
        "model": "the shipped model" if shipped else Path(name).name,
        "license": SHIPPED_LICENSE if shipped else None,
        "tiling": asdict(Tiling.of(predictor.info)),
        "webgpu": webgpu,
        "version": wssl_pl.__version__,
        "runtime": VERSION,
        "check": _check(predictor),
    }
    (folder / "config.json").write_text(json.dumps(config))
    core = ["./", *CORE, *(f"ort/{file.replace('.mjs', '.js')}" for file in WASM)]
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.read_bytes())
    script = (SOURCE / "service_worker.js").read_text()
    script = script.replace("@VERSION@", digest.hexdigest()[:16]).replace("@FILES@", " ".join(core))
    (folder / "service_worker.js").write_text(script)


def _shorten(model: Path) -> None:
    """Store the weights that float16 holds exactly as such: half of the file, of a model that was exported with half.

    The network still computes in float32.
    """
    import onnx

    proto = onnx.load(model)
    casts = []
    for weights in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(weights)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16) if values.dtype == np.float32 else None
        if half is not None and values.ndim > 1 and np.array_equal(half, values):
            name = weights.name
            weights.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}.half"))
            casts.append(onnx.helper.make_node("Cast", [weights.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    onnx.checker.check_model(proto)
    model.write_bytes(proto.SerializeToString())


def _check(predictor: Predictor) -> dict[str, Any]:
    """Return what the page compares its own output with: graphics drivers compute wrongly at times."""
    area = CHECK_SIDE**2
    planes = (np.arange(3 * area, dtype=np.int64) * 7919 % 256 / 255).astype(np.float32).reshape(1, 3, -1)
    holes = (np.arange(area) * 31 % area < area // 4).astype(np.float32).reshape(1, 1, -1)
    shape = (CHECK_SIDE, CHECK_SIDE)
    output = predictor((planes * (1 - holes)).reshape(1, 3, *shape), holes.reshape(1, 1, *shape))
    expected = [round(float(value), 5) for value in output.ravel()[::CHECK_STEP]]
    return {"side": CHECK_SIDE, "step": CHECK_STEP, "expected": expected, "tolerance": TOLERANCE}
