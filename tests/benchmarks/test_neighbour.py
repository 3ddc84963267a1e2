"""The benchmark of a busy neighbour."""

import json

import neighbour
import pytest

SECONDS = {"alone": [0.1, 0.2, 0.3], "neighbour": [0.5, 0.8, 0.9]}
SMALL = "step, width 2, 32 px"


def test_ratios_are_medians_within_rounds_and_the_table_names_the_machine():
    passive = {"alone": [0.2, 0.2, 0.2], "neighbour": [0.4, 0.4, 0.4]}
    summary = neighbour.summarise({"step": {"OpenMP's default": SECONDS, "passive": passive}})
    assert summary["step"]["OpenMP's default"]["slower with neighbour"] == pytest.approx(4.0)  # of 5, 4 and 3
    assert summary["step"]["passive"]["alone, over the default"] == pytest.approx(1.0)  # of 2, 1 and 2/3
    machine = {"cores": 2, "cpu": "a CPU", "python": "3", "torch": "2", "openmp": "libgomp", "load": [0.1, 0.2]}
    result = {"machine": machine, "rounds": 3, "nice": 0, "share of the neighbour": 2.0, "summary": summary}
    assert "2 cores (a CPU)" in neighbour.table(result)
    assert "| step | passive | 0.2000 | 0.4000 | 2.00 | 1.00 | 0.67-2.00 |" in neighbour.table(result)


@pytest.mark.slow
def test_it_measures(tmp_path, monkeypatch):
    out = tmp_path / "trial"
    words = ["--rounds", "1", "--only", SMALL, "--policies", "one thread", "--name=trial", f"--results={tmp_path}"]
    monkeypatch.setattr("sys.argv", ["neighbour.py", *words])
    neighbour.main()
    result = json.loads(out.with_suffix(".json").read_text())
    assert result["machine"]["openmp"] != "unknown"
    taken = result["seconds"][SMALL]["one thread"]
    assert len(taken["alone"]) == len(taken["neighbour"]) == 1
    assert out.with_suffix(".md").read_text() == neighbour.table(result)
