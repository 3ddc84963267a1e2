import pytest
import torch

from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.evaluate import Settings, evaluate
from wssl_pl.evaluation.methods import Model, Samples
from wssl_pl.modules.migration import FORMAT
from wssl_pl.modules.rivals.pic import PICModule

CPU = torch.device("cpu")


def checkpoint(path, **more):
    """Write the checkpoint of an untrained PIC model."""
    module = PICModule(width=2)
    module.adversary = module.make_adversary(module.make_discriminator(), module.device)
    content = {"stage": "pic", "format": FORMAT, "state_dict": module.state_dict()}
    content |= {"hyper_parameters": dict(module.hparams), "discriminator": module.adversary.state_dict()}
    torch.save({name: value for name, value in content.items() if name not in more.get("without", ())}, path)
    return path


def test_one_sample_the_best_and_the_nearest_are_measured(pairs, tmp_path):
    path = checkpoint(tmp_path / "best.ckpt")
    methods = Model(path, CPU), Samples(path, 4, None, CPU), Samples(path, 4, pairs, CPU, "bf16-mixed")
    assert [method.name.partition("best.ckpt")[2] for method in methods] == [
        "", ", best of 4 by score", ", nearest of 4 (oracle)"
    ]  # fmt: skip
    one, best, nearest = (evaluate(pairs, method, Settings(limit=3, batch_size=2)) for method in methods)
    assert nearest.means["psnr_composite"] > one.means["psnr_composite"]
    assert best.means["psnr_composite"] != one.means["psnr_composite"]
    assert any("is an oracle" in note for note in nearest.notes)
    assert nearest.method["stage"] == "pic"


def test_who_makes_no_samples_or_cannot_score_them(pairs, tmp_path):
    with pytest.raises(WSSLError, match="best_of=4: only PIC makes several samples"):
        Samples(None, 4, None, CPU)
    path = checkpoint(tmp_path / "weights.ckpt", without=["discriminator"])
    with pytest.raises(WSSLError, match="samples=4: the best one needs the discriminator"):
        Samples(path, 4, None, CPU)
