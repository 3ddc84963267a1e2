import pytest

from tests.study.fakes import FakeArm, Noise, one_task, write_study
from wssl_pl.study import content
from wssl_pl.study.results import read_results
from wssl_pl.study.summary import summarise


def ranking_of(folder, arms, **given):
    summary = summarise(read_results(write_study(folder / "study", arms, [], **given)))
    return summary, summary["ranking"]


def test_the_best_comes_first_and_the_intervals_hold_the_true_differences(tmp_path):
    arms = {"low": FakeArm(effect=-1.0), "high": one_task("rotation", effect=0.5), "middle": FakeArm()}
    summary, ranking = ranking_of(tmp_path, arms, seeds=(0, 1, 2, 3, 4))
    assert [entry["arm"] for entry in ranking] == ["high", "middle", "low"]
    assert ranking[0]["difference"] == 0
    for entry, true in zip(ranking[1:], (-0.5, -1.5), strict=True):
        assert entry["low"] < true < entry["high"]
        assert entry["difference"] == pytest.approx((entry["low"] + entry["high"]) / 2)
    shown = "".join(str(block) for block in content.order(summary))
    assert shown.index("high") < shown.index("middle") < shown.index("low:")


def test_an_arm_that_still_rises_has_no_rank(tmp_path):
    arms = {"a": FakeArm(), "b": FakeArm(effect=-1.0), "c": FakeArm(effect=3.0, rise=0.4)}
    summary, ranking = ranking_of(tmp_path, arms)
    assert [entry["arm"] for entry in ranking] == ["a", "b"]
    assert "Without a rank, as they still rose: c (" in str(content.order(summary)[-1])


def test_seeds_that_only_one_arm_has_do_not_count_in_the_interval(tmp_path):
    missing = {1: ("failed", "the loss is NaN"), 2: ("failed", "the loss is NaN")}
    arms = {"a": FakeArm(effect=1.0), "b": FakeArm(states=missing)}
    summary, ranking = ranking_of(tmp_path, arms, noise=Noise(run=0.0))
    assert ranking[1]["low"] is None
    assert "b: -" in "".join(str(block) for block in content.order(summary))


def test_one_arm_alone_is_no_ranking(tmp_path):
    summary, ranking = ranking_of(tmp_path, {"a": FakeArm()})
    assert [entry["arm"] for entry in ranking] == ["a"]
    assert content.order(summary) == []
