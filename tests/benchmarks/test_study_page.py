import sys

import pytest
import study_page

from tests.study.fakes import FakeArm, write_study
from wssl_pl.study.definition import Claim
from wssl_pl.study.report import write_report


@pytest.fixture
def study(tmp_path):
    arms = {"good": FakeArm(0.5), "plain": FakeArm(states={2: ("failed", "cannot write /home/someone/runs/x.ckpt")})}
    folder = write_study(tmp_path / "study", arms, [Claim("good beats plain", ["good"], ["plain"])])
    out = write_report(folder)
    # As if there were a Figure 3.
    text = (out / "report.md").read_text()
    faces = "![faces](fake_figure3.png)\n\n*faces*\n\n"
    (out / "report.md").write_text(text.replace("## Validation curves", f"{faces}## Validation curves"))
    (out / "fake_figure3.png").write_bytes(b"face")
    return folder


def test_a_report_is_copied_without_faces_and_folders(study, tmp_path, monkeypatch):
    out = tmp_path / "results"
    monkeypatch.setattr(sys, "argv", ["study_page.py", str(study), str(study / "report"), "--out", str(out)])
    study_page.main()
    text = (out / "fake.md").read_text()
    assert text.index("## Verdicts") < text.index("## Tables and figures")
    assert "](fake_curves.png)" in text
    assert "torch 2.15" in text
    assert "cannot write x.ckpt" in text
    assert "/home" not in text
    assert "figure3" not in text
    assert "faces" not in text
    assert {path.name for path in out.iterdir()} == {"fake.md", "fake_curves.png", "fake_verdicts.png"}


def test_a_folder_without_a_report(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["study_page.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="holds no report"):
        study_page.main()
