"""Damaged model files, checkpoints, indices, caches, pairs, results, studies and configurations; mistyped commands."""

import csv
import hashlib
import io
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml

from tests.fuzz.mutations import HOSTILE, as_json, as_yaml, damage, damage_value
from tests.fuzz.runner import Case, LetIn, Lost, MakeCase
from tests.fuzz.seeds import DATA, TRAINER, onnx_inputs, onnx_metadata, onnx_model

INPAINT = "inpaint", "evaluate", "export", "look"


def command(*words: object) -> Callable[[], Any]:
    """Return a function that runs a command line of `wssl`."""
    from wssl_pl.cli import main

    return lambda: main([str(word) for word in words])


def damage_file(rng: Random, path: Path) -> str:
    """Damage a file in place, JSON and YAML half of the time by its values; return its name."""
    content = path.read_bytes()
    if path.suffix in (".json", ".yaml") and rng.random() < 0.6:
        read, write = (json.loads, as_json) if path.suffix == ".json" else (yaml.safe_load, as_yaml)
        path.write_text(write(damage_value(rng, read(content))))
    elif rng.random() < 0.03:
        path.unlink()
    elif rng.random() < 0.03:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(damage(rng, content))
    return path.name


def _use_model(rng: Random, base: Path, path: Path) -> tuple[str, Callable[[], Any]]:
    """Return a door for a model file of the downstream stage, and what is run there."""
    door = rng.choice(INPAINT)
    if door == "inpaint":
        words = [f"photo={base / 'pictures' / 'rgb.png'}", f"mask={base / 'holes' / 'mask.png'}", "out=out.png"]
        return door, command("inpaint", *words, f"ckpt={path}", "device=cpu")
    if door == "evaluate":
        words = [f"pairs={base / 'pairs'}", f"ckpt={path}", "out=out", "accelerator=cpu", "limit=2"]
        return door, command("evaluate", *words)
    if door == "export":
        return door, command("export", "safetensors", f"ckpt={path}", "out=out.safetensors")
    from wssl_pl.app.models import Models

    return door, lambda: Models(path, device="cpu").get("")


# Model files.


def safetensors(rng: Random, base: Path) -> Case:
    """A safetensors file or an exported folder."""
    if rng.random() < 0.3:
        path = Path(shutil.copytree(base / "exported", "exported"))
        name = damage_file(rng, path / rng.choice(("config.json", "config.json", "model.safetensors")))
    else:
        path, name = Path("model.safetensors"), "model.safetensors"
        content = (base / name).read_bytes()
        size = struct.unpack("<Q", content[:8])[0]
        header, data = content[8 : 8 + size], content[8 + size :]
        kind = rng.randrange(5)
        if kind == 0:
            content = damage(rng, content)
        elif kind == 1:
            content = _with_header(damage(rng, header), data)
        elif kind == 2:
            content = _with_header(as_json(damage_value(rng, json.loads(header))).encode(), data)
        elif kind == 3:  # the settings, which are JSON in JSON
            values = json.loads(header)
            part = rng.choice(("hyper_parameters", "training"))
            values["__metadata__"][part] = as_json(damage_value(rng, json.loads(values["__metadata__"][part])))
            content = _with_header(as_json(values).encode(), data)
        else:  # weights that are no numbers
            content = _with_header(header, rng.choice((b"\xff", b"\x7f", b"\x80\x7f")) * len(data))[: len(content)]
        path.write_bytes(content)
    door, run = _use_model(rng, base, path)
    return Case(run, ("out", "out.png", "out.safetensors"), f"{name} to {door}")


def _with_header(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def onnx(rng: Random, base: Path) -> Case:
    """An ONNX file: damaged bytes, or another graph."""
    from onnx import TensorProto, helper, numpy_helper, save

    path = Path("model.onnx")
    kind = rng.randrange(8)
    name = rng.choice(("model.onnx", "foreign.onnx"))
    if kind <= 3:
        path.write_bytes(damage(rng, (base / name).read_bytes()))
    elif kind == 4:
        metadata = onnx_metadata()
        part = rng.choice(sorted(metadata))
        metadata[part] = as_json(damage_value(rng, json.loads(metadata[part])))
        nodes = [helper.make_node("Add", ["image", "mask"], ["output"])]
        save(onnx_model(onnx_inputs(), nodes, metadata), path)
    else:
        values = np.full((1, rng.choice((1, 3, 4)), 1, 1), rng.choice((0.5, np.nan, np.inf, 1e30)), np.float32)
        weight = numpy_helper.from_array(values, "weight")
        op = rng.choice(("Add", "Mul", "Div", "Pow", "MatMul", "Concat"))
        attributes = {"axis": rng.choice((0, 1, 2, 9))} if op == "Concat" else {}
        nodes = [helper.make_node(op, [rng.choice(("image", "mask")), "weight"], ["output"], **attributes)]
        if rng.random() < 0.2:
            huge = numpy_helper.from_array(np.array([1, 3, 10**5, 10**5]), "huge")
            nodes = [helper.make_node("Expand", ["weight", "huge"], ["output"])]
            save(onnx_model(onnx_inputs(), nodes, onnx_metadata(), (weight, huge)), path)
            door, run = _use_model(rng, base, path)
            return Case(run, ("out", "out.png"), f"huge output to {door}")
        inputs: dict[str, list[Any]] = dict(onnx_inputs())
        if rng.random() < 0.3:
            inputs[rng.choice(("image", "mask"))] = rng.choice(([3], [], ["B", 4, "H", "W"], [1, 3, 0, 0], ["B"]))
        metadata = onnx_metadata() if rng.random() < 0.5 else {}
        model = onnx_model(inputs, nodes, metadata, (weight,))
        if rng.random() < 0.2:
            model.graph.input[0].type.tensor_type.elem_type = rng.choice((TensorProto.STRING, TensorProto.INT64))
        save(model, path)
    door, run = _use_model(rng, base, path)
    return Case(run, ("out", "out.png"), f"{name} to {door}")


def checkpoint(rng: Random, base: Path) -> Case:
    """A checkpoint of either stage: damaged bytes, or damaged values."""
    import torch

    stage = rng.choice(("pretext", "downstream"))
    run = Path(shutil.copytree(base / stage, "run"))
    path = run / rng.choice(("best.ckpt", "last.ckpt"))
    if rng.random() < 0.4:
        words = damage_file(rng, path)
    else:
        content = torch.load(path, map_location="cpu", weights_only=True)
        words = _damage_checkpoint(rng, content)
        torch.save(content, path)
    doors = ["resume", "test", "downstream" if stage == "pretext" else "model", "model"]
    door = rng.choice(doors)
    if door == "resume":
        go = command(f"resume={path}", "trainer.max_steps=3")
    elif door == "test":
        go = command("test", f"ckpt={path}", "accelerator=cpu")
    elif door == "downstream":
        data = [f"data.images={base / 'images'}", f"data.masks={base / 'masks'}", *DATA]
        go = command("stage=downstream", f"ckpt={path}", "run.dir=out", *data, *TRAINER)
    else:
        door, go = _use_model(rng, base, path)
    return Case(go, ("run", "out", "out.png", "out.safetensors"), f"{stage} {path.name} ({words}) to {door}")


def _damage_checkpoint(rng: Random, content: dict[str, Any]) -> str:
    import torch

    kind = rng.randrange(4)
    if kind == 0:
        key = rng.choice(sorted(content))
        if key == "state_dict":
            content[key] = rng.choice(HOSTILE)
        else:
            content[key] = damage_value(rng, content[key]) if rng.random() < 0.7 else rng.choice(HOSTILE)
        return f"another {key}"
    if kind == 1:
        key = rng.choice(("hyper_parameters", "datamodule_hyper_parameters", "stage"))
        content[key] = damage_value(rng, content.get(key))
        return f"another {key}"
    if kind == 2:
        key = rng.choice(sorted(content))
        del content[key]
        return f"without {key}"
    state = content["state_dict"]
    key = rng.choice(sorted(state))
    value = state[key]
    change = rng.choice(("nan", "shape", "type", "gone", "renamed", "no tensor"))
    if change == "nan":
        state[key] = torch.full_like(value, float("nan")) if value.is_floating_point() else value - 1
    elif change == "shape":
        state[key] = rng.choice((value[None], value.flatten(), value.new_zeros(0), value.new_zeros(1, 2, 3)))
    elif change == "type":
        state[key] = value.to(rng.choice((torch.int8, torch.complex64, torch.bool, torch.float64)))
    elif change == "no tensor":
        state[key] = rng.choice(HOSTILE)
    else:
        state.pop(key)
        if change == "renamed":
            state[f"{key}.x"] = value
    return f"weights: {change}"


# Data.


def _module(base: Path, **options: Any) -> Any:
    from wssl_pl.data import WSSLDataModule

    return WSSLDataModule(
        **{"images": str(base / "images"), "masks": str(base / "masks")} | options,
        image_size=32, resize=36, batch_size=2, num_workers=0,
    )  # fmt: skip


def masks(rng: Random, base: Path) -> Case:
    """The hidden index of a folder of masks: whatever it holds, the masks are those of the files."""
    from wssl_pl.data.masks import MaskIndex, scan_masks

    folder = Path(shutil.copytree(base / "masks", "masks"))
    index = rng.choice(sorted(folder.glob(".wssl-masks-32-*")))
    hole = index.name.split("-")[3]
    if rng.random() < 0.05:
        index.unlink()
        index.mkdir()
    else:
        other = base / "results" / "mean" / "per_image.parquet"
        index.write_bytes(damage(rng, index.read_bytes(), [other.read_bytes()]))

    def run() -> None:
        files = sorted(folder.rglob("*.png"))
        known = MaskIndex(folder, 32, hole, 0)
        scan, whole = (scan_masks(files, 32, hole, (0.1, 0.9), 0, index) for index in (known, None))
        known.save(files)
        if (scan.masks.bits != whole.masks.bits).any() or (scan.ratios != whole.ratios).any():
            raise Lost("other masks")

    return Case(run, (f"masks/{index.name}",), index.name)


def cache(rng: Random, base: Path) -> Case:
    """A prepared cache, finished or not."""
    folder = Path(shutil.copytree(base / "cache", "cache"))
    manifest_path = folder / "manifest.json"
    manifest = json.loads(manifest_path.read_text())
    target = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    words = target.suffix
    if target == manifest_path and rng.random() < 0.7:
        manifest = damage_value(rng, manifest)
        words = "forged manifest"
        _sign(manifest_path, manifest)
    elif target.suffix == ".parquet" and rng.random() < 0.5:
        _forge_index(rng, target, manifest)
        _sign(manifest_path, manifest)
        words = "forged index"
    else:
        damage_file(rng, target)
    door = rng.choice(("check", "again", "train"))
    if door == "check":
        run = command("prepare", "--check", "out=cache")
    elif door == "again":
        run = command("prepare", f"images={base / 'images'}", "out=cache", "size=36", "workers=0")
    else:

        def run() -> None:
            data = _module(base, images="cache")
            data.setup("fit")
            next(iter(data.train_dataloader()))

    return Case(run, ("cache",), f"{words} of a cache to {door}")


def _sign(path: Path, manifest: Any) -> None:
    """Write a manifest with a right digest, as who forges one does."""
    from wssl_pl.data.cache import digest

    try:
        manifest["sha256"] = digest(manifest)
    except (TypeError, AttributeError, ValueError):
        pass
    path.write_text(as_json(manifest))


def _forge_index(rng: Random, path: Path, manifest: Any) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    table = parquet.read_table(path)
    rows = damage_value(rng, table.to_pylist())
    try:
        table = pa.Table.from_pylist(rows, schema=table.schema)
    except Exception:
        try:
            table = pa.Table.from_pylist([{key: str(value) for key, value in row.items()} for row in rows])
        except Exception:
            table = table.slice(1)
    parquet.write_table(table, path)
    manifest["index"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()


def pairs(rng: Random, base: Path) -> Case:
    """A folder of pairs."""
    folder = Path(shutil.copytree(base / "pairs", "pairs"))
    target = rng.choice((folder / "pairs.csv", folder / "manifest.json", rng.choice(sorted(folder.rglob("*.png")))))
    words = target.name
    manifest_path = folder / "manifest.json"
    escapes = False
    if target.suffix == ".csv" and rng.random() < 0.7:
        with target.open(newline="") as file:
            rows = [list(row) for row in csv.reader(file)]
        if rng.random() < 0.2:
            shutil.copy(folder / rows[1][1], "outside.png")
            rows[1][1] = rng.choice(("../outside.png", str(Path("outside.png").resolve())))
            escapes, words = True, "a file outside"
        else:
            rows = damage_value(rng, rows)
        text = io.StringIO()
        try:
            csv.writer(text, lineterminator="\n").writerows(rows)
        except (csv.Error, TypeError):
            text.write(str(rows))
        target.write_text(text.getvalue())
        manifest = json.loads(manifest_path.read_text())
        manifest["pairs_csv_sha256"] = hashlib.sha256(target.read_bytes()).hexdigest()
        manifest_path.write_text(json.dumps(manifest))
    else:
        damage_file(rng, target)
    go = command("evaluate", "pairs=pairs", "method=mean", "out=out", "limit=2", "accelerator=cpu")

    def run() -> None:
        go()
        if escapes:
            raise LetIn("a file outside of the folder of pairs was read")

    return Case(run, ("out",), f"{words} of pairs")


def results(rng: Random, base: Path) -> Case:
    """The results of an evaluation, to compare and for a model card."""
    for name in ("mean", "model"):
        shutil.copytree(base / "results" / name, name)
    target = Path("model", rng.choice(("summary.json", "summary.json", "per_image.parquet")))
    words = damage_file(rng, target)
    if rng.random() < 0.6:
        order = ["mean", "model"] if rng.random() < 0.5 else ["model", "mean"]
        return Case(command("evaluate", "--compare", *order, "out=out"), ("out",), f"{words} to compare")
    model = f"ckpt={base / 'model.safetensors'}"
    return Case(command("export", "safetensors", model, "figures=model", "out=out"), ("out",), f"{words} to a card")


# Studies.


def study(rng: Random, base: Path) -> Case:
    """The folder of a study."""
    from wssl_pl.study import cost

    cost.BUDGET_S = 0.0  # no training steps are measured for the plan
    folder = Path(shutil.copytree(base / "study", "study"))
    names = ["study.json", "plan.json", "status.json", "curve.json", "summary.json", "per_image.parquet"]
    target = rng.choice(sorted(folder.rglob(rng.choice(names))))
    words = damage_file(rng, target)
    go, door = rng.choice(
        (
            (command("study", "report", "study"), "report"),
            (command("study", "report", "study", "out=out"), "report out="),
            (command("study", "resume", "study", "--dry-run"), "resume"),
        )
    )
    return Case(go, ("study/report", "out"), f"{words} of a study to {door}")


def definition(rng: Random, base: Path) -> Case:
    """The definition of a study."""
    from wssl_pl.cli import study as cli

    cli.print_plan = lambda *_: None  # type: ignore[assignment]
    path = Path("study.yaml")
    shutil.copy(base / "study.yaml", path)
    damage_file(rng, path)
    return Case(command("study", "study.yaml", "--dry-run"), (), "a definition")


# Configurations and command lines.


def config(rng: Random, base: Path) -> Case:
    """A run's configuration, given as `config=`."""
    stage = rng.choice(("pretext", "downstream"))
    path = Path("config.yaml")
    values = yaml.safe_load((base / stage / "config.yaml").read_text())
    if rng.random() < 0.2:
        path.write_bytes(damage(rng, (base / stage / "config.yaml").read_bytes()))
    else:
        path.write_text(as_yaml(damage_value(rng, values)))
    small = [*DATA, "trainer.max_steps=1", f"data.images={base / 'images'}", "run.dir=out", "trainer.accelerator=cpu"]
    typed = rng.sample(small[:-3], rng.randrange(len(small) - 2)) + small[-3:]
    return Case(command("config=config.yaml", "trainer.max_steps=1", *typed), ("out", "runs"), f"{stage} config")


def line(rng: Random, base: Path) -> Case:
    """A command line with one to three changes."""
    words = [str(word) for word in rng.choice(_lines(base))]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(1, len(words)) if len(words) > 1 and rng.random() < 0.9 else 0
        key, mark, value = words[at].partition("=")
        kind = rng.randrange(9)
        if mark and kind <= 4:
            words[at] = f"{key}={rng.choice(VALUES)}"
        elif mark and kind == 5:
            words[at] = f"{key}={damage(rng, value.encode()).decode(errors='replace')}"
        elif kind == 6:
            words[at] = damage(rng, words[at].encode()).decode(errors="replace")
        elif kind == 7:
            words.insert(at, rng.choice((words[at], "--help", "--print_config", "--", "-x", "=", "a=b=c", "--x")))
        elif len(words) > 1:
            del words[at]
    words = [word.replace("\0", "") for word in words if not word.startswith("demo")]
    if words[:1] == ["study"] and words[1:2] != ["report"]:
        words.append("--dry-run")  # a study itself is not tried here: it takes minutes
    # A line that has lost the options of a short training is short all the same.
    os.environ |= {"WSSL_TRAINER__MAX_STEPS": "2", "WSSL_DATA__LIMIT": "8", "WSSL_DATA__IMAGE_SIZE": "32"}
    outputs = ("out", "out.png", "out.safetensors", "run", "mask_ratios.png", "show_data.png", "runs")
    shutil.copytree(base / "pretext", "run")
    return Case(command(*words), outputs, f"wssl {' '.join(words)}"[:300])


VALUES = [
    "", "none", "null", "0", "-1", "1", "2", "3.5", "1e-9", "nan", "inf", "1e400", "true", "x", "[]", "[x]", "[1,2]",
    "{}", "{a: b}", "{", "[", "'", "..", "/", "/dev/null", "/nowhere/x", "é", "\u202e", "a" * 3000, "!!python/none",
    "${x}", "%s", "~", "*x", "&x", "-", "a,b", "auto", "last", "2147483648", "99999999999999999999",
]  # fmt: skip


def _lines(base: Path) -> list[list[Any]]:
    data = [f"images={base / 'images'}", f"masks={base / 'masks'}", *(word.removeprefix("data.") for word in DATA)]
    train = [f"data.images={base / 'images'}", f"data.masks={base / 'masks'}", *DATA, *TRAINER, "run.dir=out"]
    model, photo = base / "model.safetensors", base / "pictures" / "rgb.png"
    return [
        ["inpaint", f"photo={photo}", f"mask={base / 'holes' / 'mask.png'}", "out=out.png", f"ckpt={model}",
         "hole=white", "dilate=1", "resize_mask=false", "device=cpu", "max_megapixels=50", "overwrite=false"],
        ["inpaint", base / "pictures" / "rgba.png", "-o", "out.png", f"ckpt={model}", "hole_color=#ff00ff"],
        ["inpaint", base / "images" / "train", base / "images" / "val", "out=out", f"ckpt={model}"],
        ["evaluate", f"pairs={base / 'pairs'}", "out=out", f"ckpt={model}", "limit=2", "batch_size=2", "seed=0",
         "accelerator=cpu", "precision=32-true", "allow_missing=false", "size=64", "range=0-1"],
        ["evaluate", f"pairs={base / 'pairs'}", "out=out", "method=telea", "limit=2"],
        ["evaluate", "--compare", base / "results" / "mean", base / "results" / "model", "out=out"],
        ["test", f"ckpt={base / 'pretext' / 'best.ckpt'}", "accelerator=cpu", "data.limit=4"],
        ["test", f"ckpt={base / 'downstream' / 'best.ckpt'}", "accelerator=cpu", "out=out", "batch_size=2"],
        ["export", "safetensors", f"ckpt={model}", "out=out", "half=true", "title=a", "data=b", "license=c"],
        ["export", "onnx", f"ckpt={model}", "out=out/x.onnx", "data.resize=36"],
        ["prepare", f"images={base / 'images'}", "out=out", "size=32", "workers=0", "split_rule=auto",
         "resize_filter=area", "check=false"],
        ["masks", "stats", base / "masks", "out=out.png", "size=32", "dilate=1", "overwrite=true"],
        ["masks", "make", "out=out", "count=2", "seed=0", "overwrite=false"],
        ["show", "data", "out=out.png", "split=val", "count=2", "epoch=1", *data],
        ["pairs", "out=out", "split=test", "by=draw", *data],
        ["study", base / "study.yaml", "out=out", "--dry-run", "seeds=0,1", "arms=frozen", "steps.pretext=3",
         "parallel=1", "tune=none", "data.limit=4", "downstream.model.lr=1e-3", "validations=1"],
        ["study", "report", base / "study", "out=out"],
        ["runs", base],
        ["runs", base / "pretext", "sort=x"],
        ["stage=pretext", "tasks=rotation,saturation", "weights=0.5,0.5", "model.width=2", "model.lr=1e-3", *train],
        ["stage=pretext", "tasks=rotation", "weighting=uncertainty", "model.width=2", "run.monitor=val/loss", *train],
        ["stage=downstream", f"ckpt={base / 'pretext' / 'best.ckpt'}", "loss=wssl", "freeze_layers=4", *train],
        ["resume=run/last.ckpt", "trainer.max_steps=3", "seed_everything=0"],
        ["stage=pretext", "tasks=rotation", "--help", *train],
        ["--version"],
    ]  # fmt: skip


FAMILIES: dict[str, tuple[MakeCase, int]] = {
    "safetensors": (safetensors, 350),
    "onnx": (onnx, 350),
    "masks": (masks, 300),
    "study": (study, 350),
    "definition": (definition, 400),
    "cache": (cache, 350),
    "pairs": (pairs, 250),
    "results": (results, 250),
    "checkpoint": (checkpoint, 450),
    "line": (line, 450),
    "config": (config, 150),
}
