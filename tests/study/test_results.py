import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from tests.study.fakes import FakeArm, one_task, write, write_evaluation, write_study
from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.results import PROTOCOL, Weights, read_result
from wssl_pl.study.definition import Arm, Claim, Tuning, long_names, read_study
from wssl_pl.study.folder import Curve
from wssl_pl.study.plan import make_plan
from wssl_pl.study.report import write_report
from wssl_pl.study.results import read_results
from wssl_pl.study.summary import Trial, summarise
from wssl_pl.study.verdicts import Spread, chance, scores, tasks_of

BETTER = Claim("a beats b", ["a"], ["b"])


def test_a_folder_that_is_no_study(tmp_path):
    with pytest.raises(WSSLError, match="holds no study"):
        read_results(tmp_path)
    with pytest.raises(WSSLError, match="does not exist"):
        read_results(tmp_path / "nowhere")
    (tmp_path / "study.json").write_text('{"version": 1, "study": {"name"')
    with pytest.raises(WSSLError, match="cannot be read"):
        read_results(tmp_path)
    write(tmp_path / "study.json", {"version": 1, "study": {"name": "old"}})
    with pytest.raises(WSSLError, match=r"study\.json: cannot be read \(study\.sections is required\)"):
        read_results(tmp_path)


def test_other_pairs_are_refused(tmp_path):
    folder = write_study(tmp_path / "study", {"a": FakeArm(), "b": FakeArm()}, [BETTER])
    evaluation = folder / "runs" / "downstream-s1-b" / "evaluation"
    write_evaluation(evaluation, np.full(60, 20.0), pairs_hash="b" * 64)
    with pytest.raises(WSSLError, match="other pairs") as caught:
        read_results(folder)
    assert "downstream-s1-b" in str(caught.value)
    assert "\n" not in str(caught.value)
    write_evaluation(evaluation, np.full(59, 20.0))
    with pytest.raises(WSSLError, match="59 of the pairs"):
        read_results(folder)


def test_the_pairs_folder_says_which_are_right(tmp_path):
    folder = write_study(tmp_path / "study", {"a": FakeArm(), "b": FakeArm()}, [BETTER])
    write(folder / "pairs" / "manifest.json", {"hash": "c" * 64})
    with pytest.raises(WSSLError, match=r"on other pairs than those of the study \(hash a+ against c+\)"):
        read_results(folder)


def test_what_is_missing_and_why(tmp_path):
    states = {0: ("failed", "the loss is NaN"), 1: ("running", None), 2: ("absent", None)}
    arms = {"a": one_task("rotation", states=states), "b": one_task("sharpness", states={0: ("waiting", None)})}
    folder = write_study(tmp_path / "study", arms, [BETTER])
    status = folder / "runs" / "pretext-s0-sharpness" / "status.json"
    write(status, json.loads(status.read_text()) | {"state": "failed", "reason": "disk on fire"})
    shutil.rmtree(folder / "runs" / "downstream-s2-b" / "evaluation")
    missing = read_results(folder).missing
    assert missing["a"] == {
        0: ("failed", "the loss is NaN"),
        1: ("running", "started and not finished"),
        2: ("waiting", "not started"),
    }
    assert missing["b"][0][0] == "skipped"
    assert "pretext-s0-sharpness failed: disk on fire" in missing["b"][0][1]
    assert missing["b"][2][0] == "not measured"
    assert 1 not in missing["b"]


def test_a_study_without_a_plan_or_runs(tmp_path):
    folder = write_study(tmp_path / "study", {"a": FakeArm(), "b": FakeArm()}, [BETTER])
    (folder / "plan.json").unlink()
    results = read_results(folder)
    assert results.plan == make_plan(results.study)  # planned again
    assert results.missing["a"][0] == ("waiting", "not started")
    assert results.measured("a") == {}
    write(folder / "plan.json", {"runs": [], "final": {}})
    assert read_results(folder).missing["a"][0][0] == "not planned"
    write(folder / "plan.json", {"runs": [{"id": "x"}], "final": {}})
    with pytest.raises(WSSLError, match=r"plan\.json"):
        read_results(folder)


@pytest.mark.parametrize(
    "damage",
    [
        {"runs": 3, "final": {}},
        {"runs": [], "final": {"a": {"0": "nobody"}}},
        {"runs": [{"id": "../x", "stage": "pretext", "seed": 0, "options": {}, "steps": 1}], "final": {}},
        {"runs": [{"id": "x", "stage": "pretext", "seed": 0, "options": {}, "steps": 1, "needs": ["x"]}], "final": {}},
    ],
)
def test_a_damaged_plan_is_named_with_its_remedy(tmp_path, damage):
    folder = write_study(tmp_path / "study", {"a": FakeArm(), "b": FakeArm()}, [BETTER])
    write(folder / "plan.json", damage)
    with pytest.raises(WSSLError, match=r"plan\.json: cannot be read .*: delete the file; the plan is made again"):
        read_results(folder)


@pytest.mark.parametrize(
    "text", [b"\xff", b"[" * 9999, b"3", b'{"version": 2, "study": {"name": "x", "sections": 3}, "cwd": "/"}']
)
def test_a_damaged_study_is_named_with_its_remedy(tmp_path, text):
    (tmp_path / "study.json").write_bytes(text)
    with pytest.raises(WSSLError, match=r"study\.json: cannot be read .*: start the study again") as error:
        read_results(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("summary", ["[" * 9999, "3", "{}", '{"pairs": 3}'])
def test_a_damaged_result_of_one_run_is_not_the_end_of_the_study(tmp_path, summary):
    folder = write_study(tmp_path / "study", {"a": FakeArm(), "b": FakeArm()}, [BETTER])
    (folder / "runs" / "downstream-s1-b" / "evaluation" / "summary.json").write_text(summary)
    results = read_results(folder)
    assert results.missing["b"][1][0] == "not measured"
    assert len(results.evaluations) == 5


def test_a_damaged_curve_is_named_in_the_report(tmp_path):
    folder = write_study(tmp_path / "study", {"a": FakeArm(), "b": FakeArm()}, [BETTER])
    path = folder / "runs" / "downstream-s1-b" / "curve.json"
    for text in (b"\xff", b"3", b'{"val/psnr": [[1]]}', b"[" * 9999):
        path.write_bytes(text)
        results = read_results(folder)
        assert summarise(results).arms["b"].convergence.state == "unknown"
        assert list(results.damaged) == ["downstream-s1-b"]
        assert f"{path}: cannot be read: remove the folder of the run" in results.damaged["downstream-s1-b"]


def test_a_status_that_is_being_written(tmp_path):
    folder = write_study(tmp_path / "study", {"a": FakeArm(), "b": FakeArm()}, [BETTER])
    (folder / "runs" / "downstream-s0-a" / "status.json").write_text('{"state": "do')
    assert read_results(folder).missing["a"][0][0] == "waiting"


def test_a_shared_pretext_run_counts_for_each_arm(tmp_path):
    frozen, tuned = one_task("rotation"), one_task("rotation", effect=1.0)
    folder = write_study(tmp_path / "study", {"a": frozen, "b": tuned, "c": FakeArm()}, [BETTER])
    results = read_results(folder)
    assert results.plan.runs["pretext-s0-rotation"].arms == ["a", "b"]
    arms = summarise(results).arms
    assert arms["a"].steps == arms["b"].steps == {"pretext": 2500.0, "downstream": 1500.0}
    assert arms["b"].minutes == {"pretext": 10.0, "downstream": 5.0}
    assert arms["c"].steps == {"pretext": 0.0, "downstream": 1500.0}
    assert arms["a"].scores == {"rotation": 0.9}


def test_a_run_that_two_arms_report(tmp_path):
    folder = write_study(tmp_path / "study", {"a": FakeArm(), "b": FakeArm()}, [BETTER])
    plan = json.loads((folder / "plan.json").read_text())
    plan["final"]["b"] = plan["final"]["a"]
    write(folder / "plan.json", plan)
    (verdict,) = summarise(read_results(folder)).verdicts["fake"]
    assert verdict.comparisons["psnr_composite"].difference.mean == 0.0
    assert verdict.state == "not shown"


def test_spread_over_seeds(tmp_path):
    folder = write_study(tmp_path / "study", {"a": FakeArm()}, [])
    for seed, level in enumerate((20.0, 21.0, 22.0)):
        write_evaluation(folder / "runs" / f"downstream-s{seed}-a" / "evaluation", np.full(60, level))
    entry = summarise(read_results(folder)).arms["a"].metrics["psnr_composite"]
    assert entry == Spread(21.0, 1.0, {0: 20.0, 1: 21.0, 2: 22.0})


def test_a_mean_is_of_all_seeds_or_none(tmp_path):
    folder = write_study(tmp_path / "study", {"a": FakeArm()}, [], seeds=(0, 1))
    write_evaluation(folder / "runs" / "downstream-s0-a" / "evaluation", np.full(60, np.inf))
    metrics = summarise(read_results(folder)).arms["a"].metrics
    assert (metrics["psnr_composite"].mean, metrics["psnr_composite"].by_seed[0]) == (None, None)
    assert metrics["psnr_composite"].by_seed[1] is not None
    assert metrics["lpips_composite"] == Spread(None, None, {0: None, 1: None})


def measured_by(folder, run, **facts):
    """Measure a run of a made study again, with other facts."""
    path = folder / "runs" / run / "evaluation"
    result = read_result(path)
    values = np.column_stack([result.table.values, np.full(60, 0.1)])
    table = replace(result.table, metrics=(*result.table.metrics, "lpips_composite"), values=values)
    replace(result, table=table, **facts).save(path)


def test_lpips_of_different_networks_is_omitted(tmp_path):
    folder = write_study(tmp_path / "study", {"a": FakeArm()}, [], seeds=(0, 1))
    weights = {network: {"lpips": Weights(f"{network}.pth", "0" * 64, network)} for network in ("alex", "vgg")}
    for seed in (0, 1):
        measured_by(folder, f"downstream-s{seed}-a", weights=weights["alex"])
    results = read_results(folder)
    assert results.notes == []
    assert summarise(results).arms["a"].metrics["lpips_composite"].mean == pytest.approx(0.1)
    measured_by(folder, "downstream-s1-a", weights=weights["vgg"])
    results = read_results(folder)
    assert summarise(results).arms["a"].metrics["lpips_composite"].mean is None
    assert results.notes == ["LPIPS is omitted: it is of different networks (alex, vgg)"]
    assert results.notes[0] in (write_report(folder) / "report.md").read_text()


def test_results_of_different_protocols_are_refused(tmp_path):
    folder = write_study(tmp_path / "study", {"a": FakeArm()}, [], seeds=(0, 1))
    measured_by(folder, "downstream-s1-a", protocol=0)  # unknown
    read_results(folder)
    measured_by(folder, "downstream-s1-a", protocol=PROTOCOL + 1)
    with pytest.raises(WSSLError, match=rf"s0-a/evaluation: was measured by protocol {PROTOCOL}, .*: remove it and"):
        read_results(folder)


def test_of_equal_scores_the_kept_checkpoint_has_the_lower_loss():
    points = {"val/score": (0.5, 0.5, 0.4), "val/loss": (0.9, 0.8, 0.1), "val/accuracy/rotation": (0.6, 0.7, 0.8)}
    curves = {tag: Curve(tag, (1, 2, 3), values) for tag, values in points.items()}
    assert scores(curves, "val/score") == {"rotation": 0.7}


def test_accuracy_is_that_of_the_kept_checkpoint():
    """best.ckpt is kept by the monitored metric: the mean score is best at step 2, the loss at step 1."""
    points = {
        "val/score": ((1, 2), (0.5, 0.7)),
        "val/loss": ((1, 2), (0.9, 1.0)),
        "val/accuracy/rotation": ((1, 2), (0.9, 0.8)),
        "val/accuracy/sharpness": ((1, 2), (0.1, 0.6)),
    }
    curves = {tag: Curve(tag, *its) for tag, its in points.items()}
    assert scores(curves, "val/score") == {"rotation": 0.8, "sharpness": 0.6}
    assert scores(curves, "val/loss") == {"rotation": 0.9, "sharpness": 0.1}
    assert scores(curves, "val/absent") == scores({}, "val/score") == {}


@pytest.mark.parametrize(
    ("options", "task", "expected"),
    [
        ({}, "sharpness", 1 / 4),
        ({"model.levels.blur": "[1,2]"}, "blur", 1 / 2),
        ({"model.levels": {"blur": [1, 2, 3]}}, "blur", 1 / 3),
        ({"model.levels": {"blur": [1, 2, 3]}}, "sharpness", 1 / 4),
        ({"model.tasks": ["mine.Task"]}, "task", 1 / 4),
        # Of uniform strengths 0.125 to 0.5 are nearest to 0.25, and 0.5 to 0.875 to 0.75.
        ({"model.tasks": ["restoration", "sharpness"]}, "sharpness", 0.375),
        ({"model.tasks": ["restoration", "rotation"]}, "rotation", 1 / 4),
        ({"model.task_loss": 0.1, "model.restore": ["jpeg"]}, "jpeg", 35 / 90),
    ],
)
def test_the_chance_of_a_head(options, task, expected):
    assert chance(options, task) == pytest.approx(expected)


def test_heads_of_joint_training_are_judged_and_heads_without_a_weight_are_not(tmp_path):
    small = {"model.tasks": ["rotation", "saturation"], "model.weights": [1.0, 1e-6]}
    folder = write_study(tmp_path / "study", {"a": FakeArm(), "b": FakeArm(pretext=small)}, [BETTER])
    for seed in range(3):
        path = folder / "runs" / f"downstream-s{seed}-a" / "curve.json"
        scores = {"val/accuracy/saturation": [[10, 0.4], [20, 0.4]], "val/ssim": [[10, 0.5], [20, 0.6]]}
        write(path, json.loads(path.read_text()) | scores)
        path = folder / "runs" / f"pretext-s{seed}-rotation-saturation-1.0-1e-06" / "curve.json"
        write(path, json.loads(path.read_text()) | {"val/accuracy/saturation": [[1249, 0.25], [2499, 0.25]]})
    plan = json.loads((folder / "plan.json").read_text())
    for run in plan["runs"]:
        if run["arms"] == ["a"]:
            run["options"] = {"model.task_loss": 0.1, "model.restore": ["saturation"]}
    write(folder / "plan.json", plan)
    arms = summarise(read_results(folder)).arms
    assert arms["a"].scores == pytest.approx({"saturation": 0.4})
    assert arms["a"].near_chance == {"saturation": 3}  # below 1.2 x 0.375
    assert arms["b"].scores["saturation"] == 0.25
    assert arms["b"].near_chance == {}


def test_tasks_and_weights(declare):
    study = read_study([declare()])

    def arm(**options):
        return tasks_of(study, Arm(long_names(options)))

    assert arm(tasks=["rotation", "sharpness"], weights=[3, 1]) == (["rotation", "sharpness"], [0.75, 0.25])
    assert arm(**{"model.tasks": "[rotation,sharpness]"}) == (["rotation", "sharpness"], [0.5, 0.5])
    assert arm(tasks=["rotation"], weighting="uncertainty") == (["rotation"], None)
    assert tasks_of(study, Arm(None)) == ([], [])
    study.options["pretext"]["model.weighting"] = "uncertainty"
    assert arm(tasks=["rotation"]) == (["rotation"], None)


def test_minutes_are_those_of_uninterrupted_trainings(tmp_path):
    folder = write_study(tmp_path / "study", {"a": FakeArm(), "b": FakeArm()}, [BETTER])
    for run, seconds in (("downstream-s0-a", 30.0), *((f"downstream-s{seed}-b", 120.0) for seed in range(3))):
        path = folder / "runs" / run / "status.json"
        write(path, json.loads(path.read_text()) | {"seconds": seconds, "attempts": 2})
    arms = summarise(read_results(folder)).arms
    assert arms["a"].minutes["downstream"] == 5.0  # the other two seeds
    assert arms["b"].minutes["downstream"] == 2.0  # there are no others


def test_the_search(tmp_path):
    tune = Tuning(values=[0.001, 0.01])
    folder = write_study(tmp_path / "study", {"a": FakeArm(), "b": FakeArm()}, [BETTER], tune=tune)
    summary = summarise(read_results(folder))
    search = summary.searches["a"]
    assert search.tried == {0.001: Trial(19.0, "done", None), 0.01: Trial(10.0, "done", None)}
    assert search.chosen == [0.001]
    # Trials are no results.
    assert summary.arms["a"].minutes["downstream"] == 5.0
