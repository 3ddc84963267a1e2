"""A study's results as JSON, and back."""

import io
import json

import numpy as np
import pytest

from tests.study.conftest import TINY
from tests.study.fakes import write_curve, write_evaluation
from tests.study.test_driver import FakeRay
from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.results import PROTOCOL
from wssl_pl.files import owned, write_json
from wssl_pl.study import driver
from wssl_pl.study import transfer as module
from wssl_pl.study.definition import read_studies, read_study
from wssl_pl.study.driver import Resources, run_study
from wssl_pl.study.folder import Session, StudyFolder
from wssl_pl.study.plan import Status
from wssl_pl.study.results import read_results
from wssl_pl.study.reuse import reuse
from wssl_pl.study.sections import open_sections, start_sections
from wssl_pl.study.summary import summarise
from wssl_pl.study.transfer import export_study, import_study


@pytest.fixture
def finished(study):
    """A study with one fine-tuned run left to do."""
    generator = np.random.default_rng(0)
    for run in study.plan().runs.values():
        if run.id == last(study):
            continue
        study.set_status(run.id, Status("done", seconds=10.0, steps=run.steps, wall_seconds=20.0))
        write_curve(study.run(run.id), run.seed, 0.0, generator)
        if run.reported:
            values = generator.normal(24 + len(run.arms[0]), 2, 20)
            write_evaluation(study.run(run.id) / "evaluation", values)
            summary = study.run(run.id) / "evaluation" / "summary.json"
            facts = json.loads(summary.read_text())
            facts["method"]["name"] = "/home/someone/best.ckpt"
            facts["weights"] = {"lpips": {"file": "alex.pth", "sha256": "0" * 64, "network": "alex"}}
            write_json(summary, facts)
    study.set_sessions([Session(100.0, 2.0, 190.0)])
    return study


def last(study):
    return study.plan().final["fine_tuned"][1]


def test_an_imported_study_has_the_report_of_the_exported_one(finished, tmp_path):
    out = tmp_path / "json"
    assert export_study(finished.path, out) == 7
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    assert export_study(finished.path, out) == 7
    assert {path: path.stat().st_mtime_ns for path in before} == before, "it was written again"

    assert "someone" not in "".join(path.read_text() for path in out.rglob("*.json"))
    assert import_study(out, tmp_path / "back") == 7
    back = StudyFolder(tmp_path / "back")
    assert back.sessions() == finished.sessions()
    assert import_study(out, back.path) == 0
    measured, kept = (read_results(folder.path).evaluations for folder in (finished, back))
    assert {one.protocol for one in measured.values()} == {one.protocol for one in kept.values()} == {PROTOCOL}
    assert {one.weights["lpips"].network for one in kept.values()} == {"alex"}
    first, second = (summarise(read_results(folder.path)) for folder in (finished, back))
    assert first.runs == second.runs
    for name, arm in first.arms.items():
        again = second.arms[name]
        assert (again.runs, again.minutes) == (arm.runs, arm.minutes)
        assert again.convergence.slope == pytest.approx(arm.convergence.slope, abs=1e-4)
        for metric, spread in arm.metrics.items():
            assert again.metrics[metric].mean == pytest.approx(spread.mean, abs=1e-3)
    one, two = (report.verdicts["tiny"][0].comparisons["psnr_composite"] for report in (first, second))
    assert one.difference.mean == pytest.approx(two.difference.mean, abs=1e-3)
    assert one.state == two.state


def test_a_resumed_import_trains_what_is_missing_and_the_pretext_that_it_needs(finished, tmp_path, monkeypatch):
    export_study(finished.path, tmp_path / "json")
    import_study(tmp_path / "json", tmp_path / "back")
    back, trained = StudyFolder(tmp_path / "back"), []

    def played(folder, plan, run, cwd, pairs):
        trained.append(run.id)
        return folder.set_status(run.id, Status("done", steps=run.steps))

    monkeypatch.setattr(driver, "execute", played)
    monkeypatch.setattr(driver, "start_ray", lambda resources: FakeRay())
    run = back.plan().runs[last(back)]
    run_study(back, Resources(), None, out=io.StringIO())
    assert trained == [run.pretext, run.id]


def test_a_pretext_trained_again_comes_with_the_first_run_that_waits_for_it(declare, tmp_path, monkeypatch):
    arms = {name: TINY["arms"][name] for name in ("frozen", "scratch", "fine_tuned")}
    study, trained = StudyFolder(tmp_path / "study"), []
    study.start(read_study([declare(arms=arms)]))

    def played(folder, plan, run, cwd, pairs):
        trained.append(run.id)
        write_evaluation(folder.run(run.id) / "evaluation", np.full(20, 24.0))
        return folder.set_status(run.id, Status("done", steps=run.steps))

    monkeypatch.setattr(driver, "execute", played)
    monkeypatch.setattr(driver, "start_ray", lambda resources: FakeRay())
    final = study.plan().final
    for run in study.plan().runs.values():
        if "frozen" in run.arms:
            played(study, None, run, None, None)
    export_study(study.path, tmp_path / "json")
    import_study(tmp_path / "json", tmp_path / "back")
    trained.clear()
    run_study(StudyFolder(tmp_path / "back"), Resources(parallel=1), None, out=io.StringIO())
    runs = study.plan().runs
    again = [name for run in final["fine_tuned"].values() for name in (runs[run].pretext, run)]
    assert trained == [*final["scratch"].values(), *again]


def test_a_changed_definition_takes_what_stays_the_same(finished, declare, tmp_path):
    export_study(finished.path, tmp_path / "json")
    import_study(tmp_path / "json", tmp_path / "back")
    arms = TINY["arms"] | {"scratch": {"pretext": "none", "steps": "total"}}
    changed = read_study([declare(arms=arms)])
    with pytest.raises(WSSLError, match=r"was started with other settings .*reuse="):
        StudyFolder(tmp_path / "back").start(changed)
    other = StudyFolder(tmp_path / "other")
    other.start(changed)
    assert reuse(other, StudyFolder(tmp_path / "back"), other.plan()) == 5  # all but the two of `scratch`


def test_sections_come_back_as_sections(declare, tmp_path):
    studies = read_studies([declare(sections={"a": {"seeds": [0]}, "b": {"seeds": [3]}})])
    for folder in start_sections(tmp_path / "whole", studies):
        pretext = next(iter(folder.plan().runs))
        folder.set_status(pretext, Status("done"))
    assert export_study(tmp_path / "whole", tmp_path / "json") == 2
    assert import_study(tmp_path / "json", tmp_path / "back") == 2
    assert [folder.study() for folder in open_sections(tmp_path / "back")] == list(studies.values())


def test_sections_that_were_exported_before_stay(declare, tmp_path):
    path = declare(sections={"a": {"seeds": [0]}, "b": {"seeds": [3]}})
    for name, sessions in (("a", 2), ("b", 1)):
        (folder,) = start_sections(tmp_path / name, read_studies([path], [name]))
        folder.set_status(next(iter(folder.plan().runs)), Status("done"))
        folder.set_sessions([Session(100.0, 2.0, 190.0)] * sessions)
        export_study(tmp_path / name, tmp_path / "json")
    assert import_study(tmp_path / "json", tmp_path / "back") == 2
    a = StudyFolder(tmp_path / "a" / "a")
    a.set_sessions(a.sessions()[:1])  # as on a machine that did not import the others
    export_study(tmp_path / "a", tmp_path / "json")
    assert len(StudyFolder(tmp_path / "json" / "a").sessions()) == 2


def test_a_killed_import_is_made_again(finished, tmp_path, monkeypatch):
    export_study(finished.path, tmp_path / "json")
    written = []

    def killed(path, value):
        written.append(path)
        if len(written) == 4:
            raise KeyboardInterrupt
        write_json(path, value)

    monkeypatch.setattr(module, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        import_study(tmp_path / "json", tmp_path / "back")
    monkeypatch.undo()
    back = StudyFolder(tmp_path / "back")
    done = [path.parent for path in back.path.glob("runs/*/status.json")]
    assert 0 < len(done) < 7
    assert import_study(tmp_path / "json", back.path) + len(done) == 7


def test_a_run_that_the_folder_has_itself_stays(finished, tmp_path):
    export_study(finished.path, tmp_path / "json")
    import_study(tmp_path / "json", tmp_path / "back")
    back = StudyFolder(tmp_path / "back")
    first = next(iter(back.plan().runs))
    back.set_status(first, Status("done", seconds=1.0))
    assert import_study(tmp_path / "json", back.path) == 0
    assert back.status(first).seconds == 1.0


def test_a_half_trained_encoder_does_not_become_that_of_the_imported_run(finished, tmp_path):
    export_study(finished.path, tmp_path / "json")
    back = StudyFolder(tmp_path / "back")
    back.start(finished.study())
    identity = back.plan().runs[last(back)].pretext
    back.set_status(identity, Status("running", steps=3))
    for name in ("best.ckpt", "last.ckpt", "metrics.csv"):
        (back.run(identity) / name).write_bytes(b"half")
    assert import_study(tmp_path / "json", back.path) == 7
    assert back.is_imported(identity)


def test_an_import_into_a_study_in_use_is_refused(finished, tmp_path):
    export_study(finished.path, tmp_path / "json")
    out = tmp_path / "back"
    with owned(out), pytest.raises(WSSLError, match=r"out=.*back: .*another process"):
        import_study(tmp_path / "json", out)


@pytest.mark.parametrize("text", ["[", "{}", '{"status": {"state": "done"}, "result": 3}'])
def test_a_damaged_export_is_refused_before_anything_is_written(finished, tmp_path, text):
    export_study(finished.path, tmp_path / "json")
    next((tmp_path / "json" / "runs").glob("downstream-*")).write_text(text)
    with pytest.raises(WSSLError, match=r"downstream-.*\.json: cannot be read"):
        import_study(tmp_path / "json", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_another_study_is_refused(finished, tmp_path):
    export_study(finished.path, tmp_path / "json")
    path = tmp_path / "json" / "study.json"
    changed = json.loads(path.read_text())
    changed["study"]["seeds"] = [0]
    import_study(tmp_path / "json", tmp_path / "back")
    path.write_text(json.dumps(changed))
    with pytest.raises(WSSLError, match=r"was started with other settings \(seeds"):
        import_study(tmp_path / "json", tmp_path / "back")
    with pytest.raises(WSSLError, match=r"was started with other settings \(seeds"):
        export_study(finished.path, tmp_path / "json")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(WSSLError, match="is not empty and holds no study"):
        export_study(finished.path, tmp_path / "full")
