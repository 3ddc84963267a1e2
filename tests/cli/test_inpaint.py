import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.inference.fakes import Hostile, hostile_files, plane, square, tiny_onnx
from tests.inference.test_photo import bomb, exif_block
from tests.models.test_foreign_onnx import lama
from tests.processes import PATIENCE_S, wait_until
from wssl_pl.cli import main
from wssl_pl.files import owned
from wssl_pl.inference import folder as folder_module
from wssl_pl.models.info import SHIPPED

HOLE = square(60, 80, 20, 30, 16)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to work in, with a model, a photo and its mask."""
    monkeypatch.chdir(tmp_path)
    tiny_onnx(tmp_path / "model.onnx")
    Image.fromarray(plane(60, 80)).save("photo.png")
    Image.fromarray(HOLE).save("mask.png")
    return tmp_path


def inpaint(*words, model="ckpt=model.onnx"):
    main(["inpaint", *words, model])


@pytest.fixture
def refused(capsys):
    """Runs `wssl inpaint`, which has to fail, and returns what it says; nothing is written."""

    def run(*words, code=2, lines=1, **kwargs):
        before = sorted(Path().rglob("*"))
        with pytest.raises(SystemExit) as stopped:
            inpaint(*words, **kwargs)
        assert stopped.value.code == code
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ")
        assert len(error.splitlines()) == lines
        if code == 2:
            assert sorted(Path().rglob("*")) == before
        return error

    return run


def pixels(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("bits", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_known_pixels_come_back_bit_by_bit(place, bits, channels, capsys):
    photo = np.random.default_rng(0).integers(0, np.iinfo(bits).max, (60, 80, channels), bits)
    cv2.imwrite("photo.png", photo)
    inpaint("photo.png", "mask.png", "-o", "filled.png")
    filled = pixels("filled.png").reshape(photo.shape)
    assert filled.dtype == bits
    assert np.array_equal(filled[~HOLE], photo[~HOLE])
    assert not np.array_equal(filled[HOLE][:, :1], photo[HOLE][:, :1])
    if channels == 4:
        assert (filled[HOLE][:, 3] == np.iinfo(bits).max).all()
    said = capsys.readouterr().out
    assert "Model: model.onnx (width 16, trained at 128 px) on cpu" in said
    assert "Written filled.png" in said
    assert "lossy" not in said


def test_the_licence_of_the_shipped_weights_is_printed_where_they_are_used(place, capsys):
    inpaint("photo.png", "mask.png", "-o", "own.png")
    assert "non-commercial" not in capsys.readouterr().out
    main(["inpaint", "photo.png", "mask.png", "-o", "shipped.png", "device=cpu"])
    assert "Weights of the shipped model: for non-commercial research only" in capsys.readouterr().out
    shutil.copy(SHIPPED, "copy.safetensors")
    main(["inpaint", "photo.png", "mask.png", "-o", "copy.png", "device=cpu", "ckpt=copy.safetensors"])
    assert "Weights of the shipped model: for non-commercial research only" in capsys.readouterr().out


def test_a_line_says_that_a_photo_is_cmyk(place, capsys):
    Image.fromarray(plane(60, 80)).convert("CMYK").save("photo.jpg")
    inpaint("photo.jpg", "mask.png", "-o", "filled.png")
    assert "Note: photo.jpg is CMYK without a colour profile" in capsys.readouterr().out


def test_an_oriented_photo_keeps_its_tag_and_every_known_pixel(place):
    Image.fromarray(plane(80, 60)).save("photo.png", exif=exif_block(6))
    inpaint("photo.png", "mask.png", "out=filled.png")
    with Image.open("photo.png") as before, Image.open("filled.png") as after:
        assert after.getexif()[0x0112] == 6
        shown_before, shown_after = (np.asarray(ImageOps.exif_transpose(image)) for image in (before, after))
    assert shown_after.shape == (60, 80, 3)
    assert np.array_equal(shown_after[~HOLE], shown_before[~HOLE])


def test_a_jpeg_output_is_said_to_be_lossy(place, capsys):
    inpaint("photo.png", "mask.png", "-o", "filled.jpg")
    assert "filled.jpg is a JPEG, which is lossy" in capsys.readouterr().out


def test_transparent_holes_become_opaque(place):
    alpha = np.where(HOLE, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([plane(60, 80), alpha])).save("photo.png")
    inpaint("photo.png", "-o", "filled.png")
    assert (pixels("filled.png")[..., 3] == 255).all()
    inpaint("photo.png", "-o", "filled.jpg")
    inpaint("photo.png", "mask.png", "-o", "masked.png")
    assert (pixels("masked.png")[..., 3] == 255).all()


def test_a_painted_hole(place):
    painted = plane(60, 80)
    painted[HOLE] = 255, 0, 255
    Image.fromarray(painted).save("painted.png")
    inpaint("painted.png", "-o", "filled.png", "hole_color=#ff00ff", "dilate=1")
    filled = pixels("filled.png")[..., ::-1]
    assert not (filled == (255, 0, 255)).all(axis=-1).any()
    wide = square(60, 80, 19, 29, 18)
    assert np.array_equal(filled[~wide], painted[~wide])


def test_the_output_may_be_a_folder(place):
    Path("results").mkdir()
    inpaint("photo.png", "mask.png", "-o", "results")
    assert Path("results/photo.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "photo: is required"),
        (["photo.png", "mask.png"], "out: is required"),
        (["nowhere.png", "mask.png", "-o", "x.png"], "photo=nowhere.png: does not exist"),
        (["photo.png", "nowhere.png", "-o", "x.png"], "mask=nowhere.png: does not exist"),
        (["photo.png", "-o", "x.png"], "no transparency that marks a hole"),
        (["photo.png", "mask.png", "-o", "x.tif"], "must end in"),
        (["photo.png", "mask.png", "-o", "no/where/x.png"], "the folder no/where does not exist"),
        (["photo.png", "mask.png", "-o", "photo.png", "--overwrite"], "is the photo or the mask itself"),
        (["photo.png", "mask.png", "-o", "./mask.png", "--overwrite"], "is the photo or the mask itself"),
        (["photo.png", "mask.png", "-o", "model.onnx"], "must end in"),
        (["photo.png", "mask.png", "-o", "x.png", "hole=grey"], "hole=grey: must be white or black"),
        (["photo.png", "mask.png", "-o", "x.png", "hole_color=#ff00ff"], "give one of them"),
        (["photo.png", "-o", "x.png", "hole_color=red"], "hole_color=red"),
        (["photo.png", "mask.png", "-o", "x.png", "dilate=-1"], "dilate=-1: must be a whole number of at least 0"),
        (["photo.png", "mask.png", "-o", "x.png", "dilate=much"], "dilate=much"),
        (["photo.png", "mask.png", "-o", "x.png", "max_megapixels=0"], "max_megapixels=0: must be a positive number"),
        (
            ["photo.png", "mask.png", "-o", "x.png", "max_megapixels=0.001"],
            "smaller, or raise max_megapixels=",
        ),
        (["photo.png", "mask.png", "-o", "x.png", "device=tpu"], "device=tpu"),
        (["photo.png", "mask.png", "-o", "x.png", "dilat=3"], "did you mean dilate"),
        (["photo.png", "mask.png", "more.png", "-o", "x.png"], "unexpected 'more.png'"),
        (["photo.png", ".", "-o", "x.png"], "give two files or two folders"),
    ],
)
def test_one_line_and_exit_code_2(place, refused, words, message):
    assert message in refused(*words)


def test_a_model_that_is_not_there_or_not_ours(place, refused):
    words = ("photo.png", "mask.png", "-o", "x.png")
    assert "ckpt=no.ckpt: does not exist" in refused(*words, model="ckpt=no.ckpt")
    assert "ckpt=photo.png" in refused(*words, model="ckpt=photo.png")


def test_an_onnx_file_of_another_project_and_its_convention(place, refused):
    lama("lama.onnx", value=0.25, scale=1.0)
    words = ("photo.png", "mask.png", "-o", "x.png")
    model = "ckpt=lama.onnx"
    assert "model_mask=white: must be hole or known" in refused(*words, "model_mask=white", model=model)
    assert "size=96: the file takes 64 x 64 pixels alone" in refused(*words, "size=96", model=model)
    assert "model_mask=known: is for ONNX files of other projects" in refused(*words, "model_mask=known")
    inpaint("photo.png", "mask.png", "-o", "hole.png", "model_mask=hole", "range=0-1", "size=64", model=model)
    inpaint("photo.png", "mask.png", "-o", "known.png", "model_mask=known", model=model)
    assert abs(np.median(pixels("hole.png")[HOLE]) - 64) < 5
    assert np.abs(pixels("known.png")[HOLE] - 64.0).mean() > 2 * np.abs(pixels("hole.png")[HOLE] - 64.0).mean()


@pytest.mark.parametrize(("name", "side"), [("x.webp", 16_384), ("x.jpg", 65_501)])
def test_what_a_format_cannot_hold_is_refused_before_the_work(place, refused, name, side):
    Image.new("L", (side, 1)).save("wide.png")
    Image.fromarray(np.arange(side)[None] < 9).save("hole.png")
    with patch("wssl_pl.inference.Inpainter.from_checkpoint", side_effect=AssertionError("the model is opened")):
        error = refused("wide.png", "hole.png", "-o", name)
    assert f"pixels a side, the photo has {side} x 1: name a .png file" in error


def test_what_cannot_be_read_or_written(place, refused, read_only):
    Path("closed.png").write_bytes(Path("photo.png").read_bytes())
    Path("closed.png").chmod(0)
    Path("closed").mkdir()
    Path("closed").chmod(0)
    with patch("wssl_pl.inference.Inpainter.from_checkpoint", side_effect=AssertionError("the model is opened")):
        assert "photo=closed.png: cannot be read: Permission denied" in refused("closed.png", "mask.png", "-o", "x.png")
        assert "mask=closed.png: cannot be read: Permission denied" in refused("photo.png", "closed.png", "-o", "x.png")
        assert "photo=closed/a.png: cannot be read" in refused("closed/a.png", "mask.png", "-o", "x.png")
        for out in ("read-only/x.png", "read-only/new", "closed/x.png", "closed/new"):
            words = ("photo.png" if "x" in Path(out).name else "photos", "mask.png", "-o", out)
            Path("photos").mkdir(exist_ok=True)
            Path("photos/a.png").write_bytes(Path("photo.png").read_bytes())
            assert f"out={out}: cannot be written: Permission denied: name another place" in refused(*words)


def test_a_full_disk(place, refused, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    error = refused("photo.png", "mask.png", "-o", "x.png")
    assert error == "error: out=x.png: cannot be written: No space left on device: make room"


def test_masks_that_do_not_fit(place, refused):
    Image.fromarray(HOLE[:50]).save("short.png")
    Image.fromarray(HOLE & False).save("empty.png")
    Image.fromarray(HOLE | True).save("full.png")
    Path("text.png").write_text("hello")
    assert "short.png: is 80 x 50 pixels, the photo 80 x 60" in refused("photo.png", "short.png", "-o", "x.png")
    assert "marks no hole" in refused("photo.png", "empty.png", "-o", "x.png")
    assert "the whole photo" in refused("photo.png", "full.png", "-o", "x.png")
    assert "not a JPEG, PNG, WebP, TIFF or HEIC image" in refused("photo.png", "text.png", "-o", "x.png")
    assert "not a JPEG, PNG, WebP, TIFF or HEIC image" in refused("text.png", "mask.png", "-o", "x.png")
    inpaint("photo.png", "short.png", "-o", "filled.png", "resize_mask=true")
    assert Path("filled.png").is_file()


def test_a_bomb(place, refused):
    bomb(place / "bomb.png")
    assert "above the limit of 100" in refused("bomb.png", "mask.png", "-o", "x.png")
    assert "above the limit of 100" in refused("photo.png", "bomb.png", "-o", "x.png")
    # What Pillow allows by itself was lifted meanwhile, and is back.
    assert Image.MAX_IMAGE_PIXELS is not None


def test_an_output_that_exists(place, refused):
    Path("filled.png").write_text("old")
    assert "add --overwrite" in refused("photo.png", "mask.png", "-o", "filled.png")
    assert Path("filled.png").read_text() == "old"
    os.link("photo.png", "same.png")
    assert "is the photo or the mask itself" in refused("photo.png", "mask.png", "-o", "same.png", "--overwrite")
    inpaint("--overwrite", "photo.png", "mask.png", "-o", "filled.png")
    assert pixels("filled.png").shape == (60, 80, 3)


def test_hostile_models(place, refused, capsys):
    for path in hostile_files(place / "hostile"):
        words = ("photo.png", "mask.png", "-o", "x.png")
        assert str(path) in refused(*words, model=f"ckpt={path}")
        for what, out in (("onnx", "x.onnx"), ("safetensors", "x.safetensors")):
            with pytest.raises(SystemExit) as stopped:
                main(["export", what, f"ckpt={path}", f"out={out}"])
            assert stopped.value.code == 2
            assert str(path) in capsys.readouterr().err
    assert not Path("was_run").exists()
    # The files are what they are said to be: unpickled, they do run code.
    Hostile().__reduce__()[0]()
    assert Path("was_run").exists()


@pytest.fixture
def folders(place):
    for name in ("photos/sub", "masks/sub"):
        Path(name).mkdir(parents=True)
    for name in ("a", "b", "sub/a"):
        Image.fromarray(plane(60, 80)).save(f"photos/{name}.png")
        Image.fromarray(HOLE).save(f"masks/{name}.png")
    Image.fromarray(plane(60, 80)).save("photos/c.jpg")
    Image.fromarray(HOLE).save("masks/c.webp", lossless=True)
    return place


def test_folders_are_paired_by_name(folders, capsys):
    inpaint("photos", "masks", "-o", "filled")
    written = sorted(str(path.relative_to("filled")) for path in Path("filled").rglob("*.*"))
    assert written == ["a.png", "b.png", "c.jpg", "sub/a.png"]
    assert np.array_equal(pixels("filled/sub/a.png")[~HOLE], pixels("photos/sub/a.png")[~HOLE])
    said = capsys.readouterr().out
    assert "Written 4 photos to filled" in said
    assert "1 results are JPEGs, which are lossy" in said


def test_bad_files_do_not_keep_the_others_and_are_listed(folders, refused, capsys):
    Path("photos/bad.png").write_text("no picture")
    Image.fromarray(HOLE).save("masks/bad.png")
    Image.fromarray(HOLE[:50]).save("masks/b.png")
    Image.fromarray(plane(60, 80)).save("photos/alone.png")
    Image.fromarray(HOLE).save("masks/spare.png")
    error = refused("photos", "masks", "-o", "filled", code=1, lines=4)
    assert "3 photos were not filled" in error
    for name in ("alone.png: no mask", "bad.png: is not a JPEG", "80 x 50"):
        assert name in error
    assert sorted(path.name for path in Path("filled").rglob("*.*")) == ["a.png", "a.png", "c.jpg"]


def test_masks_without_a_photo_are_told_of(folders, capsys):
    Image.fromarray(HOLE).save("masks/spare.png")
    inpaint("photos", "masks", "-o", "filled")
    assert "1 masks are without a photo" in capsys.readouterr().out


def test_results_inside_the_folder_of_photos_are_no_photos(folders, capsys):
    inpaint("photos", "masks", "-o", "photos/out")
    first = sorted(Path("photos/out").rglob("*"))
    inpaint("photos", "mask.png", "-o", "photos/out", "--overwrite")
    assert sorted(Path("photos/out").rglob("*")) == first
    assert capsys.readouterr().out.count("Written 4 photos to photos/out") == 2
    shutil.rmtree("photos/out")
    inpaint("photos", "masks", "-o", "masks/out")
    inpaint("photos", "masks", "-o", "masks/out", "--overwrite")
    assert "without a photo" not in capsys.readouterr().out


def test_one_mask_for_all_photos(folders):
    inpaint("photos", "mask.png", "-o", "filled")
    assert len(list(Path("filled").rglob("*.*"))) == 4


def test_folders_that_cannot_be_done(folders, refused):
    Path("empty").mkdir()
    Path("filled").mkdir()
    Image.new("RGB", (9, 9)).save("filled/a.png")
    Image.new("RGB", (9, 9)).save("filled/b.png")
    assert "holds no JPEG, PNG, WebP, TIFF or HEIC" in refused("empty", "masks", "-o", "x")
    assert "no photo has a mask of its name" in refused("photos", "empty", "-o", "x")
    assert "a.png: and 1 more outputs exist already" in refused("photos", "masks", "-o", "filled")
    assert "is a file" in refused("photos", "masks", "-o", "photo.png")
    assert "is the photo or the mask itself" in refused("photos", "masks", "-o", "photos", "--overwrite")
    assert "is the photo or the mask itself" in refused("photos", "masks", "-o", "masks", "--overwrite")
    Image.fromarray(HOLE).save("masks/a.webp", lossless=True)
    assert "masks of one name" in refused("photos", "masks", "-o", "x")


def test_one_command_at_a_time_writes_to_a_folder(folders, refused):
    Path("filled").mkdir()
    with owned(Path("filled")):
        assert "out=filled: is being written by another process" in refused("photos", "masks", "-o", "filled")
    inpaint("photos", "masks", "-o", "filled")
    assert not list(Path("filled").glob(".*"))


def test_what_fails_for_other_reasons_is_listed_too(folders, refused, monkeypatch):
    def write(photo, path):
        if path.name == "b.png":
            raise OSError("no space left on device")
        path.touch()

    monkeypatch.setattr(folder_module, "write_photo", write)
    error = refused("photos", "masks", "-o", "filled", code=1, lines=2)
    assert "photos/b.png: out=filled/b.png: cannot be written: no space left on device" in error


@pytest.mark.parametrize("words", [("photo.png", "mask.png", "-o", "filled.png"), ("photos", "masks", "-o", "filled")])
def test_an_interrupted_write_leaves_no_half_file(folders, capsys, monkeypatch, words):
    save = Image.Image.save

    def interrupted(self, target, *args, **kwargs):
        save(self, target, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(SystemExit) as stopped:
        inpaint(*words)
    assert stopped.value.code == 130
    assert not Path("filled.png").exists()
    assert not [path for path in Path().rglob("*.part*") if path.is_file()]
    assert not list(Path("filled").rglob("*.*"))


@pytest.mark.slow
def test_ctrl_c_in_a_folder(folders):
    Image.fromarray(plane(600, 800)).save("photos/0.png")
    Image.fromarray(np.kron(HOLE, np.ones((10, 10), bool))).save("masks/0.png")
    for number in range(1, 60):
        os.link("photos/0.png", f"photos/{number}.png")
        os.link("masks/0.png", f"masks/{number}.png")
    process = subprocess.Popen(
        [sys.executable, "-m", "wssl_pl", "inpaint", "photos", "masks", "-o", "filled", "ckpt=model.onnx"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # Tests that run in the background ignore Ctrl-C, and would hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    wait_until(lambda: list(Path("filled").glob("*.png")), "its first image", process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, errors
    written = list(Path("filled").rglob("*.*"))
    assert 0 < len(written) < 64
    for path in written:
        assert not path.name.startswith(".")
        assert pixels(path) is not None
    assert b"Traceback" not in errors


def test_the_help_names_every_option(capsys):
    with pytest.raises(SystemExit):
        main(["inpaint", "--help"])
    said = capsys.readouterr().out
    for name in ("out=", "ckpt=", "hole_color=", "dilate=", "resize_mask=", "overwrite=", "device=", "max_megapixels="):
        assert name in said


def test_classical_methods_need_no_model(place, refused, capsys):
    main(["inpaint", "photo.png", "mask.png", "-o", "filled.png", "method=telea"])
    expected = cv2.inpaint(
        np.where(HOLE[..., None], 0, pixels("photo.png")), HOLE.astype(np.uint8), 3, cv2.INPAINT_TELEA
    )
    assert np.abs(pixels("filled.png").astype(int) - expected).max() <= 1  # RGB and BGR
    assert "Method: telea" in capsys.readouterr().out
    words = ("photo.png", "mask.png", "-o", "x.png", "method=magic")
    assert "biharmonic, fsr_fast or fsr_best" in refused(*words)
    for word in ("size=64", "range=0-1", "model_mask=hole"):
        assert "omit it" in refused(*words[:-1], "method=telea", model=word)


def test_several_models_at_once(place, refused, capsys):
    tiny_onnx(place / "bright.onnx", half=0.9)
    words = ("photo.png", "mask.png", "-o", "filled.png", "method=telea,navier_stokes")
    inpaint(*words, model="ckpt=model.onnx,bright.onnx")
    names = ("model", "bright", "telea", "navier_stokes")
    results = {name: pixels(f"filled-{name}.png") for name in names}
    assert not Path("filled.png").exists()
    assert not np.array_equal(results["telea"][HOLE], results["model"][HOLE])
    assert all(np.array_equal(each[~HOLE], pixels("photo.png")[~HOLE]) for each in results.values())
    said = capsys.readouterr().out
    for word in ("Model: model.onnx", "Model: bright.onnx", "Method: telea", "Method: navier_stokes"):
        assert said.count(word) == 1
    assert said.count("Written ") == 4
    assert "filled-model.png: and 3 more outputs exist already" in refused(*words, model="ckpt=model.onnx,bright.onnx")
    Path("filled-bright.png").unlink()
    assert "ckpt=no.onnx: does not exist" in refused("--overwrite", *words, model="ckpt=no.onnx,bright.onnx")
    assert "names one model twice" in refused("--overwrite", *words, model="ckpt=model.onnx,./model.onnx")
    assert "ckpt=shipped,shipped: names one" in refused("--overwrite", *words, model="ckpt=shipped,shipped")


def test_models_of_one_name_have_their_folders_names(place):
    for name in ("first", "second"):
        Path(name).mkdir()
        tiny_onnx(Path(name, "best.onnx"))
    inpaint("photo.png", "mask.png", "-o", ".", model="ckpt=first/best.onnx,second/best.onnx")
    assert {path.name for path in Path().glob("photo-*")} == {"photo-first-best.png", "photo-second-best.png"}
    Path("first/best.onnx").rename("a,b.onnx")
    inpaint("photo.png", "mask.png", "-o", "filled.png", model="ckpt=a,b.onnx")
    assert Path("filled.png").is_file()


def test_several_models_on_a_folder(folders, capsys):
    inpaint("photos", "masks", "-o", "filled", "method=telea")
    written = sorted(str(path.relative_to("filled")) for path in Path("filled").rglob("*.png"))
    assert written == [f"{name}/{photo}.png" for name in ("model", "telea") for photo in ("a", "b", "sub/a")]
    assert "Written 8 photos to filled" in capsys.readouterr().out


def test_feather(place, refused):
    inpaint("photo.png", "mask.png", "-o", "filled.png", "feather=3")
    far = cv2.dilate(HOLE.astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
    before, after = pixels("photo.png"), pixels("filled.png")
    assert np.array_equal(after[far], before[far])
    assert not np.array_equal(after[~HOLE], before[~HOLE])
    assert "feather=99: reaches all known pixels" in refused("photo.png", "mask.png", "-o", "x.png", "feather=99")


def test_masks_made_the_other_way_round_are_told_of_before_the_work(folders, capsys):
    Image.fromarray(~HOLE).save("black.png")
    inpaint("photo.png", "black.png", "-o", "x.png")
    said = capsys.readouterr().out
    assert said.startswith("Note: mask=black.png marks 95% of the photo as hole: if black is the hole, give hole=black")
    for name in ("a.png", "b.png", "sub/a.png"):
        Image.fromarray(~HOLE).save(f"masks/{name}")
    inpaint("photos", "masks", "-o", "filled")
    said = capsys.readouterr().out
    assert said.startswith("Warning: mask=masks marks 72% of the photo as hole: if black is the hole, give hole=black")
    assert said.count("hole=black") == 1
    inpaint("photos", "black.png", "-o", "more", "hole=black")
    assert "if white" not in capsys.readouterr().out


def test_tiff_photos_of_a_folder_become_png(folders, refused):
    Image.fromarray(plane(60, 80)).save("photos/d.tif")
    Image.fromarray(HOLE).save("masks/d.tiff")
    inpaint("photos", "masks", "-o", "filled")
    assert np.array_equal(pixels("filled/d.png")[~HOLE], pixels("photos/d.tif")[~HOLE])
    Image.fromarray(plane(60, 80)).save("photos/a.tif")
    assert "the results of a.png and a.tif would have one name" in refused("photos", "mask.png", "-o", "x")


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 50), (3, 3)])
def test_tiny_photos(place, refused, size):
    pixel = np.zeros(size[::-1], bool)
    pixel[0, 0] = True
    Image.fromarray(pixel).save("dot.png")
    Image.new("RGB", size, "teal").save("tiny.png")
    if size == (1, 1):
        assert "marks the whole photo as hole" in refused("tiny.png", "dot.png", "-o", "x.png")
        return
    for number, method in enumerate((["method=telea"], ["method=biharmonic"], ["ckpt=model.onnx"])):
        main(["inpaint", "tiny.png", "dot.png", "-o", f"{number}.png", *method])
        assert np.array_equal(pixels(f"{number}.png")[~pixel], pixels("tiny.png")[~pixel])


def test_restore(folders, refused, capsys):
    model = Path("restoring.onnx")
    tiny_onnx(model)
    import onnx

    content = onnx.load(model)
    onnx.helper.set_model_props(
        content, {"hyper_parameters": '{"width": 16, "restore": ["blur"]}', "training": '{"image_size": 128}'}
    )
    onnx.save(content, model)
    main(["restore", "photo.png", "-o", "restored.png", f"ckpt={model}"])
    assert np.abs(pixels("restored.png").astype(int) - 128).max() <= 1
    main(["restore", "photos", "masks", "-o", "restored", f"ckpt={model}"])
    assert "Written 4 photos to restored" in capsys.readouterr().out
    assert np.abs(pixels("restored/sub/a.png").astype(int) - 128).max() <= 2
    with pytest.raises(SystemExit) as stopped:
        main(["restore", "photo.png", "-o", "x.png", "ckpt=model.onnx"])
    assert stopped.value.code == 2
    assert "ckpt=model.onnx: fills holes and restores nothing" in capsys.readouterr().err
    assert not Path("x.png").exists()


def test_a_large_photo_shows_its_progress(place, monkeypatch):
    import tqdm

    shown = []

    class Bar(tqdm.tqdm):
        def update(self, pixels):
            shown.append((self.total, pixels))

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    Image.fromarray(plane(200, 2000)).save("wide.png")
    Image.fromarray(square(200, 2000, 50, 10, 20) | square(200, 2000, 50, 1900, 20)).save("two.png")
    inpaint("wide.png", "two.png", "-o", "filled.png")
    assert shown[0][1] < shown[-1][1] == 800
    assert {total for total, _ in shown} == {800}
