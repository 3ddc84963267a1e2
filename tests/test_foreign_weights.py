"""Where other projects' weights are looked for."""

import pytest

from wssl_pl.errors import WSSLError
from wssl_pl.foreign_weights import find_weights


def test_weights_are_searched_for(tmp_path, monkeypatch):
    def found(*networks):
        path = find_weights(*networks or ("alexnet", "vgg16"))
        return path and path.relative_to(tmp_path).as_posix()

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    cache, own = tmp_path / "torch/hub/checkpoints", tmp_path / "own"
    for folder, names in (
        (cache, ["vgg16_bn-6c64b313.pth", "vgg16-397923af.pth"]),
        (own, ["alexnet-owt-7be5be79.pth"]),
    ):
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
    assert found() == "torch/hub/checkpoints/vgg16-397923af.pth"
    (cache / "alexnet-owt-7be5be79.pth").touch()
    assert found() == "torch/hub/checkpoints/alexnet-owt-7be5be79.pth"
    for value in (own, own / "alexnet-owt-7be5be79.pth"):
        monkeypatch.setenv("WSSL_WEIGHTS", str(value))
        assert found() == "own/alexnet-owt-7be5be79.pth"
        assert found("vgg16") == "torch/hub/checkpoints/vgg16-397923af.pth"
    assert found("inception") is None
    for value, reason in (("nowhere", "does not exist"), ("torch/hub/checkpoints/vgg16_bn-6c64b313.pth", "no name of")):
        monkeypatch.setenv("WSSL_WEIGHTS", str(tmp_path / value))
        with pytest.raises(WSSLError, match=rf"^WSSL_WEIGHTS=.*{value}: .*{reason}"):
            found("inception")
