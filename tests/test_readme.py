"""The numbers of the README and of docs/how_good.md are those of the result files."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("program", ["readme_table.py", "how_good.py"])
def test_the_metrics_of_a_page_are_those_of_the_result_files(program):
    command = [sys.executable, str(ROOT / "benchmarks" / program), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
