import pytest

from tests.study.fakes import FakeArm, Noise, one_task, write_study
from wssl_pl.study.plots import task_plot
from wssl_pl.study.report import page, ranking_lines
from wssl_pl.study.results import read_results
from wssl_pl.study.summary import summarise


def ranking_of(folder, arms, **given):
    results = read_results(write_study(folder / "study", arms, [], **given))
    report = summarise(results)
    return report, report.ranking, page(results, report)


def test_the_best_comes_first_and_the_intervals_hold_the_true_differences(tmp_path):
    arms = {"low": FakeArm(effect=-1.0), "high": one_task("rotation", effect=0.5), "middle": FakeArm()}
    report, ranking, shown = ranking_of(tmp_path, arms, seeds=(0, 1, 2, 3, 4))
    assert [entry.arm for entry in ranking] == ["high", "middle", "low"]
    assert ranking[0].difference == 0
    for entry, true in zip(ranking[1:], (-0.5, -1.5), strict=True):
        assert entry.low < true < entry.high
        assert entry.difference == pytest.approx((entry.low + entry.high) / 2)
    assert [line.split(":")[0].split("**")[0] for line in shown["ranking"]] == ["high", "middle", "low"]
    assert shown["ranking"] == ranking_lines(report)


def test_an_arm_that_still_rises_has_no_rank(tmp_path):
    arms = {"a": FakeArm(), "b": FakeArm(effect=-1.0), "c": FakeArm(effect=3.0, rise=0.4)}
    _, ranking, shown = ranking_of(tmp_path, arms)
    assert [entry.arm for entry in ranking] == ["a", "b"]
    assert "Without a rank, as they still rise: c (" in shown["unranked"]


def test_an_arm_that_lacks_seeds_has_no_rank(tmp_path):
    missing = {1: ("failed", "the loss is NaN"), 2: ("failed", "the loss is NaN")}
    arms = {"a": FakeArm(effect=1.0), "b": FakeArm(states=missing)}
    _, ranking, shown = ranking_of(tmp_path, arms, noise=Noise(run=0.0))
    assert [entry.arm for entry in ranking] == ["a"]
    assert "Without a rank, as they lack seeds: b (" in shown["unranked"]


def test_an_arm_without_a_validation_curve_has_no_rank(tmp_path):
    folder = write_study(tmp_path / "study", {"a": FakeArm(), "b": FakeArm(effect=1.0)}, [])
    (folder / "runs" / "downstream-s1-b" / "curve.json").unlink()
    results = read_results(folder)
    report = summarise(results)
    assert [entry.arm for entry in report.ranking] == ["a"]
    assert "Without a rank, as a seed has fewer than two validations: b (" in page(results, report)["unranked"]


def test_figure_4_has_any_number_of_tasks(tmp_path):
    tasks = ["rotation", "saturation", "sharpness", "contrast", "blur"]
    arms = {"five": FakeArm(pretext={"model.tasks": tasks}), "none": FakeArm()}
    report, _, _ = ranking_of(tmp_path, arms)
    assert task_plot(report.arms) is not None
    assert task_plot({"none": report.arms["none"]}) is None


def test_one_arm_alone_is_no_ranking(tmp_path):
    _, ranking, shown = ranking_of(tmp_path, {"a": FakeArm()})
    assert [entry.arm for entry in ranking] == ["a"]
    assert shown["ranking"] == []
