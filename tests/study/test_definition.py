import csv
import re
from pathlib import Path

import pytest

from tests.study.conftest import TINY
from wssl_pl.errors import WSSLError
from wssl_pl.study.definition import DEFINITIONS, read_studies, read_study
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


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"rival": "pconv", "method": "telea"}, "rival=pconv: arm odd: has no method"),
        ({"rival": "pic", "pretext": {"tasks": ["rotation"]}}, "rival=pic: arm odd: has no pretext"),
        ({"rival": "lama"}, "arms.odd.rival: 'lama' is not one of shift_net, pic, pconv"),
    ],
)
def test_what_a_rival_and_a_method_cannot_be(declare, arm, message):
    with pytest.raises(WSSLError, match=re.escape(message)):
        read_study([declare(arms={"odd": {"pretext": "none"} | arm}, claims=[])])


def test_table_4_has_all_methods():
    arms = read_study(["table4"]).arms
    assert {arm.rival for arm in arms.values()} == {None, "shift_net", "pic", "pconv"}
    assert {arm.method for arm in arms.values()} >= {"telea", "navier_stokes", "biharmonic"}
    assert {name for name, arm in arms.items() if arm.paper} == {"log_cosh", "ssim", "novel", "shift_net", "pic"}
    # Whoever has one stage may spend the seconds of two on it.
    assert {name for name, arm in arms.items() if arm.step_cost != 1.0} >= {"shift_net", "pic", "pconv", "scratch"}


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


def test_all_arms_of_a_study_restore_the_same(declare):
    arms = {"a": {"pretext": "none"}, "b": {"pretext": "none", "downstream": {"restore": ["jpeg"]}}}
    with pytest.raises(WSSLError, match="arm b restores jpeg, the first arm nothing: all arms are measured"):
        read_study([declare(arms=arms, claims=[])])
    arms["a"]["downstream"] = {"restore": "jpeg"}
    assert read_study([declare(arms=arms, claims=[])]).restore == ["jpeg"]
    assert read_study(["restore"]).restore == ["saturation", "sharpness"]
    assert read_study(["controls"]).restore == []
    # A rival takes no option of the model from the study, and would train without damages.
    arms = {"a": {"pretext": "none"}, "b": {"pretext": "none", "rival": "pconv"}}
    with pytest.raises(WSSLError, match="arm b restores nothing, the first arm jpeg"):
        read_study([declare(arms=arms, claims=[], downstream={"restore": ["jpeg"]})])


def test_inputs_are_left_undamaged_as_those_of_the_first_arm(declare):
    arms = {"a": {"pretext": "none"}, "b": {"pretext": "none", "downstream": {"undamaged": 0.25}}}
    for whole, expected in (({}, 0.0), ({"undamaged": 0.5}, 0.5)):
        study = read_study([declare(arms=arms, claims=[], downstream={"restore": ["jpeg"]} | whole)])
        assert study.undamaged == expected


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
    StudyFolder(tmp_path / "study").start(study)
    assert StudyFolder(tmp_path / "study").study() == study


def test_broken_yaml_is_named_with_its_line(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("title: x\narms:\n  a: {pretext: none\nclaims: []\n")
    with pytest.raises(WSSLError, match="is not YAML") as error:
        read_study([str(path)])
    assert (error.value.parameter, error.value.value) == ("study", path)
    assert error.value.reason.startswith("line 4: ")


def test_several_studies_make_one(declare):
    other = declare(
        "other", arms={"frozen": TINY["arms"]["frozen"], "more": {"pretext": "none", "steps": "total"}}, claims=[]
    )
    whole = read_study([declare(), other])
    assert list(whole.arms) == ["frozen", "fine_tuned", "scratch", "more"]
    assert [section.name for section in whole.sections] == ["tiny", "other"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"armz": {}}, "line 40: unknown key 'armz': did you mean arms?"),
        ({"arms": {"a": {"pretext": "none", "downstraem": {}}}}, "arms.a: unknown key 'downstraem': did you mean down"),
        ({"arms": {"a": {}}}, "arms.a.pretext is required: give options"),
        ({"arms": {"a": {"pretext": "none", "steps": "twice"}}}, "arms.a.steps: 'twice' is not one of equal, total"),
        ({"seeds": []}, "seeds=[]: must be a list"),
        ({"seeds": [0, 0]}, "seeds=[0,0]: has the same seed twice"),
        ({"seeds": [0, True]}, "seeds[1]: True is not a whole number"),
        ({"steps": {"pretext": 0, "downstream": 1}}, "steps.pretext=0"),
        ({"claims": [{"claim": "x", "better": "nobody", "than": "scratch"}]}, "there is no arm 'nobody'"),
        ({"claims": [{"claim": "x", "better": "frozen"}]}, "claims[0].than is required"),
        (
            {"arms": {"slow": {"pretext": "none", "step_cost": 0.0}}, "claims": []},
            "step_cost=0.0: arm slow: must be between 0.01 and 100",
        ),
        (
            {"claims": [{"claim": "x", "better": "frozen", "than": "scratch", "metrics": ["fid"]}]},
            "claims[0].metrics[0]: 'fid' is not one of psnr_composite",
        ),
        (
            {"claims": [{"claim": "x", "better": "frozen", "than": "scratch", "metrics": []}]},
            "metrics: the claim 'x' has none: name at least one",
        ),
        ({"claims": [{"claim": "x", "better": [], "than": "scratch"}]}, "better: the claim 'x' has none"),
        ({"tune": {"values": [1.0]}}, "two or more values"),
        ({"plots": ["figure9"]}, "'figure9'"),
        ({"arms": None}, "no arms"),
        ({"arms": 3}, "arms: 3 is not a mapping"),
        ({"arms": {"a": {"pretext": True}}}, "arms.a.pretext: True is not a mapping"),
        ({"plots": True}, "plots: True is not a list"),
        ({"claims": 1}, "claims: 1 is not a list"),
        ({"include": [1.5]}, "study=1.5: is neither"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(declare, changes, said):
    with pytest.raises(WSSLError) as error:
        read_study([declare(**changes)])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 5000, "is not YAML"),
        ("common: {x: " + "[" * 300 + "]" * 300 + "}", "common: nested more than 20 deep"),
        ("common: &a {x: *a}", "common: nested more than 20 deep"),
        ("!!bool x", "is not YAML"),
        ("\x00", "is not YAML"),
        (b"\xff\xfe\x00a", "is not YAML"),
        ("", "None is not a mapping"),
    ],
)
def test_what_is_no_definition_is_said_in_one_line(tmp_path, text, said):
    path = tmp_path / "broken.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(WSSLError) as error:
        read_study([str(path)])
    assert str(error.value).startswith(f"study={path}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_value_that_yaml_takes_for_text_is_a_number(declare):
    tune = read_study([declare(tune={"values": ["5e-4", 1]})]).tune
    assert tune.values == [0.0005, 1.0]


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
    with pytest.raises(WSSLError, match="different out_of_domain"):
        read_study([declare(), declare("other", out_of_domain="elsewhere")])
    changed = {"frozen": {"pretext": {"tasks": ["rotation"]}}, "scratch": TINY["arms"]["scratch"]}
    with pytest.raises(WSSLError, match="define the arm 'frozen' differently"):
        read_study([declare(), declare("other", arms=changed)])


def test_studies_that_are_equal_each_by_itself_may_be_unequal_together(declare):
    short = declare("short", arms={"short": {"pretext": "none"}}, claims=[])
    assert read_study([short]).seconds == read_study([declare()]).seconds == "equal"
    assert read_study([declare(), short]).seconds == "unequal"
    assert read_study([declare(seconds="equal"), short]).seconds == "equal"  # as is declared, by their step_cost
    said = declare("said", arms={"said": {"pretext": "none", "steps": "total"}}, claims=[], seconds="unequal")
    assert read_study([declare(), said]).seconds == "unequal"


SECTIONED = {"sections": {"few": {"seeds": [0], "steps": {"downstream": 4}}, "many": {"common": {"data.limit": 9}}}}


def test_a_section_is_a_study_that_adds_to_the_definition(declare):
    path = declare(**SECTIONED)
    studies = read_studies([path])
    assert list(studies) == ["few", "many"]
    assert [study.name for study in studies.values()] == ["tiny_few", "tiny_many"]
    few, many = studies.values()
    assert (few.seeds, few.steps) == ([0], {"pretext": 12, "downstream": 4})
    assert (many.seeds, many.steps) == ([0, 1], {"pretext": 12, "downstream": 10})
    assert many.options["common"] == few.options["common"] | {"data.limit": 9}
    assert list(read_studies([path], ["many"])) == ["many"]
    assert list(read_studies([declare()])) == [""]


@pytest.mark.parametrize(
    ("sections", "asked", "message"),
    [
        (SECTIONED["sections"], ["fwe"], "sections=fwe: tiny has no such section: there are few, many"),
        ({"few": {"sedes": [0]}}, None, "few: unknown key 'sedes': did you mean seeds?"),
        ({"few": {"sections": {"x": {}}}}, None, "study=tiny: has sections: run it alone"),
        ({}, ["few"], "sections=few: tiny has no such section: omit it"),
    ],
)
def test_what_a_section_cannot_be(declare, sections, asked, message):
    with pytest.raises(WSSLError, match=re.escape(message)):
        read_studies([declare(sections=sections)], asked)


def test_every_arm_and_claim_is_there_with_each_value(declare):
    vary = {"option": "data.train_images", "values": [3, 5], "label": "{} pairs"}
    study = read_study([declare(vary=vary)])
    assert list(study.arms) == [f"{arm}_{value}" for value in (3, 5) for arm in TINY["arms"]]
    assert study.arms["scratch_5"].downstream == {"model.freeze_layers": 0, "data.train_images": 5}
    assert study.arms["scratch_5"].label == "scratch, 5 pairs"
    claims = study.sections[0].claims
    assert [(claim.claim, claim.better, claim.than) for claim in claims] == [
        (f"frozen beats scratch, {value} pairs", [f"frozen_{value}"], [f"scratch_{value}"]) for value in (3, 5)
    ]


def test_unequal_seconds_are_refused_unless_the_definition_says_so(declare):
    arms = {"pretext": {"pretext": {"tasks": ["rotation"]}}, "scratch": {"pretext": "none"}}
    with pytest.raises(WSSLError, match="arm scratch trains for the time of 10 plain steps, arm pretext of 22"):
        read_study([declare(arms=arms, claims=[])])
    for said in ("equal", "unequal"):
        assert read_study([declare(arms=arms, claims=[], seconds=said)]).seconds == said
    # A classical method trains for no time at all.
    arms["scratch"] |= {"steps": "total"}
    assert read_study([declare(arms=arms | {"telea": {"pretext": "none", "method": "telea"}}, claims=[])]).arms


def test_where_declares_what_its_verdicts_need():
    studies = read_studies(["where"])
    assert list(studies) == ["few_pairs", "damaged", "more_pairs", "unseen", "tables"]
    assert {name: len(study.seeds) for name, study in studies.items() if study.sections[0].claims} == {
        "few_pairs": 6, "damaged": 6, "tables": 3
    }  # fmt: skip
    assert len(studies["tables"].arms) == 25
    for study in (studies["few_pairs"], studies["damaged"]):
        costs = {arm.pretext_cost for arm in study.arms.values() if arm.pretext is not None}
        assert len(costs) > 1
        # Only those that are named for it train for fewer seconds.
        assert all("_steps" in arm.name for arm in study.arms.values() if arm.pretext is None and arm.steps == "equal")
