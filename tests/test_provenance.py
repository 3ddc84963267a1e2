"""The digest of the program, which a run, an evaluation and a study's report name."""

import shutil
from importlib import util
from pathlib import Path

import wssl_pl
from wssl_pl.evaluation.results import Machine
from wssl_pl.provenance import program


def load(folder):
    spec = util.spec_from_file_location("copied", folder / "provenance.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.program()


def test_the_digest_changes_with_the_code_alone(tmp_path):
    source = Path(wssl_pl.__file__).parent
    folder = tmp_path / "package"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    assert load(folder) == program()
    (folder / "notes.txt").write_text("not code")
    assert load(folder) == program()
    (folder / "new.py").write_text("x = 1\n")
    assert load(folder)["code"] != program()["code"]


def test_a_report_names_it():
    machine = Machine(2, "CPU", "3.12", "2.15", "2.0", "0.3.0", "0123456789ab")
    assert str(machine) == "CPU, 2 cores, torch 2.15, wssl 0.3.0 (code 0123456789ab)"
    assert str(Machine(2, "CPU", "3.12", "2.15", "2.0")) == "CPU, 2 cores, torch 2.15"
