import errno
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from tests.study.conftest import TINY
from tests.study.fakes import write, write_evaluation
from wssl_pl.errors import DiskFull, WSSLError
from wssl_pl.evaluation.results import PROTOCOL, read_result
from wssl_pl.provenance import program
from wssl_pl.study import folder as folder_module
from wssl_pl.study.definition import read_studies, read_study, without_composites
from wssl_pl.study.driver import read_step
from wssl_pl.study.folder import Curve, StudyFolder
from wssl_pl.study.plan import Status
from wssl_pl.study.reuse import check_foreign_results, data_source, different_rules, other_data, reuse
from wssl_pl.study.sections import open_sections, reuse_sections, start_sections


@pytest.fixture
def started(declare, tmp_path):
    folder = StudyFolder(tmp_path / "study")
    folder.start(read_study([declare()]))
    return folder


def test_it_gives_back_what_was_begun(started, declare):
    study = read_study([declare()])
    assert started.study() == study
    started.start(study)  # the same one goes on
    assert StudyFolder.open(started.path).plan().final.keys() == study.arms.keys()


def test_a_changed_study_is_refused_with_the_difference(started, declare):
    study = read_study([declare()])
    study.seeds = [0]
    study.options["common"]["data.batch_size"] = 8
    with pytest.raises(WSSLError) as error:
        started.start(study)
    assert "seeds: [0, 1] -> [0]" in str(error.value)
    assert "options.common.data.batch_size: 4 -> 8" in str(error.value)


def test_two_studies_in_one_folder_are_refused(started, declare):
    with pytest.raises(WSSLError, match="holds the study 'tiny': give 'other' another folder"):
        started.start(read_study([declare("other")]))


def test_other_peoples_files_are_left_alone(declare, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(WSSLError, match="not empty and holds no study"):
        StudyFolder(tmp_path / "full").start(read_study([declare()]))


def test_a_study_that_was_killed_while_it_was_written_starts_again(declare, tmp_path):
    (tmp_path / ".wssl-0123.part").touch()
    folder = StudyFolder(tmp_path)
    study = read_study([declare()])
    (tmp_path / "tiny.yaml").unlink()
    folder.start(study)
    (tmp_path / "plan.json").unlink()
    folder.start(study)
    assert len(folder.plan().runs) == 8


def test_a_disk_that_is_full_stops_the_study_and_fails_no_run(started, declare, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder_module, "write_json", full)
    with pytest.raises(DiskFull, match=r"status\.json cannot be written: No space left"):
        started.set_status(next(iter(started.plan().runs)), Status("done"))
    with pytest.raises(WSSLError, match=r"out=.*: cannot be written: No space left on device: make room"):
        StudyFolder(tmp_path / "other").start(read_study([declare()]))


def test_a_folder_without_a_study(tmp_path):
    with pytest.raises(WSSLError, match="does not exist"):
        StudyFolder.open(tmp_path / "nothing")
    with pytest.raises(WSSLError, match="holds no study"):
        StudyFolder.open(tmp_path)


def test_status_is_kept_and_a_damaged_one_begins_again(started):
    identity = next(iter(started.plan().runs))
    assert started.status(identity).state == "waiting"
    started.set_status(identity, Status("failed", reason="the loss is not finite", attempts=2))
    assert started.status(identity) == Status("failed", reason="the loss is not finite", attempts=2)
    (started.run(identity) / "status.json").write_text("{")
    assert started.status(identity).state == "waiting"


def test_finished_runs_are_taken_over_from_another_study(started, declare, tmp_path):
    first, second, *_ = started.plan().runs
    started.set_status(first, Status("done", steps=12))
    started.set_status(second, Status("failed"))
    other = StudyFolder(tmp_path / "again")
    other.start(read_study([declare()]))
    assert reuse(other, started, other.plan()) == 1
    assert other.status(first) == Status("done", steps=12)
    assert other.status(second).state == "waiting"


def test_studies_can_be_moved_together_and_a_link_to_nothing_is_dropped(declare, tmp_path):
    a, b = (StudyFolder(tmp_path / "both" / name) for name in "ab")
    for folder in (a, b):
        folder.start(read_study([declare()]))
    first = next(iter(a.plan().runs))
    a.set_status(first, Status("done"))
    reuse(b, a, b.plan())
    (tmp_path / "both").rename(tmp_path / "moved")
    a, b = (StudyFolder(tmp_path / "moved" / name) for name in "ab")
    assert b.status(first).state == "done"
    a.path.rename(tmp_path / "elsewhere")
    assert b.status(first).state == "waiting"
    assert reuse(b, StudyFolder(tmp_path / "elsewhere"), b.plan()) == 1
    assert b.status(first).state == "done"
    shutil.rmtree(tmp_path / "elsewhere")
    assert b.drop_dead_links() == 1
    b.set_status(first, Status("running"))


def test_results_of_other_pairs_from_elsewhere_are_not_taken_over(started, declare, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = (StudyFolder(tmp_path / "studies" / name) for name in ("grey", "noisy"))
    for folder in (a, b):
        folder.start(read_study([declare(out_of_domain=folder.path.name)]))
    assert different_rules(b, a) == {"out_of_domain": ("noisy", "grey")}
    assert different_rules(b, started) == {}
    run = next(run for run in a.plan().runs.values() if run.reported)
    write_evaluation(a.run(run.id) / "out_of_domain", np.full(4, 24.0))
    a.measured(run, "out_of_domain")  # where the pairs are on another machine
    write(tmp_path / "grey" / "manifest.json", {"hash": "a" * 64})
    a.measured(run, "out_of_domain")
    write(tmp_path / "grey" / "manifest.json", {"hash": "b" * 64})
    with pytest.raises(WSSLError, match="was measured on other pairs"):
        a.measured(run, "out_of_domain")


def test_runs_that_were_chosen_by_other_rules_are_not_taken_over(started, declare, tmp_path):
    started.set_status(next(iter(started.plan().runs)), Status("done", steps=12))
    other = StudyFolder(tmp_path / "again")
    study = read_study([declare()])
    other.start(replace(study, validations=study.validations + 1))
    with pytest.raises(WSSLError, match=rf"has validations={study.validations} where this study has"):
        reuse(other, started, other.plan())


def test_runs_on_other_data_are_not_taken_over(declare, tmp_path, monkeypatch):
    common = {key: value for key, value in TINY["common"].items() if key not in ("data.images", "data.masks")}
    folders = []
    for place in ("here", "there", "link"):
        (tmp_path / place).mkdir() if place != "link" else (tmp_path / place).symlink_to("here")
        (tmp_path / place / "faces").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / place)
        folder = StudyFolder(tmp_path / "studies" / place)
        folder.start(read_study([declare(common=common | {"data.images": "faces"})]))
        folders.append(folder)
    here, there, link = folders
    run = next(iter(here.plan().runs))
    here.set_status(run, Status("done", steps=12))
    assert other_data(there, here, there.plan()) == {run: f"images={tmp_path}/here/faces, not {tmp_path}/there/faces"}
    assert reuse(there, here, there.plan()) == 0
    assert other_data(link, here, link.plan()) == {}
    assert reuse(link, here, link.plan()) == 1
    # Without data of its own a study has the synthetic dataset, in a folder with some it has these.
    (tmp_path / "here" / "data" / "qd_imd").mkdir(parents=True)
    assert data_source("masks", None, tmp_path / "here") == str(tmp_path / "here" / "data" / "qd_imd")
    assert data_source("masks", None, tmp_path / "there") == "synthetic"
    # The data of a study that has been moved to another machine cannot be compared.
    (tmp_path / "here").rename(tmp_path / "gone")
    assert reuse(there, here, there.plan()) == 1


def test_a_trial_is_not_taken_for_a_run_that_is_validated_more_often(declare, tmp_path):
    searched, plain = (StudyFolder(tmp_path / name) for name in ("searched", "plain"))
    searched.start(read_study([declare(tune={"values": [1e-3, 1e-2], "steps": 4, "seed": 5})]))
    plain.start(read_study([declare(seeds=[5])]))
    trial = next(run.id for run in searched.plan().runs.values() if run.trial and run.stage == "pretext")
    assert trial in plain.plan().runs
    searched.set_status(trial, Status("done", steps=12))
    assert reuse(plain, searched, plain.plan()) == 0


def test_runs_of_another_study_have_to_be_measured_on_this_ones_pairs(started, declare, tmp_path):
    run = next(run for run in started.plan().runs.values() if run.reported)
    started.set_status(run.id, Status("done", steps=run.steps))
    write_evaluation(started.run(run.id) / "evaluation", np.full(4, 24.0))
    other = StudyFolder(tmp_path / "again")
    other.start(read_study([declare()]))
    assert reuse(other, started, other.plan()) == 1
    write(other.path / "pairs" / "manifest.json", {"hash": "a" * 64})
    check_foreign_results(other)
    for folder in (started, other):
        write(folder.path / "pairs" / "manifest.json", {"hash": "b" * 64})
    # A run of the study itself is measured again.
    check_foreign_results(started)
    assert not started.is_done(run, measured=True)
    with pytest.raises(WSSLError, match=r"on other pairs than those of the study .*: remove this in .*, a link"):
        check_foreign_results(other)
    assert (started.run(run.id) / "evaluation").is_dir()
    other.run(run.id).unlink()
    # Nor is it linked again.
    assert reuse(other, started, other.plan()) == 0
    assert other_data(other, started, other.plan()) == {run.id: "measured on other pairs"}


def test_results_of_another_protocol_are_measured_again(started, declare, tmp_path):
    first, second = [run for run in started.plan().runs.values() if run.reported][:2]
    for run, protocol in ((first, PROTOCOL + 1), (second, 0)):
        started.set_status(run.id, Status("done", steps=run.steps))
        path = started.run(run.id) / "evaluation"
        write_evaluation(path, np.full(4, 24.0))
        replace(read_result(path), protocol=protocol).save(path)
    assert not started.is_done(first, measured=True)
    assert started.is_done(second, measured=True)  # not known
    other = StudyFolder(tmp_path / "again")
    other.start(read_study([declare()]))
    assert reuse(other, started, other.plan()) == 2
    with pytest.raises(WSSLError, match=rf"by protocol {PROTOCOL + 1}, this program measures by {PROTOCOL}: remove"):
        check_foreign_results(other)


def test_a_link_into_another_study_is_not_written_through(started, declare, tmp_path):
    run = next(run for run in started.plan().runs.values() if run.reported)
    started.set_status(run.id, Status("done", steps=run.steps))
    (started.run(run.id) / "evaluation").mkdir()
    (started.run(run.id) / "evaluation" / "summary.json").write_text("{")
    other = StudyFolder(tmp_path / "again")
    other.start(read_study([declare()]))
    assert reuse(other, started, other.plan()) == 1
    with pytest.raises(WSSLError, match="remove this in"):
        check_foreign_results(other)
    (started.run(run.id) / "evaluation" / "summary.json").unlink()
    (started.run(run.id) / "evaluation").rmdir()
    check_foreign_results(other)


def test_a_classical_method_is_measured_in_every_study(declare, tmp_path):
    arms = {"telea": {"pretext": "none", "method": "telea"}, "plain": {"pretext": "none"}}
    one, two = (StudyFolder(tmp_path / name) for name in ("one", "two"))
    for folder in (one, two):
        folder.start(read_study([declare(arms=arms, claims=[])]))
    method = next(run for run in one.plan().runs.values() if run.stage == "method")
    one.set_status(method.id, Status("done"))
    assert reuse(two, one, two.plan()) == 0
    # A link of an earlier version is removed before it is measured here.
    two.run(method.id).parent.mkdir()
    two.run(method.id).symlink_to(one.run(method.id))
    check_foreign_results(two)
    two.unlink(method)
    assert not two.run(method.id).exists()
    assert one.status(method.id).state == "done"


def test_sections_share_runs_with_those_of_the_same_rules(declare, tmp_path):
    section = {"seeds": [0], "tune": {"values": [1e-3, 1e-2], "steps": 4}}
    restoring = {**section, "downstream": {"restore": ["sharpness"]}}
    studies = read_studies([declare(sections={"a": section, "b": section, "c": restoring})])
    studies = {name: without_composites(study) for name, study in studies.items()}
    a, b, c = start_sections(tmp_path / "whole", studies)
    a.set_status(next(iter(a.plan().runs)), Status("done", steps=12))
    assert reuse_sections(c, [a, b, c], c.plan()) == 0
    assert reuse_sections(b, [a, b, c], b.plan()) == 1
    with pytest.raises(WSSLError, match=r"has tune\.metric=psnr_composite where this study has psnr"):
        reuse_sections(c, [a, b], c.plan())


def test_finished_runs_of_another_version_of_the_program_are_counted(started):
    first, second, third, *_ = [run.id for run in started.plan().runs.values() if run.steps]
    for identity, record in ((first, program()), (second, {"code": "0123456789ab"}), (third, None)):
        started.set_status(identity, Status("done", steps=12))
        if record is not None:
            (started.run(identity) / "run.json").write_text(json.dumps(record))
    assert started.count_other_programs() == 2


def test_curves_come_from_metrics_csv(study):
    """A step that a resumed run has logged again counts once, with its last value."""
    path = study.run("a-run")
    path.mkdir(parents=True)
    assert study.curves("a-run") == {}
    rows = ["step,train/loss,val/psnr", "0,0.5,", "1,,10.0", "2,0.4,", "2,,11.0", "2,,12.0", "3,,13.0", "4,,1"]
    (path / "metrics.csv").write_text("\n".join(rows))  # the last row is being written
    assert study.curves("a-run") == {"val/psnr": Curve("val/psnr", (1, 2, 3), (10.0, 12.0, 13.0))}
    assert read_step(path) == 3


def test_the_curve_of_a_run_of_version_1_is_read(study):
    study.run("a-run").mkdir(parents=True)
    (study.run("a-run") / "curve.json").write_text('{"val/psnr": [[4, 20.5], [9, 21.0]]}')
    assert study.curves("a-run") == {"val/psnr": Curve("val/psnr", (4, 9), (20.5, 21.0))}


def test_each_section_has_a_folder_and_those_that_were_started_are_found_again(declare, tmp_path):
    path, out = declare(sections={"a": {"seeds": [0]}, "b": {}, "c": {}}), tmp_path / "whole"
    (a,) = start_sections(out, read_studies([path], ["a"]))
    assert a.path == out / "a"
    assert [folder.path.name for folder in open_sections(out)] == ["a"]
    start_sections(out, read_studies([path], ["b", "a"]))
    assert [folder.study().name for folder in open_sections(out)] == ["tiny_a", "tiny_b"]
    with pytest.raises(WSSLError, match="was started with other settings"):
        start_sections(out, read_studies([declare(sections={"a": {"seeds": [1]}})]))
    assert [folder.path for folder in open_sections(a.path)] == [a.path]
    with pytest.raises(WSSLError, match="holds a study without sections"):
        start_sections(a.path, read_studies([path]))
    (out / "sections.json").write_text('["../a"]')
    with pytest.raises(WSSLError, match="is no name"):
        open_sections(out)
