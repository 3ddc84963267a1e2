import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image

from wssl_pl.data import WSSLDataModule
from wssl_pl.data.decode import read_image
from wssl_pl.errors import WSSLError
from wssl_pl.export.weights import write_folder, write_safetensors
from wssl_pl.inference import Inpainter
from wssl_pl.inference.diagnosis import Diagnoser
from wssl_pl.models import ModelInfo, open_heads, open_model
from wssl_pl.modules import InpaintModule, PretextModule
from wssl_pl.synthetic import draw_mask, synthetic_faces
from wssl_pl.tasks import Blur, Rotation, Saturation

SIZE = 32


def save(module, path, **data):
    data = {"image_size": SIZE, "resize": SIZE} | data
    checkpoint = {"stage": module.stage, "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save(checkpoint | {"datamodule_hyper_parameters": data}, path)
    return str(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The checkpoint of a small pretext model that was really trained."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("trained")
    module = PretextModule(["rotation", "saturation"], width=4, norm="batch", lr=5e-3)
    data = WSSLDataModule(images="synthetic", image_size=SIZE, resize=SIZE, batch_size=32, num_workers=0)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": False, "num_sanity_val_steps": 0}
    trainer = Trainer(accelerator="cpu", max_epochs=6, check_val_every_n_epoch=6, **quiet)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(folder / "pretext.ckpt")
    return folder / "pretext.ckpt"


@pytest.fixture(scope="module")
def faces():
    """Faces that were neither trained nor validated on, `(32, 3, 32, 32)`."""
    return torch.from_numpy(synthetic_faces("test", SIZE)).permute(0, 3, 1, 2).float() / 255


@pytest.fixture
def joint():
    """An inpainting model with heads, as if a validation had calibrated them."""
    settings = {"width": 2, "freeze_layers": 0, "restore": ["blur"], "task_loss": 1.0, "tasks": ["blur", "rotation"]}
    return InpaintModule(ckpt="none", **settings, temperatures={"blur": 2.0, "rotation": 0.5})


def finding(diagnosis, task):
    return next(each for each in diagnosis.findings if each.task == task)


def test_the_true_change_is_named(trained, faces):
    diagnoser = Diagnoser(open_heads(trained, "cpu"))
    turned = [diagnoser(list(Rotation()(faces, torch.full((32,), label)))) for label in range(4)]
    right = [finding(each, "rotation").level == 90 * label for label, found in enumerate(turned) for each in found]
    assert np.mean(right) > 0.8  # chance: 0.25
    assert all(each.calibrated for each in turned[0])
    faded = [diagnoser(list(Saturation()(faces, torch.full((32,), label)))) for label in range(4)]
    levels = [np.mean([finding(each, "saturation").level for each in found]) for found in faded]
    assert levels == sorted(levels)
    assert levels[3] > levels[0] + 0.3


def test_calibration_lowers_the_loss_and_keeps_the_predictions(trained, faces):
    heads, uniform = open_heads(trained, "cpu"), torch.rand(32, 16, generator=torch.Generator().manual_seed(0))
    images, drawn = heads._module.transform(faces, uniform)
    masks = torch.zeros(32, 1, SIZE, SIZE)
    found = heads._module.probabilities(images, masks)
    assert set(heads._module.hparams["temperatures"]) == {"rotation", "saturation"}
    heads._module.hparams["temperatures"] = None
    before, total = heads._module.probabilities(images, masks), [0.0, 0.0]
    for name, target in drawn.targets.items():
        assert torch.equal(found[name].argmax(dim=1), before[name].argmax(dim=1))
        for number, each in enumerate((before, found)):
            total[number] += torch.nn.functional.nll_loss(each[name].log(), target).item()
    assert total[1] < total[0]


def heads_of(task, probabilities, **training):
    """Heads that always say the same, and remember what they were shown."""
    shown = []

    def heads(image):
        shown.append(image)
        return {task.name: np.array(probabilities)}

    heads.info, heads.shown = ModelInfo("model", {}, {"image_size": SIZE} | training), shown
    heads.tasks, heads.calibrated = {task.name: task}, True
    heads.unchanged_fractions = {task.name: 1 / len(task.levels)}
    return heads


@pytest.mark.parametrize(
    ("task", "probabilities", "text", "level", "probability"),
    [
        # The unchanged level counts three times as much as each of three others: [0.3, 0.6, 0.2, 0.1] / 1.2.
        (Rotation(), [0.1, 0.6, 0.2, 0.1], "turned by 90 degrees", 90.0, 0.5),
        (Rotation(), [0.4, 0.3, 0.2, 0.1], "rotation: nothing found", 0.0, 2 / 3),
        (Saturation(), [0.2, 0.6, 0.1, 0.1], "saturation about 0.25", 0.25, 0.75),
        (Saturation(), [0.0, 0.1, 0.4, 0.5], "saturation: nothing found", 0.9125, 0.75),
        (Blur(), [0.1, 0.3, 0.5, 0.1], "blur about 0.83", 0.75 / 0.9, 0.75),
        (Saturation(), [0.25, 0.25, 0.25, 0.25], "saturation: nothing found", 2 / 3, 0.5),  # a head that knows nothing
        (Saturation([0.0, 0.5]), [0.3, 0.7], "saturation about 0.35", 0.35, 0.7),  # no level leaves the image
    ],
)
def test_findings_by_hand(task, probabilities, text, level, probability):
    (found,) = Diagnoser(heads_of(task, probabilities))(np.zeros((40, 50, 3), np.uint8)).findings
    assert found.text == text
    assert (found.level, found.probability) == pytest.approx((level, probability))
    assert found.found == ("nothing" not in text)


def test_what_the_training_left_unchanged_counts():
    # Of 100 images 60 were unchanged, of photos 50 are: [0.1 / 0.4, 0, 0.1 / 0.4, 0.8 / 0.6] / 2 of [0.1, 0, 0.1, 0.8].
    heads = heads_of(Saturation(), [0.1, 0.0, 0.1, 0.8])
    heads.unchanged_fractions = {"saturation": 0.6}
    (found,) = Diagnoser(heads)(np.zeros((40, 50, 3), np.uint8)).findings
    assert (found.found, found.probability) == (False, pytest.approx((0.8 / 0.6) / (0.2 / 0.4 + 0.8 / 0.6)))


def test_how_often_the_training_left_images_unchanged():
    assert PretextModule(["rotation", "saturation"], width=2).unchanged_fractions == {
        "rotation": 0.25,
        "saturation": 0.25,
    }
    # Of levels 0, 1/3, 2/3 and 1 the last is the nearest of one strength in six.
    any_strength = PretextModule(["saturation", "restoration"], width=2, levels={"saturation": [0, 1 / 3, 2 / 3, 1]})
    assert any_strength.unchanged_fractions == {"saturation": pytest.approx(1 / 6, abs=1e-3)}
    settings = {"width": 2, "freeze_layers": 0, "restore": ["blur"], "task_loss": 1.0, "tasks": ["blur", "rotation"]}
    found = InpaintModule(ckpt="none", **settings, undamaged=0.6).unchanged_fractions
    assert found == {
        "blur": pytest.approx(0.6 + 0.4 * 0.125, abs=1e-3),
        "rotation": 0.25,
    }  # the nearest up to 0.25 of 2


def test_an_image_is_seen_as_in_validation(tmp_path):
    random = np.random.default_rng(0)
    for number in range(10):
        Image.fromarray(random.integers(0, 256, (61, 90, 3), np.uint8)).save(tmp_path / f"{number}.png")
    data = WSSLDataModule(images=str(tmp_path), image_size=32, resize=44, batch_size=1, num_workers=0)
    data.prepare_data()
    data.setup("validate")
    raw = next(iter(data.val_dataloader()))
    expected = data.on_after_batch_transfer(raw, 0)["image"][0]
    diagnoser = Diagnoser(heads_of(Saturation(), [0.1, 0.2, 0.3, 0.4], resize=44))
    paths = [diagnoser.heads.shown[-1] for path in sorted(tmp_path.glob("*.png")) if diagnoser.read(path)]
    assert any(torch.equal(torch.from_numpy(each), expected) for each in paths)
    # In memory the same, whatever the type.
    with Image.open(tmp_path / "0.png") as image:
        array = np.asarray(image)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for same in (Image.fromarray(array), array, tensor, array / 255.0, array.astype(np.uint16) * 257):
        diagnosis = diagnoser(same)
        assert (diagnosis.reduced_to, diagnosis.side) == (44, 32)
        assert np.array_equal(diagnoser.heads.shown[-1], paths[0])
    assert len(diagnoser(np.stack([array, array]))) == len(diagnoser([array, tensor])) == 2
    assert "saturation: nothing found (67%)" in str(diagnoser(array[..., 0]))  # grey


def shown_of(image, **training):
    """What heads are shown of an image or a file."""
    heads = heads_of(Saturation(), [0.1, 0.2, 0.3, 0.4], **training)
    Diagnoser(heads).read(image) if isinstance(image, Path) else Diagnoser(heads)(image)
    return heads.shown[0]


def test_what_is_transparent_is_white_in_files_and_in_memory(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 4), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    white = Image.alpha_composite(Image.new("RGBA", (50, 40), "white"), Image.fromarray(image)).convert("RGB")
    expected = shown_of(white)
    for same in (tmp_path / "a.png", image, Image.fromarray(image), torch.from_numpy(image).permute(2, 0, 1)):
        assert np.abs(shown_of(same) - expected).max() <= 1.01 / 255
    invisible = np.dstack([image[..., :3], np.zeros((40, 50), np.uint8)])
    for same in (invisible, invisible / 255.0, invisible.astype(np.uint16) * 257):
        assert (shown_of(same) == 1).all()


def test_a_large_jpeg_is_seen_as_those_of_the_training(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (150, 400, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    assert np.array_equal(
        shown_of(tmp_path / "a.jpg", resize=36)[0] * 255, read_image(tmp_path / "a.jpg", 36)[2:34, 2:34, 0]
    )


def test_files_that_are_not_read_have_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(WSSLError, match=r"needs pillow-heif: pip install 'wssl-pl\[heic\]'"):
        shown_of(tmp_path / "photo.heic")


def test_a_model_diagnoses_files_too(joint, tmp_path):
    inpainter = Inpainter.from_checkpoint(save(joint, tmp_path / "joint.ckpt"), device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 4), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    assert inpainter.diagnose(tmp_path / "a.png") == inpainter.diagnose(image)


def test_a_model_file_carries_its_heads(joint, tmp_path):
    ckpt = save(joint, tmp_path / "joint.ckpt")
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    expected = Inpainter.from_checkpoint(ckpt, device="cpu").diagnose(image)
    assert [each.task for each in expected.findings] == ["rotation", "blur"]
    info = open_model(ckpt, "cpu").info
    write_safetensors(joint.state_dict(), info, tmp_path / "model.safetensors")
    (tmp_path / "model").mkdir()
    write_folder(joint.state_dict(), info, tmp_path / "model")
    for path in ("model.safetensors", "model"):
        inpainter = Inpainter.from_checkpoint(tmp_path / path, device="cpu")
        assert inpainter.info.hyper_parameters["temperatures"] == {"blur": 2.0, "rotation": 0.5}
        assert inpainter.diagnose(image) == expected == Diagnoser(open_heads(tmp_path / path, "cpu"))(image)


def test_heads_look_as_they_were_trained(joint, monkeypatch):
    images, masks = torch.rand(2, 3, SIZE, SIZE), torch.ones(2, 1, SIZE, SIZE)
    masks[..., :16] = 0.0
    seen = []
    joint.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    found = joint.eval().probabilities(images, masks)
    assert torch.equal(seen[0], images * (1.0 - masks))
    assert torch.equal(seen[1], images)
    features = joint.encoder(images)[0]
    logits = joint.joint.heads["rotation"](features)
    torch.testing.assert_close(found["rotation"], (logits / 0.5).softmax(dim=1))
    assert not PretextModule(["rotation"], width=2).heads_see_holes
    assert PretextModule(["rotation", "masked"], width=2).heads_see_holes


def test_a_model_without_heads_is_one_line(tmp_path):
    ckpt = save(InpaintModule(ckpt="none", width=2), tmp_path / "plain.ckpt")
    inpainter = Inpainter.from_checkpoint(ckpt, "cpu")
    for call in (lambda: open_heads(ckpt, "cpu"), lambda: inpainter.diagnose(np.zeros((9, 9)))):
        with pytest.raises(WSSLError, match="has no heads: give the checkpoint of a pretext stage"):
            call()
    with pytest.raises(WSSLError, match="has no heads"):
        open_heads(save(PretextModule(["masked"], width=2), tmp_path / "masked.ckpt"), "cpu")
    (tmp_path / "a.onnx").touch()
    with pytest.raises(WSSLError, match="is an ONNX file, which holds no heads"):
        open_heads(tmp_path / "a.onnx")
    with pytest.raises(WSSLError, match="is an ONNX file, which holds no heads"):
        Inpainter(SimpleNamespace(info=ModelInfo("a.onnx"))).diagnose(np.zeros((9, 9)))


@pytest.mark.parametrize(
    ("settings", "data", "message"),
    [
        ({"temperatures": {"rotation": 0}}, {}, "make no network here"),
        ({"temperatures": {"rotation": "1"}}, {}, "make no network here"),
        ({}, {"resize_filter": "../x"}, "has an unknown resize_filter"),
    ],
)
def test_made_up_settings_are_one_line(settings, data, message, tmp_path):
    module = PretextModule(["rotation"], width=2)
    module.hparams.update(settings)
    with pytest.raises(WSSLError, match=message):
        Diagnoser(open_heads(save(module, tmp_path / "a.ckpt", **data), "cpu"))


def test_heads_that_were_trained_with_holes_look_under_several_masks(joint, tmp_path, faces):
    heads = open_heads(save(joint, tmp_path / "joint.ckpt"), "cpu")
    found = heads(faces[0].numpy())
    masks = torch.from_numpy(np.stack([draw_mask(seed, SIZE) for seed in range(8)])).float()[:, None]
    with torch.no_grad():
        looks = joint.eval().probabilities(faces[:1].expand(8, -1, -1, -1), masks)
    np.testing.assert_allclose(found["blur"], looks["blur"].mean(dim=0).numpy(), atol=1e-5)
    assert looks["blur"].std(dim=0).max() > 1e-4
