"""A small campaign: 300 cases of all families."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.mutations import damage, damage_value

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_300_cases_without_a_fault(tmp_path):
    # Coverage would be measured in each of the forked processes, at a third of their speed.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    out = tmp_path / "counts.json"
    command = [sys.executable, "-m", "tests.fuzz", "--cases", "300", "--seed", "23", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert out.exists(), done.stderr
    results = json.loads(out.read_text())
    assert {name: result["faults"] for name, result in results.items() if result["faults"]} == {}
    assert sum(result["cases"] for result in results.values()) >= 299


def test_damage_follows_from_the_seed():
    from random import Random

    value = {"a": [1, {"b": "x"}], "c": None}
    for number in range(50):
        assert damage(Random(number), b"0123456789" * 9) == damage(Random(number), b"0123456789" * 9)
        assert repr(damage_value(Random(number), value)) == repr(damage_value(Random(number), value))
    assert value == {"a": [1, {"b": "x"}], "c": None}


def test_the_tables_of_the_page_are_those_of_the_results():
    command = [sys.executable, str(ROOT / "benchmarks" / "reliability.py"), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
