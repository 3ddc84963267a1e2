import csv
import json
from pathlib import Path

import pytest

from tests.study.conftest import TINY
from wssl_pl.errors import WSSLError
from wssl_pl.study.definition import DEFINITIONS, read_study
from wssl_pl.study.folder import StudyFolder
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


def test_a_study_survives_json(declare, tmp_path):
    study = read_study([declare()])
    StudyFolder(tmp_path / "study").begin(study)
    assert StudyFolder(tmp_path / "study").study() == study


def test_a_study_of_version_1_is_read(declare, tmp_path):
    """0.1 had `figures` of claims, `figure` of the search and `left_out`, and an arm may have such a name."""
    arms = TINY["arms"] | {"figure": {"pretext": "none"}}
    tune = {"values": [0.1, 0.2], "metric": "psnr"}
    study = read_study([declare(arms=arms, tune=tune)])
    folder = StudyFolder(tmp_path / "study")
    folder.begin(study)
    path = folder.path / "study.json"
    old = json.loads(path.read_text())
    (claim,) = old["study"]["sections"][0]["claims"]
    claim["figures"], old["study"]["tune"]["figure"] = claim.pop("metrics"), old["study"]["tune"].pop("metric")
    old["study"]["left_out"] = old["study"].pop("omitted")
    path.write_text(json.dumps(old | {"version": 1}))
    assert folder.study() == study
    folder.begin(study)


def test_broken_yaml_is_named_with_its_line(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("title: x\narms:\n  a: {pretext: none\nclaims: []\n")
    with pytest.raises(WSSLError, match="is not YAML") as error:
        read_study([str(path)])
    assert (error.value.parameter, error.value.value) == ("study", path)
    assert error.value.reason.startswith("line 4: ")


def test_several_studies_make_one(declare):
    other = declare("other", arms={"frozen": TINY["arms"]["frozen"], "more": {"pretext": "none"}}, claims=[])
    whole = read_study([declare(), other])
    assert list(whole.arms) == ["frozen", "fine_tuned", "scratch", "more"]
    assert [section.name for section in whole.sections] == ["tiny", "other"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"armz": {}}, "line 40: unknown key 'armz': did you mean arms?"),
        ({"arms": {"a": {"pretext": "none", "downstraem": {}}}}, "did you mean downstream?"),
        ({"arms": {"a": {}}}, "arm a: pretext is required: give options"),
        (
            {"arms": {"a": {"pretext": "none", "steps": "twice"}}, "claims": []},
            "arm a: steps: 'twice' is unknown: there are equal, total",
        ),
        ({"seeds": []}, "seeds=[]: must be a list"),
        ({"seeds": [0, 0]}, "seeds=[0,0]: has the same seed twice"),
        ({"steps": {"pretext": 0, "downstream": 1}}, "steps.pretext=0"),
        ({"claims": [{"claim": "x", "better": "nobody", "than": "scratch"}]}, "claim 'x': 'nobody' is unknown"),
        ({"claims": [{"claim": "x", "better": "frozen"}]}, "than is required"),
        (
            {"claims": [{"claim": "x", "better": "frozen", "than": "scratch", "metrics": ["fid"]}]},
            "metrics: 'fid' is unknown: there are psnr_composite",
        ),
        ({"tune": {"values": [1.0]}}, "two or more values"),
        ({"plots": ["figure9"]}, "'figure9'"),
        ({"arms": None}, "no arms"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(declare, changes, said):
    with pytest.raises(WSSLError) as error:
        read_study([declare(**changes)])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_shipped_study_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "table1" in SHIPPED
    assert read_study(["table1"]).name == "table1"


def test_an_unknown_study_names_the_nearest():
    with pytest.raises(WSSLError, match="did you mean table1"):
        read_study(["tabel1"])


def test_contradictions_between_studies_are_refused(declare):
    with pytest.raises(WSSLError, match="different seeds"):
        read_study([declare(), declare("other", seeds=[5])])
    changed = {"frozen": {"pretext": {"tasks": ["rotation"]}}, "scratch": TINY["arms"]["scratch"]}
    with pytest.raises(WSSLError, match="define the arm 'frozen' differently"):
        read_study([declare(), declare("other", arms=changed)])
