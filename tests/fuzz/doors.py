"""Files and settings of strangers that try to run code, to read or write outside, or never to end."""

import io
import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml

from tests.fuzz.files import command
from tests.fuzz.runner import CANARY, Case, LetIn
from tests.fuzz.seeds import DATA, TRAINER, onnx_inputs, onnx_metadata, onnx_model


class Payload:
    """Unpickled, it makes the canary's file."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


def make_case(rng: Random, base: Path) -> Case:
    """Return one attempt."""
    sys.path.insert(0, str(Path.cwd()))  # as `python -m wssl_pl` searches the working folder
    Path("evilmod.py").write_text(f"open({os.environ[CANARY]!r}, 'w').close()\nclass E: pass\n")
    name, attempt = rng.choice(sorted(ATTEMPTS.items()))
    words, run = attempt(rng, base)
    return Case(run, ("out", "out.png", "out.safetensors", "run", "runs", "x.yaml"), f"{name}: {words}")


def pickles(rng: Random, base: Path) -> tuple[str, Callable[[], Any]]:
    """A pickle in every place of a file."""
    touch = f"touch {os.environ[CANARY]}"
    payload = rng.choice(
        (
            Payload(os.system, touch),
            Payload(eval, f"__import__('os').system({touch!r})"),
            Payload(exec, f"open({os.environ[CANARY]!r}, 'w')"),
            Payload(os.open, os.environ[CANARY], os.O_CREAT),
            Payload(__import__("subprocess").check_output, ["touch", os.environ[CANARY]]),
        )
    )
    kind = rng.choice(("plain", "torch", "legacy", "within", "npz", "member", "appended"))
    content = _holding(rng, base, payload, kind)
    door, suffix, run = rng.choice(_doors(base))
    path = Path(f"evil{suffix}")
    if suffix == "/":
        path = Path(shutil.copytree(base / "exported", "evil")) / "model.safetensors"
    path.write_bytes(content)
    return f"{kind} as {path.name} to {door}", run


def _holding(rng: Random, base: Path, payload: Payload, kind: str) -> bytes:
    import torch

    if kind == "plain":
        return pickle.dumps(payload, protocol=rng.choice((0, 2, 4)))
    buffer = io.BytesIO()
    if kind in ("torch", "legacy"):
        content = {"stage": "downstream", "state_dict": payload, "hyper_parameters": {}}
        torch.save(content, buffer, _use_new_zipfile_serialization=kind == "torch")
    elif kind == "within":
        checkpoint = torch.load(base / "downstream" / "best.ckpt", map_location="cpu", weights_only=True)
        checkpoint[rng.choice(sorted(checkpoint))] = payload
        torch.save(checkpoint, buffer)
    elif kind == "npz":
        np.savez(buffer, a=np.array([payload], dtype=object))
    else:
        source = base / "downstream" / "best.ckpt"
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(buffer, "w") as new:
            for name in old.namelist():
                evil = name.endswith("data.pkl") and kind == "member"
                new.writestr(name, pickle.dumps(payload, protocol=2) if evil else old.read(name))
            if kind == "appended":
                new.writestr("best/data.pkl", pickle.dumps(payload, protocol=2))
    return buffer.getvalue()


def _doors(base: Path) -> list[tuple[str, str, Callable[[], Any]]]:
    picture = [f"photo={base / 'pictures' / 'rgb.png'}", f"mask={base / 'holes' / 'mask.png'}", "out=out.png"]
    data = [f"data.images={base / 'images'}", f"data.masks={base / 'masks'}", *DATA, *TRAINER, "run.dir=out"]
    pairs = ["evaluate", f"pairs={base / 'pairs'}", "out=out", "accelerator=cpu", "limit=1"]
    found = [
        ("lpips_weights", ".pth", command(*pairs, "method=mean", "lpips_weights=evil.pth")),
        ("inception_weights", ".pth", command(*pairs, "method=mean", "inception_weights=evil.pth")),
        ("resume", ".ckpt", command("resume=evil.ckpt")),
        ("downstream", ".ckpt", command("stage=downstream", "ckpt=evil.ckpt", *data)),
        ("downstream", ".safetensors", command("stage=downstream", "ckpt=evil.safetensors", *data)),
        ("test", ".ckpt", command("test", "ckpt=evil.ckpt", "accelerator=cpu")),
        ("diagnose", ".ckpt", command("diagnose", picture[0], "ckpt=evil.ckpt", "device=cpu")),
        ("folder", "/", command("inpaint", *picture, "ckpt=evil", "device=cpu")),
        ("masks", ".npz", command("masks", "stats", ".", "out=out.png", "size=16")),
    ]
    for suffix in (".ckpt", ".safetensors", ".onnx", ".pt"):
        found.append(("inpaint", suffix, command("inpaint", *picture, f"ckpt=evil{suffix}", "device=cpu")))
        found.append(("evaluate", suffix, command(*pairs, f"ckpt=evil{suffix}")))
        found.append(("export", suffix, command("export", "safetensors", f"ckpt=evil{suffix}", "out=out.safetensors")))
    return found


def tags(rng: Random, base: Path) -> tuple[str, Callable[[], Any]]:
    """Python's tags of YAML, which create objects."""
    touch = f"touch {os.environ[CANARY]}"
    tag = rng.choice(
        (
            f"!!python/object/apply:os.system ['{touch}']",
            f"!!python/object/new:os.system ['{touch}']",
            "!!python/object:evilmod.E {}",
            "!!python/name:evilmod.E",
            "!!python/module:evilmod",
        )
    )
    where = rng.choice(("config", "line", "study", "model.tasks", "definition option"))
    if where == "config":
        Path("x.yaml").write_text(f"stage: pretext\nmodel:\n  tasks: {tag}\n")
        return f"{tag} in {where}", command("config=x.yaml")
    if where in ("line", "model.tasks"):
        key = "trainer.callbacks" if where == "line" else "tasks"
        return f"{tag} on the {where}", command("stage=pretext", f"{key}={tag}", "run.dir=out", *DATA, *TRAINER)
    text = (base / "study.yaml").read_text()
    text = text + f"\nplots: {tag}\n" if where == "study" else text.replace("common:", f"common:\n  data.hole: {tag}")
    Path("x.yaml").write_text(text)
    return f"{tag} in a {where}", command("study", "x.yaml", "out=out", "--dry-run")


CLASSES: list[Any] = [
    {"class_path": "evilmod.E"},
    {"class_path": "os.system", "init_args": {"command": "touch x"}},
    {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "x"]}},
    {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"on_fit_start": "os.system"}},
    {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"on_fit_start": "evilmod.E"}},
    {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": "outside"}},
    {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "outside"}},
    {"class_path": "lightning.pytorch.profilers.SimpleProfiler", "init_args": {"dirpath": "outside", "filename": "x"}},
]


def foreign_run(rng: Random, base: Path) -> tuple[str, Callable[[], Any]]:
    """`resume=` of a run whose configuration names classes, or places to write to."""
    stage = rng.choice(("pretext", "downstream"))
    shutil.copytree(base / stage, "run")
    path = Path("run", "config.yaml")
    config = yaml.safe_load(path.read_text())
    entry = rng.choice(CLASSES)
    where = rng.choice(("callbacks", "logger", "profiler", "strategy", "plugins", "task", "encoder", "root", "data"))
    if where == "task":
        config["model"]["tasks"] = ["evilmod.E"]
    elif where == "encoder":
        config["model"]["encoder"] = "evilmod.E"
    elif where == "root":
        config["trainer"]["default_root_dir"] = "outside"
        config["run"] = (config.get("run") or {}) | {"dir": "outside"}
        config["trainer"]["logger"] = True
    elif where == "data":
        config["data"] = rng.choice(({"class_path": "evilmod.E"}, config["data"] | {"class_path": "evilmod.E"}))
    else:
        config["trainer"][where] = [entry] if where in ("callbacks", "plugins", "logger") else entry
    path.write_text(yaml.safe_dump(config))
    door = rng.choice(("last.ckpt", "best.ckpt", "folder", "auto", "test"))
    resume = {"folder": ["resume=run"], "auto": ["resume=auto", "run.dir=run", f"stage={stage}"]}
    words = resume.get(door, [f"resume=run/{door}"])
    if door == "test":
        go = command("test", "ckpt=run/best.ckpt", "accelerator=cpu")
    else:
        go = command(*words, "trainer.max_steps=3", "trainer.accelerator=cpu", *DATA[-1:])

    def run() -> None:
        try:
            go()
        finally:
            if Path("outside").exists() or Path("x").exists():
                raise LetIn(f"{where} of a resumed run wrote outside of it")

    return f"{where}: {entry if where in config['trainer'] else ''} by {door}", run


def external_weights(rng: Random, base: Path) -> tuple[str, Callable[[], Any]]:
    """An ONNX file that takes files outside of its folder for weights."""
    import onnx
    from onnx import TensorProto, helper

    Path("secret.bin").write_bytes(bytes(12))
    Path("model").mkdir()
    location = rng.choice(("secret.bin", "../secret.bin", str(Path("secret.bin").resolve()), "../case/secret.bin"))
    if rng.random() < 0.3:
        Path("model", "secret.bin").symlink_to("../secret.bin")
        location = "secret.bin"
    weight = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[1, 3, 1, 1])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "12")):
        weight.external_data.add(key=key, value=value)
    nodes = [helper.make_node("Add", ["image", "weight"], ["output"])]
    model = onnx_model(onnx_inputs(), nodes, onnx_metadata(), (weight,))
    Path("model", "model.onnx").write_bytes(model.SerializeToString())
    assert onnx is not None
    go = _inpaint(base, "model/model.onnx")

    def run() -> None:
        go()
        raise LetIn(f"{location} was read as weights")

    return location, run


def endless(rng: Random, base: Path) -> tuple[str, Callable[[], Any]]:
    """An ONNX file that never ends, asks for all memory, or gives no picture."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from wssl_pl.models import onnx as module

    module.TIME_LIMIT_S = 1.0  # instead of half a minute
    one = numpy_helper.from_array(np.array(1, np.int64), "one")
    kind = rng.choice(("loop", "memory", "channels", "nan", "shape"))
    if kind == "loop":
        value = helper.make_tensor_value_info
        body = helper.make_graph(
            [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Sin", ["x"], ["x2"])],
            "body",
            [
                value("i", TensorProto.INT64, []),
                value("c", TensorProto.BOOL, []),
                value("x", TensorProto.FLOAT, None),
            ],
            [value("c2", TensorProto.BOOL, []), value("x2", TensorProto.FLOAT, None)],
        )
        count = numpy_helper.from_array(np.array(2**62, np.int64), "count")
        true = numpy_helper.from_array(np.array(True), "true")
        nodes = [helper.make_node("Loop", ["count", "true", "image"], ["output"], body=body)]
        more: tuple[Any, ...] = (count, true)
    elif kind == "memory":
        shape = numpy_helper.from_array(np.array([1, 3, 100_000, 100_000], np.int64), "shape")
        value = numpy_helper.from_array(np.array([0.5], np.float32), "value")
        nodes, more = [helper.make_node("Expand", ["value", "shape"], ["output"])], (shape, value)
    elif kind == "channels":
        nodes, more = [helper.make_node("Concat", ["image", "mask"], ["output"], axis=1)], ()
    elif kind == "nan":
        zero = numpy_helper.from_array(np.zeros((1, 1, 1, 1), np.float32), "zero")
        nodes = [helper.make_node("Mul", ["image", "zero"], ["black"])]
        nodes.append(helper.make_node("Div", ["black", "zero"], ["output"]))
        more = (zero,)
    else:
        nodes, more = [helper.make_node("ReduceMean", ["image"], ["output"], axes=[2], keepdims=1)], ()
    model = onnx_model(onnx_inputs(), nodes, onnx_metadata() if rng.random() < 0.7 else {}, (one, *more))
    onnx.save(model, "model.onnx")
    go = _inpaint(base, "model.onnx")

    def run() -> None:
        go()
        if kind in ("channels", "nan", "shape"):
            raise LetIn(f"a graph that gives no picture ({kind}) was taken for one")

    return kind, run


def _inpaint(base: Path, ckpt: str) -> Callable[[], Any]:
    picture = [f"photo={base / 'pictures' / 'rgb.png'}", f"mask={base / 'holes' / 'mask.png'}", "out=out.png"]
    return command("inpaint", *picture, f"ckpt={ckpt}", "device=cpu")


def links(rng: Random, base: Path) -> tuple[str, Callable[[], Any]]:
    """Links planted where a command writes."""
    Path("victim").write_text("precious")
    Path("out").mkdir()
    model = base / "model.safetensors"
    photo = [f"photo={base / 'pictures' / 'rgb.png'}", f"mask={base / 'holes' / 'mask.png'}"]
    go, names = rng.choice(
        (
            (command("inpaint", *photo, "out=out/b.png", f"ckpt={model}", "overwrite=true"), ["b.png"]),
            (command("export", "safetensors", f"ckpt={model}", "out=out", "overwrite=true"),
             ["model.safetensors", "config.json", "README.md"]),
            (command("evaluate", f"pairs={base / 'pairs'}", "method=mean", "out=out", "limit=1", "overwrite=true"),
             ["summary.json", "per_image.parquet", "report.md"]),
            (command("masks", "stats", base / "masks", "out=out/s.png", "size=16", "overwrite=true"), ["s.png"]),
            (command("prepare", f"images={base / 'images'}", "out=out", "size=16", "workers=0"), ["manifest.json"]),
        )
    )  # fmt: skip
    name = Path(rng.choice(names))
    planted = f".{name.stem}.{os.getpid()}.part{name.suffix}" if rng.random() < 0.7 else name.name
    Path("out", planted).symlink_to(Path("victim").resolve())
    return planted.replace(str(os.getpid()), "PID"), go


def cache_escapes(rng: Random, base: Path) -> tuple[str, Callable[[], Any]]:
    """A cache whose manifest names files outside of it."""
    from wssl_pl.data.cache import digest

    shutil.copytree(base / "cache", "inner/cache")
    path = Path("inner/cache/manifest.json")
    manifest = json.loads(path.read_text())
    part = rng.choice(("images", "index"))
    name = manifest[part]["file"]
    shutil.copy(Path("inner/cache", name), name)
    manifest[part]["file"] = rng.choice((f"../../{name}", str(Path(name).resolve())))
    manifest["sha256"] = digest(manifest)
    path.write_text(json.dumps(manifest))
    go = command("prepare", "--check", "out=inner/cache")

    def run() -> None:
        go()
        raise LetIn(f"the {part} of a cache was read outside of it")

    return part, run


ATTEMPTS = {
    function.__name__: function
    for function in (pickles, tags, foreign_run, external_weights, endless, links, cache_escapes)
}
