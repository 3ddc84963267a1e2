"""Verdicts on fake studies whose true effects are known."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.study.fakes import FakeArm, Noise, one_task, write_evaluation, write_study
from wssl_pl.evaluation.statistics import Difference
from wssl_pl.study.definition import Claim, Section
from wssl_pl.study.report import sentence
from wssl_pl.study.results import read_results
from wssl_pl.study.summary import summarise
from wssl_pl.study.verdicts import overall, state_of

BETTER = Claim("good beats plain", ["good"], ["plain"])


def verdicts(folder):
    return [verdict for section in summarise(read_results(folder)).verdicts.values() for verdict in section]


def judged(tmp_path, arms, *claims, **given):
    return verdicts(write_study(tmp_path / "study", arms, list(claims), **given))


def test_a_real_difference_is_found_and_its_opposite_refuted(tmp_path):
    worse = Claim("plain beats good", ["plain"], ["good"])
    yes, no = judged(tmp_path, {"good": FakeArm(effect=0.5), "plain": FakeArm()}, BETTER, worse)
    assert (yes.state, no.state) == ("supported", "refuted")
    entry = yes.comparisons["psnr_composite"]
    assert entry.difference.low < 0.5 < entry.difference.high
    assert entry.difference.mean == pytest.approx(entry.better - entry.than)
    assert entry.difference.mean == pytest.approx(-no.comparisons["psnr_composite"].difference.mean)
    assert (sum(value > 0 for value in entry.difference.by_seed), entry.family) == (3, 2)
    assert entry.difference.p < entry.p < 0.05
    assert yes.seeds == [0, 1, 2]


def test_no_difference_is_not_shown(tmp_path):
    (verdict,) = judged(tmp_path, {"good": FakeArm(), "plain": FakeArm()}, BETTER)
    assert (verdict.state, verdict.reason) == ("not shown", "the interval contains 0")


def test_a_seed_is_what_counts_and_not_an_image(tmp_path):
    """Differences that a run's chance makes are not shown, though every image of a seed agrees."""
    noise = Noise(run=0.5, rest=0.01)
    (verdict,) = judged(tmp_path, {"good": FakeArm(effect=0.3), "plain": FakeArm()}, BETTER, noise=noise, images=200)
    entry = verdict.comparisons["psnr_composite"]
    assert verdict.state == "not shown"
    assert entry.difference.high - entry.difference.low > 1.0


def test_an_arm_that_still_rises_takes_no_part(tmp_path):
    (verdict,) = judged(tmp_path, {"good": FakeArm(effect=2.0, rise=0.2), "plain": FakeArm()}, BETTER)
    assert verdict.state == "not decided"
    assert "good not converged" in verdict.reason
    assert verdict.comparisons == {}


def test_claims_whose_arms_were_not_asked_for_count_in_the_correction(tmp_path):
    arms = {"good": FakeArm(effect=0.5), "plain": FakeArm()}
    sections = [Section("fake", "A fake study", list(arms), [BETTER], omitted_claims=5)]
    one, (six,) = (
        judged(tmp_path, arms, BETTER)[0],
        verdicts(write_study(tmp_path / "six", arms, [], sections=sections)),
    )
    assert six.comparisons["psnr_composite"].family == 6
    assert six.comparisons["psnr_composite"].p == pytest.approx(6 * one.comparisons["psnr_composite"].p)


def test_where_convergence_is_reported_claims_are_about_the_declared_steps(tmp_path):
    folder = write_study(tmp_path / "study", {"good": FakeArm(effect=2.0, rise=0.2), "plain": FakeArm()}, [BETTER])
    values = json.loads((folder / "study.json").read_text())
    values["study"]["convergence"] = "reported"
    (folder / "study.json").write_text(json.dumps(values))
    (verdict,) = verdicts(folder)
    assert verdict.state == "supported"
    report = summarise(read_results(folder))
    assert [entry.arm for entry in report.ranking] == ["good", "plain"]
    assert sentence(verdict, report, 3).endswith("Not converged in these steps: good.")


def test_a_group_goes_on_without_an_arm_that_is_omitted(tmp_path):
    arms = {"a": FakeArm(effect=1.0), "b": FakeArm(effect=9.0, rise=0.5), "c": FakeArm(effect=1.2), "plain": FakeArm()}
    (verdict,) = judged(tmp_path, arms, Claim("three beat one", ["a", "b", "c"], ["plain"]))
    assert verdict.state == "supported"
    assert list(verdict.omitted) == ["b"]
    assert verdict.comparisons["psnr_composite"].difference.mean == pytest.approx(1.1, abs=0.15)


def test_a_group_of_which_less_than_half_is_left_decides_nothing(tmp_path):
    arms = {"a": FakeArm(1.0), "b": FakeArm(1.0, rise=0.5), "c": FakeArm(1.0, rise=0.5), "plain": FakeArm()}
    (verdict,) = judged(tmp_path, arms, Claim("three beat one", ["a", "b", "c"], ["plain"]))
    assert verdict.state == "not decided"
    assert "b not converged" in verdict.reason
    assert "c not converged" in verdict.reason


def test_missing_seeds(tmp_path):
    some = {"good": FakeArm(effect=0.5, states={1: ("failed", "NaN")}), "plain": FakeArm(states={2: ("absent", None)})}
    (verdict,) = judged(tmp_path, some, BETTER)
    assert verdict.state == "not decided"
    assert verdict.reason.startswith("too few seeds: 1 that all its arms have")
    one = {"good": FakeArm(states={1: ("failed", "NaN"), 2: ("waiting", None)}), "plain": FakeArm()}
    (verdict,) = judged(tmp_path / "one", one, BETTER)
    assert verdict.reason == "good too few seeds (1 of 3)"
    none = {"good": FakeArm(states=dict.fromkeys(range(3), ("absent", None))), "plain": FakeArm()}
    (verdict,) = judged(tmp_path / "none", none, BETTER)
    assert verdict.reason == "good not run"


def test_two_seeds_are_compared_on_those_that_both_have(tmp_path):
    arms = {"good": FakeArm(effect=4.0, states={1: ("failed", "NaN")}), "plain": FakeArm(effect=0.0)}
    (verdict,) = judged(tmp_path, arms, BETTER, noise=Noise(rest=0.05))
    assert verdict.seeds == [0, 2]
    assert len(verdict.comparisons["psnr_composite"].difference.by_seed) == 2
    assert verdict.state == "supported"


def test_holm_is_over_the_claims_of_a_section_decided_or_not(tmp_path):
    arms = {"good": FakeArm(0.5), "plain": FakeArm(), "late": FakeArm(rise=1.0), "same": FakeArm()}
    claims = [BETTER, Claim("late beats plain", ["late"], ["plain"]), Claim("same beats plain", ["same"], ["plain"])]
    apart = [Section("all", "all", list(arms), claims), Section("one", "one", ["good", "plain"], [BETTER])]
    first, _, third, alone = judged(tmp_path, arms, sections=apart)
    entry = first.comparisons["ssim_composite"]
    assert entry.family == 3
    assert entry.p == pytest.approx(3 * entry.difference.p)
    same = third.comparisons["ssim_composite"]
    assert same.p == pytest.approx(min(1, 2 * same.difference.p))
    assert alone.comparisons["ssim_composite"].p == alone.comparisons["ssim_composite"].difference.p


def test_figures_that_disagree():
    label = {"psnr_composite": "supported", "ssim_composite": "not shown"}
    assert overall(label) == ("partly supported", "by PSNR composite, not shown by SSIM composite")
    assert overall({"psnr": "refuted", "ssim": "supported"}) == ("contradictory", "supported by SSIM, refuted by PSNR")
    assert overall({"psnr": "refuted", "ssim": "refuted"}) == ("refuted", None)


def test_the_bootstrap_has_to_agree():
    clear = Difference(0.2, 0.1, 0.3, 0.01, 2, 0.1, 0.3, 0.25, [0.2, 0.2, 0.2], 60)
    assert state_of(clear, 0.01) == "supported"
    assert state_of(replace(clear, bootstrap_low=-0.01), 0.01) == "not shown"
    assert state_of(clear, 0.05) == "not shown"
    assert state_of(replace(clear, mean=-0.2, bootstrap_low=-0.3, bootstrap_high=-0.1), 0.01) == "refuted"


def test_pairing_is_by_image(tmp_path):
    """Hard images, the same for both arms, do not hide a small difference."""
    noise = Noise(image=8.0, run=0.01, rest=0.02)
    (verdict,) = judged(tmp_path, {"good": FakeArm(0.15), "plain": FakeArm()}, BETTER, noise=noise)
    assert verdict.state == "supported"


def test_a_figure_without_values_is_not_decided(tmp_path):
    arms = {"good": one_task("rotation"), "plain": FakeArm()}
    folder = write_study(tmp_path / "study", arms, [BETTER])
    for seed in range(3):
        write_evaluation(folder / "runs" / f"downstream-s{seed}-good" / "evaluation", np.full(60, np.nan))
    (verdict,) = verdicts(folder)
    assert (verdict.state, verdict.reason) == ("not decided", "SSIM composite is finite for no image")


def test_the_correction_counts_the_claims_about_a_metric(tmp_path):
    claims = [replace(BETTER, metrics=[metric]) for metric in ("psnr_composite", "psnr_composite", "ssim_composite")]
    found = judged(tmp_path, {"good": FakeArm(effect=0.5), "plain": FakeArm()}, *claims)
    families = [entry.family for verdict in found for entry in verdict.comparisons.values()]
    assert families == [2, 2, 1]


def test_means_are_of_the_images_of_the_difference(tmp_path):
    folder = write_study(tmp_path / "study", {"a": FakeArm(), "b": FakeArm()}, [Claim("a beats b", ["a"], ["b"])])
    for seed in (0, 1, 2):
        for arm, values in (("a", [20.0, 10.0, np.inf]), ("b", [19.0, 9.0, 30.0])):
            write_evaluation(folder / "runs" / f"downstream-s{seed}-{arm}" / "evaluation", np.array(values))
    (verdict,) = verdicts(folder)
    found = verdict.comparisons["psnr_composite"]
    assert (found.better, found.than, found.difference.mean, found.difference.images) == (15.0, 14.0, 1.0, 2)
