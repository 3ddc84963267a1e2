"""The numbers of the README are those of the result files."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_metrics_of_the_readme_are_those_of_the_result_files():
    command = [sys.executable, str(ROOT / "benchmarks" / "readme_table.py"), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
