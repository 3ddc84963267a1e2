"""The expected time of a study."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from wssl_pl.modules import PretextModule
from wssl_pl.study.cost import (
    Cost,
    Stepper,
    _at,
    build_module,
    count_operations,
    declared_costs,
    expected_seconds,
    kind,
    labels,
    learned_costs,
    measure_costs,
    measure_step,
    time_left,
)
from wssl_pl.study.definition import Arm, read_studies, read_study
from wssl_pl.study.plan import Plan, Status, make_plan


def plan_of(declare, **changes):
    return make_plan(read_study([declare(**changes)]))


def test_one_kind_of_each_stage_is_measured_and_the_others_are_derived(declare):
    costs = measure_costs(plan_of(declare), threads=1)
    assert {name[0]: cost.source for name, cost in costs.items() if cost.source.startswith("measured")} == {
        "pretext": "measured with 4 x 32 px",
        "downstream": "measured with 4 x 32 px",
    }
    assert all(0 < cost.seconds < 5 for cost in costs.values())
    frozen, fine_tuned = (cost for name, cost in costs.items() if name[0] == "downstream")
    assert {frozen.source, fine_tuned.source} == {"measured with 4 x 32 px", "by floating-point operations"}
    assert 1.0 < fine_tuned.seconds / frozen.seconds < 3.0  # the encoder's gradients


def test_kinds_are_derived_from_a_finished_run_of_their_stage(declare):
    plan = plan_of(declare)
    known = {kind(plan, plan.runs[plan.final["frozen"][0]]): 2.0}
    frozen, fine_tuned = (cost for name, cost in measure_costs(plan, 1, known).items() if name[0] == "downstream")
    assert frozen == Cost(2.0, "from finished runs")
    assert fine_tuned.source == "by floating-point operations"
    assert 2.0 < fine_tuned.seconds < 6.0


def test_finished_runs_are_not_measured_again(declare):
    plan = plan_of(declare)
    states = {name: Status("done", seconds=20.0, steps=10) for name in plan.runs}
    known = learned_costs(plan, states)
    assert all(cost == Cost(2.0, "from finished runs") for cost in measure_costs(plan, 1, known).values())


def test_runs_that_take_decoder_or_heads_of_a_checkpoint_are_built_before_it_is_there(declare):
    pretext = {"tasks": ["masked", "rotation"], "decoder": True}
    arms = {
        "all": {"pretext": pretext, "downstream": {"reuse": "all", "freeze_layers": 0}},
        "joint": {"pretext": pretext, "downstream": {"task_loss": 0.1, "freeze_layers": 0}},
    }
    plan = plan_of(declare, arms=arms, claims=[])
    whole, joint = (build_module(plan, plan.runs[plan.final[name][0]]) for name in arms)
    assert whole.joint is None
    assert list(joint.joint.tasks) == ["rotation"]
    kinds = {kind(plan, run) for run in plan.runs.values() if run.stage == "downstream"}
    assert len(kinds) == 2


def test_upgrad_has_one_backward_pass_for_each_task(declare):
    pytest.importorskip("torchjd")
    arms = {name: {"pretext": {"tasks": ["rotation", "saturation"], "weighting": name}} for name in ("fixed", "upgrad")}
    costs = measure_costs(plan_of(declare, arms=arms, claims=[]), threads=1, budget=0.0)
    fixed, upgrad = (cost.seconds for name, cost in costs.items() if name[0] == "pretext")
    assert upgrad > fixed


@pytest.mark.parametrize("norm", ["none", "batch", "group", "instance"])
def test_every_normalisation_is_measured(declare, norm):
    common = {"data.image_size": 64, "data.batch_size": 3, "model.width": 8, "model.norm": norm}
    costs = measure_costs(plan_of(declare, common=common), threads=1, budget=0.0)
    sources = {"measured with 3 x 64 px", "extrapolated from 2 x 64 px", "by floating-point operations"}
    assert sources >= {cost.source for cost in costs.values()}


def test_a_line_through_two_batches():
    # 1 s for every step and 1 ms for each pixel.
    assert _at([(1000, 2.0), (2000, 3.0)], 10_000) == pytest.approx(11.0)
    # Noise: never more than in proportion.
    assert _at([(1000, 2.0), (2000, 1.9)], 10_000) == pytest.approx(9.5)
    assert _at([(1000, 1.0), (2000, 4.0)], 10_000) == pytest.approx(20.0)


def test_kinds_are_named_by_what_differs(declare):
    plan = plan_of(declare)
    costs = {kind(plan, run): Cost(1.0, "") for run in plan.runs.values()}
    assert sorted(labels(costs).values()) == ["downstream", "downstream freeze_layers=0", "pretext"]


def test_what_decides_the_time_makes_a_kind(declare):
    study = read_study([declare()])
    kinds = set()
    for downstream in ({}, {"model.consistency": 0.1}, {"model.unfreeze_epoch": 1}, {"model.mask_channel": True}):
        study.arms = {"one": Arm(None, {"model.freeze_layers": 0} | downstream, name="one")}
        study.options["common"]["model.lr"] = len(kinds) + 1.0  # does not
        plan = make_plan(study)
        kinds |= {kind(plan, run) for run in plan.runs.values()}
    assert len(kinds) == 4


def test_done_runs_take_no_more_time(declare):
    plan = plan_of(declare)
    costs = {kind(plan, run): 1.0 for run in plan.runs.values()}
    states = {name: Status() for name in plan.runs}
    steps = sum(run.steps for run in plan.runs.values())
    assert expected_seconds(plan, costs, 1, states) == steps
    first = next(iter(plan.runs.values()))
    states[first.id] = Status("done")
    assert expected_seconds(plan, costs, 1, states) == steps - first.steps


@pytest.mark.parametrize("rival", [None, "pconv"])  # whose losses in features are there by default
def test_features_cost_the_same_at_every_width(declare, tmp_path, rival):
    module = PretextModule(["saturation"], width=2)
    path = tmp_path / "pretext.ckpt"
    torch.save({"stage": "pretext", "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}, path)
    extra = []
    for width in (8, 16):
        losses = {"features": f"pretext:{path}"} | ({} if rival else {"perceptual": 0.1})
        without = {"perceptual": 0.0, "style": 0.0, "features": None} if rival else {}
        arms = {
            name: {"pretext": "none", "rival": rival, "downstream": options}
            for name, options in (("plain", without), ("with", losses))
        }
        plan = plan_of(declare, arms=arms, claims=[], common={"data.image_size": 64, "model.width": width})
        plain, with_features = (count_operations(plan, plan.runs[plan.final[arm][0]]) for arm in arms)
        extra.append(with_features - plain)
    assert extra[0] > 0
    assert extra[1] == pytest.approx(extra[0])


def test_the_cost_of_a_discriminator_is_that_of_its_width(declare):
    widths = {"plain": {}, "own": {"model.adversarial": 0.1}, "wide": {"model.discriminator_width": 32}}
    widths["wide"] |= widths["own"]
    arms = {name: {"pretext": "none", "downstream": settings} for name, settings in widths.items()}
    plan = plan_of(declare, arms=arms, claims=[], common={"data.image_size": 64, "model.width": 16})
    plain, own, wide = (count_operations(plan, plan.runs[plan.final[arm][0]]) for arm in arms)
    assert wide - plain == pytest.approx(4 * (own - plain), rel=0.25)  # the first layer grows linearly


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretext", "downstream"])
def test_the_extrapolated_time_is_that_of_the_whole_batch(declare, stage):
    common = {"data.image_size": 128, "data.batch_size": 16, "model.width": 16, "trainer.accelerator": "cpu"}
    plan = plan_of(declare, common=common)
    run = next(run for run in plan.runs.values() if run.stage == stage)
    estimates, truths = [], []
    stepper = Stepper(plan, run)
    for _ in range(3):
        estimates.append(measure_step(plan, run, budget=0.0))
        truths.append(stepper.step(16, 128))
    assert estimates[0].source == "extrapolated from 1 x 128 px"
    # The processor's own time of one thread. Other programs change it by a factor of 4 (seen: 0.24), and a forgotten
    # factor of the batch or of the pixels would be 16 or more.
    assert 0.1 < min(cost.seconds for cost in estimates) / min(truths) < 10.0


@pytest.mark.slow
def test_the_papers_size_is_estimated_in_seconds():
    """Table 1 at width 64, 224 px and batches of 64, a step of which takes a minute on a core."""
    plan = make_plan(read_study(["table1"]))
    started = time.process_time()
    costs = measure_costs(plan, threads=1)
    assert time.process_time() - started < 20  # 5 s alone on a core
    assert {name[0] for name in costs} == {"pretext", "downstream"}


def played(plan, factors, slots, noise):
    """Whenever a slot is free, the first run whose needs have ended: statuses, and when runs start and end."""
    generator, free, found = np.random.default_rng(0), [0.0] * slots, {}
    while len(found) < len(plan.runs):
        slot = min(range(slots), key=lambda number: free[number])
        begin = free[slot]
        ended = {name for name, (_, _, end) in found.items() if end <= begin}
        ready = [run for name, run in plan.runs.items() if name not in found and ended.issuperset(run.needs)]
        if not ready:
            free[slot] = min(time for time in free if time > begin)
            continue
        run = ready[0]
        # A step of a stage costs another constant than declared, there is a start, and an evaluation.
        seconds = 15.0 + run.steps * 0.11 * factors[run.id] * (1.15 if run.stage == "pretext" else 1.0)
        seconds *= generator.normal(1.0, noise)
        free[slot] = begin + seconds + (25.0 if run.reported else 0.0)
        status = Status("done", seconds=seconds, steps=run.steps, wall_seconds=free[slot] - begin)
        found[run.id] = (status, begin, free[slot])
    return found, max(free)


@pytest.mark.parametrize("section", ["few_pairs", "damaged"])
def test_the_time_left_is_right_within_a_fifth(section):
    study = read_studies(["where"])[section]
    plan = make_plan(study)
    factors = declared_costs(study, plan)
    found, whole = played(plan, factors, 2, noise=0.1)
    assert time_left(plan, factors, {}, {}, 2) is None
    for share in (0.05, 0.2, 0.4, 0.6, 0.8):
        now = share * whole
        known = {name: status for name, (status, _, end) in found.items() if end <= now}
        running = {name: (now - begin) / (end - begin) for name, (_, begin, end) in found.items() if begin < now < end}
        states = {name: "done" if name in known else "running" if name in running else "waiting" for name in plan.runs}
        runs = {name: replace(run, status=Status(states[name])) for name, run in plan.runs.items()}
        left = time_left(Plan(runs, plan.final), factors, known, running, 2)
        assert left == pytest.approx(whole - now, rel=0.2), share


@pytest.mark.parametrize("option", [{"model.levels.saturation": [0.0, 1.0]}, {"levels": {"saturation": [0.0, 1.0]}}])
def test_levels_of_a_task_are_given_in_either_form(declare, option):
    plan = plan_of(declare, arms={"a": {"pretext": {"tasks": ["saturation"]} | option}}, claims=[])
    module = build_module(plan, next(iter(plan.runs.values())))
    assert module.tasks["saturation"].levels == (0.0, 1.0)
