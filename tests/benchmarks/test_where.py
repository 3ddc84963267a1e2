"""The page about where pretext tasks help, from a made-up study."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import where
from blocks import END

from tests.study.fakes import FakeArm, write_study
from wssl_pl.study.advice import read_findings
from wssl_pl.study.folder import StudyFolder
from wssl_pl.study.results import read_results

GAINS = {"scratch": 0.0, "inpainting": 0.8, "tasks": 0.1, "both": 0.85}
SETS = {"own": 24.0, "grey": 23.0, "utkface": 21.5}


@pytest.fixture
def whole(tmp_path):
    """Sections with arms as in the study: probes follow the gain of their task."""
    weights = {"inpainting": [0.1, 0.9], "tasks": [0.3, 0.7], "both": [0.5, 0.5]}
    pretext = {name: {"model.tasks": ["saturation", "sharpness"], "model.weights": w} for name, w in weights.items()}
    few = {
        f"{name}_{n}": FakeArm(effect / n * 50, pretext.get(name), label=f"{name}, {n} pairs")
        for n in (50, 400)
        for name, effect in GAINS.items()
    }
    damaged = {"blind": FakeArm(), "restoring": FakeArm(0.1, pretext["inpainting"])}
    damaged["all_tuned"] = FakeArm(-0.4, pretext["both"])
    out = tmp_path / "study"
    for number, (name, arms) in enumerate({"few_pairs": few, "damaged": damaged}.items()):
        restore = ["saturation"] if name == "damaged" else None
        folder = StudyFolder(write_study(out / name, arms, [], seeds=(0, 1, 2, 3, 4, 5), restore=restore, seed=number))
        path = folder.path / "study.json"
        values = json.loads(path.read_text())
        values["study"]["options"]["common"]["model.width"] = 16
        values["study"]["out_of_domain"] = "elsewhere"
        path.write_text(json.dumps(values))
        plan = folder.plan()
        for run in plan.runs.values():
            if run.stage == "pretext":
                probe = 20.0 + GAINS[next(k for k, w in weights.items() if str(w[0]) in run.id)] + 0.01 * run.seed
                (folder.run(run.id) / "curve.json").write_text(json.dumps({"val/probe_psnr": [[9, 1.0], [19, probe]]}))
            else:
                shifted = {key: {"psnr": dB, "psnr_composite": dB + 0.1 * run.seed} for key, dB in SETS.items()}
                (folder.run(run.id) / "out_of_domain.json").write_text(json.dumps(shifted))
        _link_pretexts(folder)
    (out / "sections.json").write_text('["few_pairs", "damaged"]')
    return out


def _link_pretexts(folder):
    """The fakes need their pretext run, and do not name it."""
    path = folder.path / "plan.json"
    values = json.loads(path.read_text())
    for run in values["runs"]:
        if run["stage"] == "downstream" and run["needs"]:
            run["pretext"] = run["needs"][0]
    path.write_text(json.dumps(values))


def test_the_page_has_what_is_measured_and_no_more(whole, tmp_path, monkeypatch):
    page, table = tmp_path / "docs" / "where.md", tmp_path / "advice.json"
    page.parent.mkdir()
    page.write_text(where.PAGE.read_text())
    words = [str(whole), "--results", str(tmp_path / "json"), "--table", str(table), "--page", str(page)]
    monkeypatch.setattr(sys, "argv", ["where.py", *words])
    where.main()
    once = page.read_text()
    where.main()
    assert page.read_text() == once
    names = ("few pairs", "damaged", "unseen", "probe", "tables", "out of domain")
    begins = {name: f"<!-- made by {where.MADE_BY.format(name)} -->" for name in names}
    blocks = {name: once.partition(begin)[2].partition(END)[0] for name, begin in begins.items()}
    assert blocks["unseen"].strip() == blocks["tables"].strip() == ""
    assert blocks["few pairs"].count("| inpainting, ") == 2
    assert "| 6 |" in blocks["few pairs"]
    assert "| -1.00 |" not in blocks["out of domain"]
    assert "| 1.00 ± 0.00 | 2.50 ± 0.00 |" in blocks["out of domain"]
    assert "`val/probe_psnr`: Spearman +" in blocks["probe"]
    assert "rankme" not in blocks["probe"]
    findings = read_findings(table)
    assert list(findings.few_pairs) == ["50", "400"]
    rows = findings.few_pairs["50"]
    assert rows["scratch"].gain is None
    assert rows["inpainting"].gain.low > 0.5
    assert rows["both"].over_rival is not None
    assert findings.damaged["all_tuned"].gain.high < 0
    assert findings.damaged["all_tuned"].advisable
    for file in ("few_pairs", "damaged", "probe", "shifts_few_pairs"):
        assert (page.parent / f"where_{file}.svg").read_text().rstrip().endswith("</svg>")
    assert len(list((tmp_path / "json" / "few_pairs" / "runs").iterdir())) == 8 * 6 + 3 * 6


def test_an_arm_that_lacks_seeds_is_no_advice(whole, tmp_path):
    runs = read_results(whole / "few_pairs").measured("inpainting_50")
    shutil.rmtree(whole / "few_pairs" / "runs" / runs[5].id)
    found = where.collect({"few_pairs": read_results(whole / "few_pairs")}).few_pairs
    assert found["50"]["inpainting"].seeds == 5
    assert found["50"]["inpainting"].gain.low > 0.5
    assert not found["50"]["inpainting"].advisable
    assert found["400"]["inpainting"].advisable


def test_processor_times_are_those_of_uninterrupted_runs(whole):
    results = read_results(whole / "few_pairs")
    assert where.time_lines(results, "few_pairs") == []  # the fakes have none
    for run in results.plan.runs.values():
        seconds, attempts = (100.0, 1) if run.stage == "pretext" or run.seed else (1.0, 2)
        results.folder.set_status(run.id, replace(run.status, cpu_seconds=seconds, attempts=attempts))
    (line,) = where.time_lines(read_results(whole / "few_pairs"), "few_pairs")
    assert line.startswith("- Processor time against that of scratch: inpainting, 50 pairs +100%, ")
    assert "steps" not in line


def test_costs_are_in_steps_of_the_plain_network(monkeypatch, capsys):
    class FakeStepper:
        def __init__(self, plan, run):
            self.seconds = 0.05 if run.stage == "pretext" else 0.1

        def step(self, *shape):
            return self.seconds

    monkeypatch.setattr(where, "Stepper", FakeStepper)
    monkeypatch.setattr(where.torch, "set_num_threads", lambda number: None)
    where.measure_costs(2)
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == {"few_pairs", "damaged", "more_pairs"}
    assert all(line.endswith("0.50" if " pretext " in line else "1.00") for line in lines)


def test_a_correlation_needs_groups_and_pretext_runs():
    generator = np.random.default_rng(0)
    found = [
        (f"group {number % 2}", f"pretext {number // 2}", {"val/rankme": value}, 3.0 * (number % 2) + value)
        for number, value in enumerate(generator.normal(size=24))
    ]
    own = where.correlate(found, "val/rankme")
    assert own["rho"] == pytest.approx(1.0)
    assert (own["runs"], own["pretexts"]) == (24, 12)
    assert where.correlate(found[:8], "val/rankme") is None
    assert where.correlate(found, "val/probe_psnr") is None
