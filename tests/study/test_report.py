import cProfile
import errno
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import __version__ as lightning_version
from PIL import Image

import wssl_pl.evaluation
import wssl_pl.study
from tests.study.fakes import FakeArm, one_task, write, write_study
from wssl_pl.cli import main
from wssl_pl.data import WSSLDataModule
from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.pairs import write_pairs
from wssl_pl.files import owned
from wssl_pl.modules import InpaintModule
from wssl_pl.modules.migration import FORMAT
from wssl_pl.study import faces
from wssl_pl.study import report as report_module
from wssl_pl.study.definition import Claim, Section, Tuning
from wssl_pl.study.folder import Session, StudyFolder
from wssl_pl.study.report import arm_rows, facts, write_report
from wssl_pl.study.results import read_results
from wssl_pl.study.summary import summarise
from wssl_pl.study.verdicts import Spread

BETTER = Claim("good beats plain", ["good"], ["plain"])


def small(tmp_path, **given):
    """Two arms, one claim, finished."""
    arms = {"good": one_task("rotation", effect=0.5, paper={"ssim": 0.9608, "psnr": 29.89}), "plain": FakeArm()}
    return write_study(tmp_path / "study", arms, [BETTER], **given)


def doubles():
    """One, two and three tasks, the two with weights; one arm rises, one did not run."""
    arms = {name: one_task(name, paper={"ssim": 0.95, "psnr": 29.0}) for name in ("rotation", "sharpness")}
    for first, arm in ((0.1, FakeArm(0.3)), (0.5, FakeArm(rise=0.4)), (0.9, FakeArm())):
        arm.pretext = {"model.tasks": ["rotation", "sharpness"], "model.weights": [first, 1 - first]}
        arm.paper = {"ssim": 0.96, "psnr": 30.0}
        arms[f"double{first}"] = arm
    arms["double0.9"].states = {0: ("failed", "the loss is NaN"), 1: ("absent", None), 2: ("absent", None)}
    arms["triple"] = FakeArm(pretext={"model.tasks": ["rotation", "saturation", "sharpness"]})
    return arms


def test_runs_of_several_versions_of_the_program_are_named(tmp_path):
    folder = small(tmp_path)
    path = next(folder.rglob("summary.json"))
    summary = json.loads(path.read_text())
    summary["machine"] |= {"wssl": "0.4.0", "code": "0123456789ab"}
    path.write_text(json.dumps(summary))
    results = read_results(folder)
    lines = facts(results, summarise(results))
    assert sorted(line for line in lines if line.startswith("Measured on CPU")) == [
        "Measured on CPU, 2 cores, torch 2.15",
        "Measured on CPU, 2 cores, torch 2.15, wssl 0.4.0 (code 0123456789ab)",
    ]


def test_what_the_report_holds(tmp_path):
    folder = small(tmp_path, tune=Tuning(values=[0.001, 0.01]))
    out = write_report(folder)
    assert out == folder / "report"
    text, page = (out / "report.md").read_text(), (out / "report.html").read_text()
    numbers = json.loads((out / "report.json").read_text())
    entry = numbers["verdicts"]["fake"][0]["comparisons"]["psnr_composite"]["difference"]
    for shown in (text, page):
        assert "good beats plain" in shown
        assert f"{entry['mean']:+.2f}" in shown
        assert "0.9608" in shown
        assert "29.89" in shown
        assert "rotation 0.90" in shown
        assert "2,500 + 1,500" in shown
        assert "Every arm was measured with every seed" in shown
        assert "model.lr=0.001" in shown
        assert "4.30 standard errors" in shown
        assert "0.25" in shown
        assert "cannot be compared" in shown
        assert "Best of what was measured: good" in shown
        assert re.search(r"plain: -\d\.\d\d dB \[-\d\.\d\d, -\d\.\d\d\] \(", shown)
        assert "chose the smallest value, and might do better with a smaller one" in shown
    sentence = "- **Supported**: good beats plain. Difference: PSNR composite +0."
    assert (
        text.index(sentence)
        < text.index("## Ranking")
        < text.index("| **supported** |")
        < text.index("## Tables and figures")
        < text.index("## Validation curves")
    )
    assert "<strong style='color:#1a7f37'>supported</strong>" in page
    assert "/home/someone" not in text + page + json.dumps(numbers)


def test_a_head_near_chance_is_marked_and_an_arm_without_a_seed_has_no_row(tmp_path):
    report = summarise(read_results(small(tmp_path)))
    report.arms["good"].scores["rotation"] = 0.27
    report.arms["good"].near_chance["rotation"] = 2
    report.arms["plain"].runs.clear()
    rows = arm_rows(report, ["good", "plain"], 3)
    assert [row[0] for row in rows] == ["arm", "good"]
    assert "rotation 0.27 (**2 at chance**)" in rows[1]


def test_lpips_has_a_column_where_it_was_measured(tmp_path):
    report = summarise(read_results(small(tmp_path)))
    assert "LPIPS composite" not in arm_rows(report, ["good", "plain"], 3)[0]
    report.arms["good"].metrics["lpips_composite"] = Spread(0.07, 0.01, {0: 0.06, 1: 0.08})
    header, good, plain = arm_rows(report, ["good", "plain"], 3)
    place = header.index("LPIPS composite")
    assert good[place] == "0.0700 ± 0.0100"
    assert plain[place] == "-"


def test_restored_images_are_ranked_judged_and_shown_by_the_whole_and_its_parts(tmp_path):
    arms = {"double0.9": doubles()["double0.9"], "double0.1": doubles()["double0.1"]}
    arms["double0.9"].states = {}
    claim = Claim("less beats more", ["double0.1"], ["double0.9"], metrics=["psnr", "ssim"])
    folder = write_study(tmp_path / "study", arms, [claim], restore=["noise"], plots=["figure2"], images=30)
    out = write_report(folder)
    text = (out / "report.md").read_text()
    assert "| arm | SSIM | PSNR | PSNR hole | PSNR known | seeds |" in text
    assert "Inputs damaged by noise: known pixels are restored too" in text
    assert "- **Supported**: less beats more. Difference: PSNR +0." in text
    assert "Best of what was measured: double0.1**, PSNR 2" in text
    assert "composite**" not in text
    values = json.loads((out / "report.json").read_text())
    assert values["ranked_by"] == "psnr"
    metrics = values["arms"]["double0.1"]["metrics"]
    assert metrics["psnr_known"]["mean"] == pytest.approx(metrics["psnr"]["mean"] + 2)


def test_arms_that_were_not_asked_for_are_named(tmp_path):
    folder = small(tmp_path)
    started = json.loads((folder / "study.json").read_text())
    started["study"]["omitted"] = {"other": "another way"}
    (folder / "study.json").write_text(json.dumps(started))
    text = (write_report(folder) / "report.md").read_text()
    assert text.index("omitted from this study") < text.index("another way")


def test_markdown_shows_pictures_that_are_there(tmp_path):
    arms = doubles()
    folder = write_study(tmp_path / "study", arms, [], plots=["figure2", "figure4"])
    out = write_report(folder, tmp_path / "elsewhere")
    assert out == tmp_path / "elsewhere"
    text = (out / "report.md").read_text()
    shown = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert shown == ["fake_figure2.png", "fake_figure4.png", "curves.png"]
    for name in shown:
        pixels = np.asarray(Image.open(out / name).convert("L"))
        assert pixels.shape[0] > 200
        assert (pixels < 200).mean() > 0.005
    page = (out / "report.html").read_text()
    assert page.count("src='data:image/png;base64,") == 3
    assert not re.search(r"(src|href)='(?!data:)", page)
    assert page.count("<table>") == page.count("</table>") > 0
    assert re.search(r"\*\*not converged\*\* \(\+0\.(39|4\d) ± 0\.0", text)
    assert "| double0.9 | 0 | failed | the loss is NaN |" in text
    assert "the study is not finished" in text


def test_an_unfinished_study_without_any_result(tmp_path):
    states = dict.fromkeys(range(3), ("absent", None))
    arms = {"good": FakeArm(states=states), "plain": FakeArm(states=states)}
    folder = write_study(tmp_path / "study", arms, [BETTER], plots=["figure2", "figure3", "figure4"])
    text = (write_report(folder) / "report.md").read_text()
    assert "**Not decided**: good beats plain; good not run." in text
    assert "No run has a validation curve yet" in text
    assert "| good | 0, 1, 2 | waiting | not started |" in text
    assert "Figure 3: no arm is measured yet" in text


def test_a_study_that_has_ended_with_failures_is_not_called_unfinished(tmp_path):
    arms = {"good": FakeArm(0.5, states={1: ("failed", "the loss is NaN")}), "plain": FakeArm()}
    text = (write_report(write_study(tmp_path / "study", arms, [BETTER])) / "report.md").read_text()
    assert "5 of 6 measured, 5 of 6 runs are done: **some runs failed**" in text
    assert "the study is not finished" not in text
    assert "2 of 3 seeds" in text


def test_runs_that_were_not_measured_have_not_failed(tmp_path):
    folder = small(tmp_path)
    for path in folder.glob("runs/*/evaluation"):
        shutil.rmtree(path)
    text = (write_report(folder) / "report.md").read_text()
    assert "**not all are measured**" in text
    assert "some runs failed" not in text


def test_an_arm_whose_trials_choose_another_value_by_now_is_named(tmp_path):
    folder = small(tmp_path, tune=Tuning(values=[0.001, 0.01]))
    path = folder / "runs" / "trial-good-0.01" / "curve.json"
    write(path, {"val/psnr_composite": [[249, 21.0], [499, 30.0]]})
    text = (write_report(folder) / "report.md").read_text()
    assert "good was trained with another value than its trials choose now, 0.01" in text
    assert "plain was trained" not in text


def test_an_earlier_report_is_replaced(tmp_path):
    folder = small(tmp_path)
    out = write_report(folder)
    assert (out / "verdicts.png").is_file()
    (out / "mine.txt").write_text("stays")
    for run in (folder / "runs").glob("downstream-s*-good"):
        (run / "evaluation" / "summary.json").unlink()
    assert "**Not decided**" in (write_report(folder) / "report.md").read_text()
    assert not (out / "verdicts.png").exists()
    assert (out / "mine.txt").is_file()


def test_bad_input(tmp_path):
    with pytest.raises(WSSLError, match="holds no study"):
        write_report(tmp_path)
    folder = small(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(WSSLError, match="file: cannot be written: File exists"):
        write_report(folder, tmp_path / "file")


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    folder = small(tmp_path)
    monkeypatch.setattr(report_module, "write_atomically", full)
    with pytest.raises(WSSLError, match=r"out=.*report: cannot be written: No space left on device: make room"):
        write_report(folder)


def test_two_reports_in_one_folder_are_refused(tmp_path):
    folder = small(tmp_path)
    with owned(folder / "report"), pytest.raises(WSSLError, match="is being written by another process"):
        write_report(folder)


def test_nothing_outside_the_folder_is_written_or_removed(tmp_path):
    """Whatever names a forged study and an earlier report have."""
    (tmp_path / "mine.png").write_text("stays")
    sections = [Section("../../mine", "Forged", ["good", "plain"], [BETTER], ["figure2"])]
    folder = small(tmp_path, sections=sections)
    (folder / "report").mkdir()
    (folder / "report" / "report.json").write_text('{"pictures": {"../../mine.png": "", "curves.png": ""}}')
    write_report(folder)
    assert (tmp_path / "mine.png").read_text() == "stays"
    assert {path.name for path in tmp_path.iterdir()} == {"mine.png", "study"}


def test_sections_that_repeat_arms_have_one_table(tmp_path):
    arms = {"good": FakeArm(0.5), "plain": FakeArm()}
    sections = [Section("one", "First table", ["good", "plain"], [BETTER]), Section("two", "Second", ["plain"])]
    text = (write_report(write_study(tmp_path / "study", arms, [], sections=sections)) / "report.md").read_text()
    assert text.count("| plain | 0.") == 1
    assert "Its arms are in the tables above" in text


def test_words_of_a_study_do_not_break_the_page(tmp_path):
    arms = {"good": FakeArm(0.5, label="a <b> | c & d"), "plain": FakeArm()}
    out = write_report(write_study(tmp_path / "study", arms, [Claim("1 < 2 | <script>", ["good"], ["plain"])]))
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert "<script>" not in page
    assert "a &lt;b&gt; | c &amp; d" in page
    rows = [line for line in text.splitlines() if line.startswith(("| a <b>", "| arm | SSIM"))]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1


def test_a_cosine_schedule_is_spoken_of(tmp_path):
    assert "Where a learning rate falls to zero" in (write_report(small(tmp_path)) / "report.md").read_text()
    arms = {"good": FakeArm(pretext={"model.tasks": ["rotation"], "model.schedule": "cosine"}), "plain": FakeArm()}
    text = (write_report(write_study(tmp_path / "cosine", arms, [BETTER])) / "report.md").read_text()
    assert "along a cosine: a flat end then means only that the budget of steps is used up" in text


def test_figure_3_shows_the_models_on_the_pairs(tmp_path, monkeypatch):
    given = {"images": "synthetic", "masks": "synthetic", "hole_ratio": (0.1, 0.5), "limit": 6}
    arms = {"good": FakeArm(0.5, label="one of a rather long name"), "plain": FakeArm(), "gone": FakeArm()}
    states = dict.fromkeys(range(3), ("absent", None))
    arms["none"] = FakeArm(states=states)
    pairs = write_pairs(WSSLDataModule(image_size=48, resize=56, **given), "test", tmp_path / "pairs")
    folder = write_study(
        tmp_path / "study", arms, [], plots=["figure3"], pairs_hash=pairs.manifest.hash, images=len(pairs)
    )
    (tmp_path / "pairs").rename(folder / "pairs")
    for arm in ("good", "plain"):
        module = InpaintModule(ckpt="none", width=2)
        saved = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), "stage": "downstream"}
        torch.save(
            saved | {"pytorch-lightning_version": lightning_version, "format": FORMAT},
            folder / "runs" / f"downstream-s0-{arm}" / "best.ckpt",
        )
    out = write_report(folder)
    width, height = Image.open(out / "fake_figure3.png").size
    assert width > height * 0.8
    text = (out / "report.md").read_text()
    assert "gone: " in text
    assert "none: not run" in text
    assert "good: " not in text.partition("## Tables")[2]
    # More arms than fit beside each other go below.
    monkeypatch.setattr(faces, "ACROSS", 1)
    png, notes = faces.figure3(read_results(folder), ["good", "plain"])
    assert Image.open(io.BytesIO(png)).size == pytest.approx((width * 3 / 4, height * 2), abs=3)
    assert notes == []


def test_a_report_goes_through_few_files(tmp_path):
    """Who follows `write_report` has to read nine files of the package at most."""
    arms = doubles()
    claims = [Claim("one task beats three", ["rotation"], ["triple"])]
    folder = write_study(tmp_path / "study", arms, claims, plots=["figure2", "figure4"], tune=Tuning(values=[0.1, 0.2]))
    profile = cProfile.Profile()
    profile.runcall(write_report, folder)
    files = [Path(entry.code.co_filename) for entry in profile.getstats() if not isinstance(entry.code, str)]
    packages = [Path(wssl_pl.study.__file__).parent, Path(wssl_pl.evaluation.__file__).parent]
    entered = {f"{file.parent.name}/{file.name}" for file in files if file.parent in packages}
    assert "study/report.py" in entered
    assert len(entered) <= 9, sorted(entered)


def test_a_study_with_sections_has_a_report_of_each(tmp_path, capsys):
    for name in ("one", "two"):
        write_study(tmp_path / "study" / name, {"a": FakeArm(), "b": FakeArm()}, [])
    (tmp_path / "study" / "sections.json").write_text('["one", "two"]')
    main(["study", "report", str(tmp_path / "study")])
    assert all((tmp_path / "study" / name / "report" / "report.md").is_file() for name in ("one", "two"))
    with pytest.raises(SystemExit):
        main(["study", "report", str(tmp_path / "study"), f"out={tmp_path / 'x'}"])
    assert "the study has sections" in capsys.readouterr().err


def test_the_report_says_how_busy_the_cores_were(tmp_path):
    folder = StudyFolder(write_study(tmp_path / "study", {"a": FakeArm(), "b": FakeArm()}, []))
    folder.set_sessions([Session(3600.0, 2.0, 7000.0), Session(1800.0, 2.0, 3300.0)])
    results = read_results(folder.path)
    assert "Run in 1.5 h on 2 cores, which its runs used to 95%" in facts(results, summarise(results))


def test_what_arms_lose_elsewhere(tmp_path):
    folder = write_study(tmp_path / "study", {"a": FakeArm(), "b": FakeArm()}, [], seeds=(0, 1))
    study = json.loads((folder / "study.json").read_text())
    study["study"]["out_of_domain"] = "elsewhere"
    write(folder / "study.json", study)
    for seed, psnr in enumerate((21.0, 20.0)):
        sets = {"own": {"psnr_composite": 24.0}, "grey_faces": {"psnr_composite": psnr}, "tiny": {"ssim": 0.5}}
        write(folder / "runs" / f"downstream-s{seed}-a" / "out_of_domain.json", sets)
    text = (write_report(folder) / "report.md").read_text()
    assert "|  | seeds | grey faces |" in text
    assert "| a | 2 | 3.50 ± 0.71 |" in text
    assert "\n| b | " not in text.partition("## Elsewhere")[2].partition("##")[0]
    other = write_report(write_study(tmp_path / "other", {"a": FakeArm()}, []))
    assert "Elsewhere" not in (other / "report.md").read_text()
