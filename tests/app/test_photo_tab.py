"""What the controls of the photo's tab do, called as the page calls them."""

import logging
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from tests.inference.test_photo import bomb
from wssl_pl.app import photo_tab, work
from wssl_pl.app.actions import Settings
from wssl_pl.app.models import Models
from wssl_pl.app.photo_tab import PhotoActions
from wssl_pl.app.storage import MIN_BYTES, Storage
from wssl_pl.inference import Inpainter
from wssl_pl.inference.photo import read_photo
from wssl_pl.modules import MODULES, InpaintModule

NAMES = ("session", "line", "canvas", "slider", "left", "right", "undo", "redo", "results", "download")
MODEL = "today/best.ckpt"
HOLE, SECOND = (slice(10, 25), slice(30, 50)), (slice(30, 40), slice(5, 25))


@pytest.fixture
def settings(ckpt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Settings(Models(ckpt, device="cpu"), [], Storage(tmp_path / "files", 1e9), megapixels=1.0)


@pytest.fixture
def actions(settings):
    return PhotoActions(settings)


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def mask(tmp_path):
    """Uploads a mask, white in boxes."""

    def upload(*boxes, size=(60, 80)):
        pixels = np.zeros(size, np.uint8)
        for box in boxes:
            pixels[box] = 255
        path = tmp_path / f"mask-{len(list(tmp_path.iterdir()))}.png"
        Image.fromarray(pixels).save(path)
        return {"path": str(path)}

    return upload


def seen(outputs):
    assert len(outputs) == len(NAMES)
    return SimpleNamespace(**dict(zip(NAMES, outputs, strict=True)))


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture
def opened(actions, photo):
    return seen(actions.open(None, {"path": str(photo)}))


@pytest.fixture
def filled(actions, opened, mask):
    return seen(actions.fill(opened.session, mask(HOLE), "", 1, MODEL, [], 0, None))


def test_a_photo_is_opened_to_be_painted_on(opened, photo):
    assert opened.line == '<p class="line done" role="status">80 × 60 pixels</p>'
    assert (opened.canvas["width"], opened.canvas["height"], opened.canvas["first"]) == (80, 60, True)
    assert (pixels(opened.canvas["photo"]["path"]) == pixels(photo)).all()
    assert opened.slider is None
    assert [opened.undo["interactive"], opened.redo["interactive"], opened.download["interactive"]] == [False] * 3


def test_painting_goes_on_from_the_result_and_known_pixels_stay(actions, filled, photo, mask):
    again = seen(actions.fill(filled.session, mask(SECOND), "", 1, MODEL, [], 0, None))
    before, first, second = pixels(photo), pixels(filled.download["value"]), pixels(again.download["value"])
    holes = np.zeros(before.shape[:2], bool)
    holes[HOLE] = True
    assert (before[~holes] == first[~holes]).all()
    assert (before[holes] != first[holes]).any(axis=-1).mean() > 0.9
    assert (second[holes] == first[holes]).all()
    holes[SECOND] = True
    assert (before[~holes] == second[~holes]).all()
    assert (before[SECOND] != second[SECOND]).any(axis=-1).mean() > 0.9
    assert Path(again.download["value"]).name == "photo-filled.png"
    assert again.left["choices"] == [("Original", 0), (f"Fill 1: {MODEL}", 1), (f"Fill 2: {MODEL}", 2)]
    assert (again.left["value"], again.right["value"]) == (0, 2)
    assert (pixels(again.canvas["photo"]["path"]) == second).all()


def test_fills_are_undone_with_their_masks_and_redone(actions, filled, opened, mask):
    back = seen(actions.undo(filled.session))
    assert back.canvas["photo"] == opened.canvas["photo"]
    assert Path(back.canvas["mask"]["path"]).name.startswith("mask-")
    assert [back.undo["interactive"], back.redo["interactive"], back.download["interactive"]] == [False, True, False]
    on = seen(actions.redo(back.session))
    assert on.canvas == filled.canvas
    assert on.download == filled.download
    other = seen(actions.fill(back.session, mask(SECOND), "", 1, MODEL, [], 0, None))
    assert not Path(filled.download["value"]).exists()
    assert len(other.session.steps) == 2


def test_several_models_fill_one_mask_and_one_is_chosen_to_go_on_with(actions, opened, mask):
    done = seen(actions.fill(opened.session, mask(HOLE), "", 1, MODEL, ["Telea", "Navier-Stokes", MODEL], 0, None))
    captions = [caption.split(" · ")[0] for _, caption in done.results["value"]]
    assert captions == [MODEL, "Telea", "Navier-Stokes"]
    assert all(caption.endswith(" s") for _, caption in done.results["value"])
    assert done.results["visible"]
    chosen = seen(actions.choose(done.session, SimpleNamespace(index=1)))
    assert chosen.results["selected_index"] == 1
    assert chosen.right["value"] == 2
    assert (pixels(chosen.download["value"]) != pixels(done.download["value"])).any()
    again = seen(actions.fill(chosen.session, mask(SECOND), "", 1, "Telea", [], 0, None))
    assert (pixels(again.download["value"])[HOLE] == pixels(chosen.download["value"])[HOLE]).all()
    slider = actions.compare(again.session, 1, 2)
    assert [Path(path) for path in slider] == [again.session.versions[index].preview for index in (1, 2)]


def test_a_model_that_fails_does_not_stop_the_others(actions, opened, mask):
    done = seen(actions.fill(opened.session, mask(HOLE), "", 1, "no <such>", ["Telea"], 0, None))
    assert len(done.session.versions) == 2
    assert "no &lt;such&gt;: There is no model" in done.line
    for others in (["also none"], ["Telea"] * 2 + list("abcdef")):
        bad = seen(actions.fill(opened.session, mask(HOLE), "", 1, "none", others, 0, None))
        assert 'role="alert"' in bad.line


def test_an_unexpected_error_of_one_model_loses_no_result_of_others(actions, opened, mask, monkeypatch, tmp_path):
    fill = Inpainter.fill

    def broken(self, *args, **options):
        if self.info.name == "navier_stokes":
            raise RuntimeError("CUDA out of memory")
        return fill(self, *args, **options)

    monkeypatch.setattr(Inpainter, "fill", broken)
    before = set((tmp_path / "files").iterdir())
    done = seen(actions.fill(opened.session, mask(HOLE), "", 1, MODEL, ["Navier-Stokes", "Telea"], 0, None))
    assert [caption.split(" · ")[0] for _, caption in done.results["value"]] == [MODEL, "Telea"]
    assert "Navier-Stokes: That went wrong here." in done.line
    assert len(set((tmp_path / "files").iterdir()) - before) == 2


def test_a_hole_that_takes_a_classical_method_too_long_is_refused(actions, opened, mask, monkeypatch):
    monkeypatch.setitem(work.check_hole.__globals__["LARGEST"], "biharmonic", 1e-4)
    bad = seen(actions.fill(opened.session, mask(HOLE), "", 1, "biharmonic", [], 0, None))
    assert "The hole is too large for biharmonic" in bad.line
    assert seen(actions.fill(opened.session, mask(HOLE), "", 1, MODEL, [], 0, None)).session.position == 1


def test_a_soft_edge_blends_around_the_hole_alone(actions, opened, photo, mask):
    done = seen(actions.fill(opened.session, mask(HOLE), "", 1, MODEL, [], 3, None))
    changed = (pixels(done.download["value"]) != pixels(photo)).any(axis=-1)
    assert changed[7:10, 35:45].any()
    changed[7:28, 27:53] = False
    assert not changed.any()
    assert "within 3 pixels are blended" in done.line
    for wrong in (-1, 65, "3", None):
        assert (
            "soft edge must have" in seen(actions.fill(opened.session, mask(HOLE), "", 1, MODEL, [], wrong, None)).line
        )


def test_what_the_model_looked_at_is_framed(actions, filled):
    assert actions.show_windows(filled.session, False)["visible"] is False
    shown = actions.show_windows(filled.session, True)
    framed = pixels(shown["value"])
    assert tuple(framed[0, 0]) == work.FULL  # the whole of a small photo
    assert (framed[30, 40] == pixels(filled.canvas["photo"]["path"])[30, 40]).all()
    assert actions.show_windows(None, True)["visible"] is False


def test_a_mask_of_the_editors_limit_is_enlarged(actions, opened, mask):
    small = mask((slice(5, 12), slice(15, 25)), size=(30, 40))
    done = seen(actions.fill(opened.session, small, "", 1, MODEL, [], 0, None))
    changed = (pixels(done.download["value"]) != pixels(opened.canvas["photo"]["path"])).any(axis=-1)
    assert changed[10:24, 30:50].mean() > 0.9
    assert changed.sum() <= 14 * 20


def jpeg_mask(path):
    grey = np.zeros((60, 80), np.uint8)
    grey[HOLE] = 200
    Image.fromarray(grey).save(path, "JPEG", quality=60)


def test_a_grey_mask_of_jpeg_is_taken_by_the_nearer_of_black_and_white(actions, opened, tmp_path):
    jpeg_mask(tmp_path / "grey.jpg")
    done = seen(actions.fill(opened.session, {"path": str(tmp_path / "grey.jpg")}, "", 1, MODEL, [], 0, None))
    changed = (pixels(done.download["value"]) != pixels(opened.canvas["photo"]["path"])).any(axis=-1)
    assert abs(int(changed.sum()) - 15 * 20) < 30


@pytest.mark.parametrize(
    ("boxes", "size", "message"),
    [
        ([], (60, 80), "marks no hole"),
        ([(slice(None), slice(None))], (60, 80), "marks the whole photo"),
        ([HOLE], (80, 60), "belongs to another photo"),
        ([HOLE], (2000, 2600), "above the limit of 1"),
    ],
)
def test_a_wrong_mask_is_one_line_and_nothing_is_lost(actions, filled, mask, boxes, size, message, tmp_path):
    held = sorted((tmp_path / "files").rglob("*"))
    bad = actions.fill(filled.session, mask(*boxes, size=size), "", 1, MODEL, [], 0, None)
    assert message in bad[1]
    assert str(tmp_path) not in bad[1]
    assert all("value" not in each for index, each in enumerate(bad) if index != 1)
    assert sorted((tmp_path / "files").rglob("*")) == held


def saved(image, **options):
    return lambda path: image.save(path, **options)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_text("no"), "is not a JPEG, PNG, WebP"),
        (saved(Image.new("L", (2000, 600))), "1 million: above the limit of 1"),
        (bomb, "has far more than 1 million pixels"),
        (
            saved(Image.new("RGB", (9, 9)), save_all=True, append_images=[Image.new("RGB", (9, 9), "red")]),
            "is an animation",
        ),
        (lambda path: None, "is gone"),
        (lambda path: path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(99)), "is HEIC, which needs pillow-heif"),
    ],
)
def test_a_bad_photo_is_one_line_and_leaves_the_one_before(actions, filled, tmp_path, monkeypatch, write, message):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    write(tmp_path / "bad.png")
    bad = actions.open(filled.session, {"path": str(tmp_path / "bad.png")})
    assert message in bad[1]
    assert "\n" not in bad[1]
    assert "max_megapixels" not in bad[1]
    assert Path(filled.download["value"]).exists()
    assert seen(actions.undo(filled.session)).session.position == 0


@pytest.mark.parametrize("name", ["a.tif", "cmyk.jpg", "deep.png", "one.png"])
def test_odd_photos_are_opened(actions, tmp_path, name):
    import cv2

    random = np.random.default_rng(0)
    if name == "deep.png":
        cv2.imwrite(str(tmp_path / name), random.integers(0, 65536, (40, 50, 3), np.uint16))
    elif name == "one.png":
        Image.new("RGB", (1, 1)).save(tmp_path / name)
    else:
        mode = "CMYK" if "cmyk" in name else "RGB"
        Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).convert(mode).save(tmp_path / name)
    line = seen(actions.open(None, {"path": str(tmp_path / name)})).line
    said = "pixels. The photo is CMYK without a colour profile" if name == "cmyk.jpg" else "pixels</p>"
    assert said in line


def test_two_tabs_of_one_photo_do_not_disturb_each_other(actions, photo, mask):
    one, other = (seen(actions.open(None, {"path": str(photo)})) for _ in range(2))
    one = seen(actions.fill(one.session, mask(HOLE), "", 1, MODEL, [], 0, None))
    actions.open(one.session, {"path": str(photo)})  # the first tab goes on to another photo
    assert not Path(one.download["value"]).exists()
    assert seen(actions.fill(other.session, mask(HOLE), "", 1, MODEL, [], 0, None)).session.position == 1


def test_a_fill_that_ends_after_another_photo_was_opened_is_dropped(actions, opened, photo, mask, monkeypatch):
    fill = photo_tab.Actions.filled

    def late(self, *args):
        made = fill(self, *args)
        actions.open(opened.session, {"path": str(photo)})
        return made

    monkeypatch.setattr(PhotoActions, "filled", late)
    assert all("value" not in each for each in actions.fill(opened.session, mask(HOLE), "", 1, MODEL, [], 0, None))


PAGE, OTHER_PAGE = SimpleNamespace(session_hash="one"), SimpleNamespace(session_hash="two")


def test_stop_ends_a_fill_within_a_tile_and_leaves_all_as_it_is(actions, filled, mask, monkeypatch, tmp_path):
    tiles = []

    def fill(self, photo, hole, progress, **options):
        for tile in range(9):
            tiles.append(tile)
            if tile == 3:
                with pytest.raises(gr.Error):  # nothing is computed there
                    actions.stop(OTHER_PAGE)
            if tile == 5:
                actions.stop(PAGE)
            progress(tile, 9)

    monkeypatch.setattr(Inpainter, "fill", fill)
    held = sorted((tmp_path / "files").rglob("*"))
    stopped = actions.fill(filled.session, mask(SECOND), "", 1, MODEL, [], 0, None, PAGE)
    assert stopped[1] == '<p class="line stopped" role="status">Stopped</p>'
    assert all("value" not in each for index, each in enumerate(stopped) if index != 1)
    assert tiles == [0, 1, 2, 3, 4, 5]
    assert sorted((tmp_path / "files").rglob("*")) == held
    monkeypatch.undo()
    assert seen(actions.fill(filled.session, mask(SECOND), "", 1, MODEL, [], 0, None, PAGE)).session.position == 2


def test_stop_keeps_what_other_models_have_made(actions, opened, mask, monkeypatch):
    fill = Inpainter.fill

    def stopped(self, *args, **options):
        if self.info.name == "telea":
            actions.stop(PAGE)
        return fill(self, *args, **options)

    monkeypatch.setattr(Inpainter, "fill", stopped)
    done = seen(actions.fill(opened.session, mask(HOLE), "", 1, MODEL, ["Telea", "Navier-Stokes"], 0, None, PAGE))
    assert [version.by for version in done.session.versions] == ["", MODEL]
    assert done.line.endswith("<br>Stopped</p>")


def test_what_waits_for_its_turn_is_stopped(actions, opened, mask):
    outputs = []
    with actions.settings.computing:
        thread = threading.Thread(
            target=lambda: outputs.extend(actions.fill(opened.session, mask(HOLE), "", 1, MODEL, [], 0, None, PAGE))
        )
        thread.start()
        while thread.is_alive():
            if actions._jobs:
                actions.stop(PAGE)
            thread.join(0.01)
    assert ">Stopped<" in outputs[1]


def test_a_press_that_was_stopped_before_its_call_arrived_does_nothing(actions, opened, mask):
    with pytest.raises(gr.Error):
        actions.stop(PAGE, 7)
    assert ">Stopped<" in actions.fill(opened.session, mask(HOLE), "", 7, MODEL, [], 0, None, PAGE)[1]
    assert seen(actions.fill(opened.session, mask(HOLE), "", 7, MODEL, [], 0, None, OTHER_PAGE)).session.position == 1
    assert seen(actions.fill(opened.session, mask(HOLE), "", 8, MODEL, [], 0, None, PAGE)).session.position == 1


def test_presses_of_what_is_no_page_are_not_remembered(actions):
    for session, press in (("a" * 1000, 1), ("one", ["a"] * 1000), ("one", None)):
        with pytest.raises(gr.Error):
            actions.stop(SimpleNamespace(session_hash=session), press)
    assert not actions._stopped


def test_the_end_of_a_fill_leaves_a_newer_one_its_stop(actions, opened):
    with actions.job(PAGE) as older:
        with actions.job(PAGE) as newer:
            pass
        actions._jobs["one"] = newer
    actions.stop(PAGE)
    assert (older.stopped.is_set(), newer.stopped.is_set()) == (False, True)


def test_a_mask_of_another_version_fills_nothing(actions, opened, filled, mask):
    # The page missed that the photo was filled.
    now = seen(actions.fill(filled.session, mask(SECOND), opened.canvas["photo"]["path"], 1, MODEL, [], 0, None))
    assert now.session.position == 1
    assert now.canvas == filled.canvas
    assert "changed meanwhile: paint again" in now.line
    seen_now = now.canvas["photo"]["path"]
    assert seen(actions.fill(now.session, mask(SECOND), seen_now, 1, MODEL, [], 0, None)).session.position == 2


def test_a_reloaded_page_has_its_versions_again(actions, filled, mask, monkeypatch):
    key = filled.canvas["key"]
    again = seen(actions.resume(key))
    assert (again.canvas, again.right, again.download) == (filled.canvas, filled.right, filled.download)
    # Gradio forgets the page before after an hour: the files are not its own any more.
    filled.session.close()
    assert seen(actions.undo(again.session)).session.position == 0
    assert seen(actions.fill(again.session, mask(SECOND), "", 1, MODEL, [], 0, None)).session.position == 2


def test_after_a_lost_call_the_photo_is_as_the_server_has_it(actions, opened, filled, mask):
    again = seen(actions.again(filled.session, opened.canvas["key"]))
    assert again.canvas == filled.canvas
    assert "had broken off" in again.line
    assert filled.session.closed.is_set()  # what was computed for it ends
    assert not again.session.closed.is_set()
    # A page that was reloaded has its key alone; without one there was no photo.
    assert seen(actions.again(None, again.canvas["key"])).canvas == filled.canvas
    assert "not here any more" in seen(actions.again(None, "0" * 32)).line
    assert actions.again(None, "") == [gr.skip()] * 10
    # A photo that has gone to another tab stays there.
    assert "another tab" in seen(actions.again(again.session, again.canvas["key"])).line


def test_a_duplicate_of_a_tab_takes_the_photo_and_the_first_one_says_so(actions, filled, mask, monkeypatch):
    fill = Inpainter.fill

    def resumed(self, *args, **options):
        actions.resume(filled.canvas["key"])
        return fill(self, *args, **options)

    monkeypatch.setattr(Inpainter, "fill", resumed)
    assert ">Stopped<" in actions.fill(filled.session, mask(SECOND), "", 1, MODEL, [], 0, None)[1]
    assert "gone to another tab: reload this page" in actions.undo(filled.session)[1]
    assert "value" not in actions.compare(filled.session, 0, 1)


def test_nobody_has_a_photo_without_its_key(actions, opened, filled, photo):
    for key in (None, "", "0" * 32, opened.canvas["photo"]["path"], ["x"], {}):
        assert all("value" not in each for each in actions.resume(key))
    assert len(filled.canvas["key"]) == 32
    Path(filled.canvas["photo"]["path"]).unlink()  # as after an hour
    assert all("value" not in each for each in actions.resume(filled.canvas["key"]))
    actions.open(filled.session, {"path": str(photo)})  # the photo before is closed
    assert all("value" not in each for each in actions.resume(filled.canvas["key"]))


def test_a_full_page_says_so_and_keeps_what_there_is(actions, filled, mask, monkeypatch):
    monkeypatch.setattr(actions.settings.storage, "quota", MIN_BYTES)
    full = actions.fill(filled.session, mask(SECOND), "", 1, MODEL, [], 0, None)
    assert "The page holds as many photos as it may" in full[1]
    assert Path(filled.download["value"]).exists()


@pytest.mark.parametrize(
    ("error", "message"), [(OSError(28, "No space left"), "disk may be full"), (KeyError("secret"), "went wrong here")]
)
def test_what_fails_is_one_line_and_leaves_no_files(
    actions, filled, mask, monkeypatch, tmp_path, error, message, caplog
):
    def fails(*args):
        raise error

    monkeypatch.setattr(work, "write_photo", fails)
    held = sorted((tmp_path / "files").rglob("*"))
    with caplog.at_level(logging.CRITICAL):
        bad = actions.fill(filled.session, mask(SECOND), "", 1, MODEL, [], 0, None)
    assert message in bad[1]
    assert "secret" not in bad[1]
    assert sorted((tmp_path / "files").rglob("*")) == held


def test_without_a_photo_or_a_stroke_it_says_so(actions, opened):
    for method in (actions.undo, actions.redo):
        assert "Load a photo first" in seen(method(None)).line
    assert "Load a photo first" in seen(actions.fill(None, None, "", 1, MODEL, [], 0, None)).line
    assert "Nothing is painted yet" in seen(actions.fill(opened.session, None, "", 1, MODEL, [], 0, None)).line
    assert "not here any more" in seen(actions.fill(None, None, "preview.png", 1, MODEL, [], 0, None)).line
    for index in (-1, 99, None, "0"):
        assert "no such example" in seen(actions.open_example(None, SimpleNamespace(index=index))).line
        assert "value" not in actions.compare(opened.session, index, 0)


@pytest.fixture
def damaged(tmp_path, monkeypatch):
    """The actions of a page with a model that has heads, and that restores."""
    tasks = {"restore": ["saturation"], "task_loss": 1.0, "tasks": ["saturation", "rotation"]}
    torch.manual_seed(0)
    module = InpaintModule(ckpt="none", width=2, freeze_layers=0, **tasks)
    checkpoint = {"stage": "downstream", "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save(checkpoint | {"datamodule_hyper_parameters": {"image_size": 32, "resize": 32}}, tmp_path / "joint.ckpt")
    models = Models(tmp_path / "joint.ckpt", device="cpu")
    return PhotoActions(Settings(models, [], Storage(tmp_path / "files", 1e9), megapixels=1.0))


def found(**levels):
    """A diagnosis, of a task's level each."""
    findings = [
        SimpleNamespace(task=task, found=True, level=level, text=f"{task} {level}", probability=0.9)
        for task, level in levels.items()
    ]
    return lambda self, image: SimpleNamespace(findings=findings, calibrated=True)


def test_what_is_wrong_is_listed_with_its_fixes(damaged, photo, monkeypatch):
    session = damaged.open(None, {"path": str(photo)})[0]
    name = damaged.settings.models.names()[0]
    words, _, _ = damaged.diagnose(session, name)  # of the model itself
    assert words.count("<li>") == 2
    assert "too sure" in words
    monkeypatch.setattr(Inpainter, "diagnose", found(rotation=90.0, saturation=0.5))
    words, upright, restore = damaged.diagnose(session, name)
    assert "rotation 90.0 (90%)" in words
    assert upright == {"visible": True, "__type__": "update"}
    assert (restore["visible"], restore["value"]) == (True, "Restore saturation")

    turned = seen(damaged.turn_upright(session, name, 1))
    assert (pixels(turned.download["value"]) == np.rot90(pixels(photo), -1)).all()
    assert (turned.canvas["width"], turned.canvas["height"]) == (60, 80)
    restored = seen(damaged.restore(turned.session, name, 1, None))
    assert (pixels(restored.download["value"]) != pixels(turned.download["value"])).any()
    assert [each.title for each in restored.session.versions] == ["Original", "Turn 1", f"Restore 2: {name}"]
    assert Path(restored.download["value"]).name == "photo-restored.png"

    def stopped(self, image):
        damaged.stop(PAGE)
        return found(rotation=90.0)(self, image)

    monkeypatch.setattr(Inpainter, "diagnose", stopped)
    assert ">Stopped<" in damaged.turn_upright(session, name, 1, PAGE)[1]

    def stop(*args, **options):
        damaged.stop(PAGE)

    assert ">Stopped<" in damaged.restore(session, name, 1, stop, PAGE)[1]

    monkeypatch.setattr(Inpainter, "diagnose", found())
    assert "is upright" in seen(damaged.turn_upright(session, name, 1)).line


@pytest.mark.parametrize("model", [MODEL, "Telea"])
def test_a_model_without_heads_or_that_does_not_restore_says_so(actions, opened, model):
    words, upright, restore = actions.diagnose(opened.session, model)
    assert "This model has no heads: give the checkpoint of" in words
    assert not upright["visible"]
    assert not restore["visible"]
    assert "This model fills holes and restores nothing" in seen(actions.restore(opened.session, model, 1, None)).line
    assert "Load a photo first" in actions.diagnose(None, model)[0]


SMALL = {
    "shift_net": {"width": 2, "downs": 6},
    "pic": {"width": 2},
    "pconv": {"width": 2, "downs": 5, "perceptual": 0.0, "style": 0.0, "second_phase": 0.0},
}


@pytest.mark.parametrize("stage", SMALL)
def test_models_of_other_papers_fill_too(stage, photo, mask, tmp_path):
    module = MODULES[stage](**SMALL[stage])
    content = {"stage": stage, "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save(content | {"datamodule_hyper_parameters": {"image_size": 64}}, tmp_path / "rival.ckpt")
    models = Models(tmp_path / "rival.ckpt", device="cpu")
    actions = PhotoActions(Settings(models, [], Storage(tmp_path / "files", 1e9), megapixels=1.0))
    opened = seen(actions.open(None, {"path": str(photo)}))
    done = seen(actions.fill(opened.session, mask(HOLE), "", 1, "", [], 0, None))
    changed = (read_photo(Path(done.download["value"])).pixels != read_photo(photo).pixels).any(axis=-1)
    assert changed[HOLE].mean() > 0.9
    changed[HOLE] = False
    assert not changed.any()
