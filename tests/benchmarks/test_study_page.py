import json
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
    numbers = json.loads((out / "report.json").read_text())
    numbers["pictures"]["fake_figure3.png"] = "faces"
    (out / "report.json").write_text(json.dumps(numbers))
    (out / "fake_figure3.png").write_bytes(b"face")
    return folder


def test_the_page_is_made_from_reports(study, tmp_path, monkeypatch):
    words = [str(study), str(study / "report" / "report.json"), "--out", str(tmp_path / "docs" / "study.md")]
    words += ["--figures", str(tmp_path / "docs" / "study"), "--words", str(tmp_path / "words.md")]
    (tmp_path / "words.md").write_text("Good is\nbetter.\n\nBut see below.\n")
    monkeypatch.setattr(sys, "argv", ["study_page.py", *words])
    study_page.main()
    text = (tmp_path / "docs" / "study.md").read_text()
    assert text.index("\n\nBut see below.\n\n") < text.index("## What came out best: fake") < text.index("good beats")
    assert text.index("## Verdicts: fake") < text.index("## Tables and figures: fake")
    assert text.count("## Verdicts: fake") == 2
    assert "](study/fake_curves.png)" in text
    assert "torch 2.15" in text
    assert "python train.py study report" in text
    assert "cannot write x.ckpt" in text
    assert "/home" not in text
    assert {path.name for path in (tmp_path / "docs" / "study").iterdir()} == {"fake_curves.png", "fake_verdicts.png"}
    assert "figure3" not in text


def test_a_report_of_an_earlier_version(study, monkeypatch):
    path = study / "report" / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 1}))
    monkeypatch.setattr(sys, "argv", ["study_page.py", str(study)])
    with pytest.raises(SystemExit, match="make the report anew"):
        study_page.main()


def test_a_folder_without_a_report(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["study_page.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="holds no report"):
        study_page.main()
