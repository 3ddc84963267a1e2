from wssl_pl.study.definition import Tuning, read_study
from wssl_pl.study.plan import describe, make_plan, split_options


def test_arms_share_the_pretext_run_that_both_need(declare):
    plan = make_plan(read_study([declare()]))
    pretexts = [run for run in plan.runs.values() if run.stage == "pretext"]
    assert [run.seed for run in pretexts] == [0, 1]
    assert all(run.arms == ["frozen", "fine_tuned"] for run in pretexts)
    assert len(plan.runs) == 2 + 2 + 2 + 2  # pretext, frozen, fine-tuned, scratch


def test_table1_is_three_arms_of_two_stages_and_three_seeds():
    plan = make_plan(read_study(["table1"]))
    assert len(plan.runs) == 3 * 2 * 3
    assert {tuple(by_seed) for by_seed in plan.final.values()} == {(0, 1, 2)}


def test_tables_in_one_study_train_nothing_twice():
    alone = [make_plan(read_study([name])).runs for name in ("table2", "table4_wssl")]
    together = make_plan(read_study(["table2", "table4_wssl"])).runs
    # Table 4's novel loss is Table 2's best row, and its three losses need that row's pretext run.
    assert len(together) == len(alone[0]) + 2 * 3
    assert together.keys() == alone[0].keys() | alone[1].keys()


def test_equal_total_steps_are_those_of_both_stages(declare):
    plan = make_plan(read_study([declare()]))
    assert plan.runs[plan.final["frozen"][0]].steps == 10
    assert plan.runs[plan.final["scratch"][0]].steps == 22


def test_an_arm_whose_step_costs_twice_as_much_makes_half_the_steps(declare):
    arms = {
        "plain": {"pretext": "none"},
        "costly": {"pretext": "none", "step_cost": 2.0},
        "both_stages": {"pretext": "none", "step_cost": 2.0, "steps": "total"},
    }
    tune = {"values": [0.1, 0.01], "steps": 6}
    study = read_study([declare(arms=arms, claims=[], tune=tune, seconds="unequal")])
    plan = make_plan(study)
    steps = {name: plan.runs[plan.final[name][0]].steps for name in arms}
    assert steps == {"plain": 10, "costly": 5, "both_stages": 11}
    trials = {name: run.steps for run in plan.runs.values() if run.trial for name in run.arms}
    assert trials == {"plain": 6, "costly": 3, "both_stages": 3}


def test_everything_that_decides_the_outcome_is_in_the_name(declare):
    study = read_study([declare()])
    before = make_plan(study).final["frozen"][0]
    assert make_plan(study).final["frozen"][0] == before
    for change in ({"downstream": {"model.lr": 1.0}}, {"pretext": {"model.lr": 1.0}}, {"common": {"data.resize": 41}}):
        changed = read_study([declare()])
        for part, options in change.items():
            changed.options[part] |= options
        assert make_plan(changed).final["frozen"][0] != before


def test_a_finished_downstream_run_takes_width_from_its_checkpoint(declare):
    plan = make_plan(read_study([declare()]))
    assert "model.width" not in plan.runs[plan.final["frozen"][0]].options
    assert plan.runs[plan.final["scratch"][0]].options["model.width"] == 2


def test_the_search_has_its_own_seed_and_the_same_effort_for_every_arm(declare):
    study = read_study([declare()])
    study.tune = Tuning(values=[0.1, 0.01, 0.001], steps=4, seed=7)
    plan = make_plan(study)
    for arm in study.arms:
        trials = [run for run in plan.runs.values() if run.trial and run.stage == "downstream" and arm in run.arms]
        assert [(run.seed, run.steps, run.options["model.lr"]) for run in trials] == [
            (7, 4, 0.1), (7, 4, 0.01), (7, 4, 0.001)
        ]  # fmt: skip
        last = plan.runs[plan.final[arm][0]]
        assert list(last.chooses.values()) == [run.id for run in trials]
        assert set(last.chooses.values()) <= set(last.needs)
        assert not last.trial


def test_lines_of_a_dry_run(declare):
    plan = make_plan(read_study([declare()]))
    lines = [describe(plan, run) for run in plan.runs.values()]
    assert lines[0].startswith("stage=pretext tasks=[saturation] seed=0 steps=12 ")
    assert lines[1].startswith("stage=downstream tasks=[saturation] seed=0 steps=10 ")
    assert lines[-1].startswith("stage=downstream ckpt=none seed=1 steps=22 ")
    assert lines[1].endswith("arms=[frozen]")


def test_the_last_validation_comes_with_the_last_step(declare):
    plan = make_plan(read_study([declare()]))
    arguments = plan.runs[plan.final["frozen"][1]].arguments(validations=2)
    assert "trainer.max_steps=10" in arguments
    assert "trainer.val_check_interval=5" in arguments
    assert "seed_everything=1" in arguments


def test_typed_options_go_where_they_say():
    assert split_options({"data.limit": 3, "pretext.model.lr": 1, "downstream.loss": "ssim"}) == {
        "common": {"data.limit": 3}, "pretext": {"model.lr": 1}, "downstream": {"model.loss": "ssim"}
    }  # fmt: skip


def test_a_rival_takes_the_place_of_the_downstream_stage_and_a_method_is_not_trained(declare):
    arms = {
        "plain": {"pretext": "none"},
        "rival": {
            "pretext": "none", "rival": "pconv", "steps": "total", "step_cost": 2.0, "downstream": {"width": 3}
        },
        "telea": {"pretext": "none", "method": "telea"},
    }  # fmt: skip
    changes = {"downstream": {"lr": 0.01, "data.hole_ratio": [0.1, 0.2]}, "seconds": "unequal"}
    plan = make_plan(read_study([declare(arms=arms, claims=[], **changes)]))
    rival, telea = (plan.runs[plan.final[name][0]] for name in ("rival", "telea"))
    assert (rival.stage, rival.steps, rival.reported) == ("pconv", 11, True)
    assert rival.options["model.width"] == 3
    assert "model.lr" not in rival.options  # of the downstream stage alone
    assert rival.options["data.hole_ratio"] == [0.1, 0.2]
    assert "ckpt=none" not in describe(plan, rival)
    assert (telea.stage, telea.steps, telea.reported) == ("method", 0, True)
    assert plan.final["telea"] == {0: telea.id, 1: telea.id}
    assert describe(plan, telea) == "stage=method seed=0 steps=0 method=telea arms=[telea]"


def test_a_pretext_step_that_costs_half_is_made_twice_as_often(declare):
    arms = {
        "cheap": {"pretext": {"tasks": ["rotation"]}, "pretext_cost": 0.5},
        "dear": {"pretext": {"tasks": ["rotation"]}, "pretext_cost": 4.0},
    }
    plan = make_plan(read_study([declare(arms=arms, claims=[])]))
    assert {run.arms[0]: run.steps for run in plan.runs.values() if run.stage == "pretext"} == {"cheap": 24, "dear": 3}


def test_arms_that_differ_in_what_the_search_sets_share_their_trials(declare):
    vary = {"option": "data.train_images", "values": [3, 5]}
    tune = {"values": [0.1, 0.01], "steps": 6, "downstream": {"data.train_images": 4}}
    study = read_study([declare(claims=[], vary=vary, tune=tune)])
    trials = [run for run in make_plan(study).runs.values() if run.trial and run.stage == "downstream"]
    assert len(trials) == 3 * 2
    assert all(run.options["data.train_images"] == 4 and len(run.arms) == 2 for run in trials)
