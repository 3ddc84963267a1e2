from pathlib import Path

from PIL import Image

from tests.cli.conftest import SMALL
from wssl_pl.cli import main


def test_both_stages_and_a_picture_of_four_columns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["demo", *[word for word in SMALL if "width" not in word], "--trainer.max_epochs=1"])
    (run,) = (path for path in Path("runs/demo").iterdir() if path.is_dir())
    assert all((run / stage / "best.ckpt").is_file() for stage in ("pretext", "downstream"))
    picture = Image.open("runs/demo/inpainted.png")
    assert picture.width > 4 * 64  # with gaps
    assert "runs/demo/inpainted.png" in capsys.readouterr().out
