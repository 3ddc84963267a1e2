"""A configuration file that cannot be used is one line that names it."""

from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: 1\n", "line 1: run must be a group of options"),
        ("model:\n", "line 1: model must be a group of options"),
        ("seed_everything: 1\ntrainer: [1]\n", "line 2: trainer must be a group of options"),
        ("data: x\n", "line 1: data must be a group of options"),
        ("- 1\n", "holds no options: write `key: value`"),
        ("[" * 1000, "is nested too deeply"),
        ("model: {weights: a}\n", "line 1: model.weights=a: must be a list, each a number"),
        ("model: {tasks: 1}\n", "line 1: model.tasks=1: must be a list, [a,b]"),
        ("trainer:\n  max_epochs: [1]\n", "line 2: trainer.max_epochs=[1]: must be a whole number"),
        ("trainer: {callbacks: 1}\n", "line 1: trainer.callbacks=1: is not of the option's type: see --help"),
        ("seed_everything: x\n", "line 1: seed_everything=x: must be true or false or a whole number"),
    ],
)
def test_a_wrong_type_names_the_file_and_the_line(refused, text, message):
    Path("c.yaml").write_text(text)
    assert f"error: config=c.yaml: {message}" in refused("stage=pretext", "config=c.yaml", small=[], epochs=None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stage: [x]\n", "stage=['x']: is not a stage"),
        ("stage: pretext\nmodel: {lr: null}\n", "model.lr=null: must be a number"),
        ("stage: pretext\nseed_everything: -1\n", "seed_everything=-1: must be at least 0 and below 2**32"),
        ("stage: pretext\ntrainer: {val_check_interval: none}\n", "trainer (config=c.yaml): Invalid time format"),
        (
            "stage: pretext\ntrainer: {accelerator: cpu, devices: x}\n",
            "trainer (config=c.yaml): `devices`",
        ),
    ],
)
def test_a_value_that_cannot_be_used(refused, text, message):
    Path("c.yaml").write_text(text)
    assert message in refused("config=c.yaml", small=[], epochs=None)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("variable", "value", "wrong"),
    [
        ("WSSL_MODEL__TASKS", "rotation", "must be"),
        ("WSSL_DATA__HOLE_RATIO", "0.1,0.2", "is not of the option's type"),
        ("WSSL_MODEL__LR", "abc", "must be a number"),
    ],
)
def test_a_wrong_value_of_a_variable_names_the_variable(refused, monkeypatch, variable, value, wrong):
    monkeypatch.setenv(variable, value)
    assert f"error: {variable}={value}: {wrong}" in refused("stage=pretext")


@pytest.mark.parametrize(("variable", "value"), [("WSSL_RUN__DIR", "2024"), ("WSSL_DATA__MASKS", "123")])
def test_a_right_value_of_a_variable_is_not_the_error(refused, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    assert 'key "trainer.logger"' in refused("stage=pretext", "--trainer.logger=NoSuchLogger")
