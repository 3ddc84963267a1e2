import csv
from pathlib import Path

import pytest

from tests.study.conftest import TINY
from wssl_pl.errors import UsageError
from wssl_pl.study.definition import DEFINITIONS, Study, read_study
from wssl_pl.tasks import TASKS

SHIPPED = sorted(path.stem for path in DEFINITIONS.glob("*.yaml"))


@pytest.mark.parametrize(
    ("name", "arms"),
    [("table1", 3), ("table2", 15), ("table3", 4), ("table4_wssl", 3), ("figure2", 15), ("figure4", 22)],
)
def test_the_papers_tables_have_all_their_rows(name, arms):
    study = read_study([name])
    assert len(study.arms) == arms
    assert study.seeds == [0, 1, 2]
    assert all(arm.paper.keys() == {"ssim", "psnr"} for arm in study.arms.values())


def test_controls_hold_what_the_claim_is_measured_against():
    arms = read_study(["controls"]).arms
    assert arms["scratch"].pretext is None
    assert arms["scratch_total"].steps == "total"
    assert {arm.downstream.get("model.freeze_layers", 16) for arm in arms.values()} >= {0, 4, 7, 10, 13, 16}
    assert any("model.pretext_holes" in (arm.pretext or {}) for arm in arms.values())
    # A frozen encoder has to have seen the channel in its pretext: added later, its weights would stay 0.
    for arm in arms.values():
        if arm.downstream.get("model.mask_channel") and arm.pretext is not None:
            assert arm.downstream.get("model.freeze_layers") == 0
    assert arms["mask_channel"].pretext["model.mask_channel"]


def test_the_papers_values_are_copied_right():
    """`paper.csv` is a second copy of the paper's Tables 1 to 3, made apart from the definitions."""
    with Path(__file__).with_name("paper.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = {
        frozenset(zip(row["tasks"].split(), map(float, row["weights"].split()), strict=True)): {
            "ssim": float(row["ssim"]),
            "psnr": float(row["psnr"]),
        }
        for row in rows
    }
    found = {}
    for arm in read_study(["figure4"]).arms.values():
        tasks = arm.pretext["model.tasks"]
        assert set(tasks) <= set(TASKS)
        found[frozenset(zip(tasks, arm.pretext.get("model.weights", [1.0]), strict=True))] = arm.paper
    assert len(found) == 22
    assert found == expected


def test_a_study_survives_json(declare):
    study = read_study([declare()])
    assert Study.from_dict(study.as_dict()) == study


def test_several_studies_make_one(declare):
    other = declare("other", arms={"frozen": TINY["arms"]["frozen"], "more": {"pretext": "none"}}, claims=[])
    whole = read_study([declare(), other])
    assert list(whole.arms) == ["frozen", "fine_tuned", "scratch", "more"]
    assert [section.name for section in whole.sections] == ["tiny", "other"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"armz": {}}, "unknown key 'armz'; did you mean arms?"),
        ({"arms": {"a": {"pretext": "none", "downstraem": {}}}}, "did you mean downstream?"),
        ({"arms": {"a": {}}}, "arm a: say its pretext"),
        ({"arms": {"a": {"pretext": "none", "steps": "twice"}}, "claims": []}, "neither equal nor total"),
        ({"seeds": []}, "seeds=[]"),
        ({"seeds": [0, 0]}, "the same seed twice"),
        ({"steps": {"pretext": 0, "downstream": 1}}, "steps.pretext=0"),
        ({"claims": [{"claim": "x", "better": "nobody", "than": "scratch"}]}, "names 'nobody'"),
        ({"claims": [{"claim": "x", "better": "frozen"}]}, "needs claim, better and than"),
        (
            {"claims": [{"claim": "x", "better": "frozen", "than": "scratch", "figures": ["fid"]}]},
            "'fid' is not one of",
        ),
        ({"tune": {"values": [1.0]}}, "two or more values"),
        ({"plots": ["figure9"]}, "'figure9'"),
        ({"arms": None}, "no arms"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(declare, changes, said):
    with pytest.raises(UsageError) as error:
        read_study([declare(**changes)])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_shipped_study_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "table1" in SHIPPED
    assert read_study(["table1"]).name == "table1"


def test_an_unknown_study_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean table1"):
        read_study(["tabel1"])


def test_contradictions_between_studies_are_refused(declare):
    with pytest.raises(UsageError, match="different seeds"):
        read_study([declare(), declare("other", seeds=[5])])
    changed = {"frozen": {"pretext": {"tasks": ["rotation"]}}, "scratch": TINY["arms"]["scratch"]}
    with pytest.raises(UsageError, match="different things by the arm 'frozen'"):
        read_study([declare(), declare("other", arms=changed)])
