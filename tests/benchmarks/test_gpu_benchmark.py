import json
import pickle

import pytest
import torch
from ceilings import convolutions, count_convolution, training_flops
from gpu import Report, best_batch, main, memory_of, parse
from gpu_tables import as_markdown
from PIL import Image
from steps import Repeated, load_images, seconds

CPU = torch.device("cpu")
SMALL = ["--small", "--device=cpu", "--repeats=2"]


@pytest.mark.parametrize(("stage", "gigaflops"), [("pretext", 78.0), ("downstream", 203.3)])
def test_the_operations_of_the_paper_s_network_are_counted(stage, gigaflops):
    counted = training_flops(stage, 64, 224)
    assert counted / 1e9 == pytest.approx(gigaflops, abs=0.1)
    # All but the heads' are convolutions, each counted with the gradients that are taken through it.
    assert sum(map(count_convolution, convolutions(stage, 64, 224))) == pytest.approx(counted, rel=1e-3)


def test_a_frozen_encoder_is_timed_without_gradients():
    cases = convolutions("downstream", 8, 64)
    assert len(cases) == 10 + 15 + 1
    assert not any(case.weight_gradient or case.input_gradient for case in cases[:10])
    assert all(case.weight_gradient for case in cases[10:])
    assert not convolutions("pretext", 8, 64)[0].input_gradient


def test_seconds_are_per_call_and_one_per_repeat():
    calls = []
    assert len(seconds(lambda: calls.append(1), CPU, repeats=2, calls=5)) == 2
    assert len(calls) == 2 + 2 * 5


def test_a_case_that_does_not_fit_is_recorded_and_the_next_one_goes_on():
    record = {}
    with memory_of(CPU, record):
        raise torch.OutOfMemoryError("too much")
    assert record == {"error": "out of memory"}
    with memory_of(CPU, record):
        raise RuntimeError("compiler\nmany lines")
    assert "compiler" in record["error"]
    assert "many" not in record["error"]


def test_when_time_is_up_nothing_begins_and_the_report_says_what_is_missing(tmp_path, capsys):
    main([*SMALL, "--budget-s=0", f"--out={tmp_path}"])
    data = json.loads((tmp_path / "gpu_small.json").read_text())
    assert data["not_measured"] == ["a", "b", "c", "f", "e"]
    assert data["parts"] == {}
    assert "Not measured" in capsys.readouterr().out


SETTINGS = {"width": 4, "size": 32, "cudnn_benchmark": True, "compile_mode": None}


def test_a_later_call_adds_cases_and_replaces_those_measured_again(tmp_path):
    path = tmp_path / "gpu.json"
    case = {"stage": "pretext", "kind": "step", "variant": "eager"}

    def put(batch, rate):
        Report(path, SETTINGS, 1.0, CPU).put("b", str(batch), case | {"batch": batch, "images_per_s": rate})

    put(2, 1.0)
    put(4, 2.0)
    there = json.loads(path.read_text())
    path.write_text(json.dumps(there | {"machine": there["machine"] | {"date": "2000-01-01"}}))  # before midnight
    put(4, 3.0)
    assert {name: record["images_per_s"] for name, record in json.loads(path.read_text())["parts"]["b"].items()} == {
        "2": 1.0,
        "4": 3.0,
    }


def test_measurements_with_other_settings_stay_in_a_file_of_their_own(tmp_path, capsys):
    path = tmp_path / "gpu.json"
    for width in (4, 8, 16):
        report = Report(path, SETTINGS | {"width": width}, 1.0, CPU)
        assert report.data["parts"] == {}
        report.put("e", "x", {"kernels": []})
    widths = {file.name: json.loads(file.read_text())["settings"]["width"] for file in tmp_path.glob("*.json")}
    assert widths == {"gpu-1.json": 4, "gpu-2.json": 8, "gpu.json": 16}
    assert {file.name for file in tmp_path.glob("*.md")} == {"gpu-1.md", "gpu-2.md", "gpu.md"}
    assert "it is gpu-2.json now" in capsys.readouterr().out


@pytest.mark.parametrize(
    "option", ["--loop-args=--model.norm=batch", "--resize=40", "--images=faces", "--loop-steps=9"]
)
def test_what_changes_a_measurement_is_among_the_settings(tmp_path, option):
    call = [*SMALL, "--budget-s=0", f"--out={tmp_path}"]
    main(call)
    main([*call, "--variants=eager", "--batches=2", "--parts=a"])
    assert not list(tmp_path.glob("*-1.json"))
    main([*call, option])
    assert list(tmp_path.glob("*-1.json"))


def test_a_part_that_there_is_not(capsys):
    with pytest.raises(SystemExit):
        parse(["--parts=a,d"])
    assert "unknown: d" in capsys.readouterr().err


def test_the_best_batch_is_the_fastest_one_that_ran(tmp_path):
    report = Report(tmp_path / "gpu.json", {}, 1.0, CPU)
    case = {"stage": "pretext", "kind": "step", "variant": "eager"}
    report.data["parts"]["b"] = {
        "a": case | {"batch": 2, "images_per_s": 5.0},
        "b": case | {"batch": 4, "images_per_s": 9.0},
        "c": case | {"batch": 8, "error": "out of memory"},
    }
    assert best_batch("pretext", "eager", report, 1) == 4
    assert best_batch("downstream", "eager", report, 1) == 1


def test_images_come_from_the_folder_and_go_round(tmp_path):
    for number in range(12):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(tmp_path / f"{number}.png")
    images = load_images(tmp_path, 16, 5)
    assert images.shape == (5, 16, 16, 3)
    repeated = pickle.loads(pickle.dumps(Repeated(images, 100)))  # as a worker of a data loader gets it
    again, failed = repeated.read(torch.tensor([1, 6]).numpy())
    assert len(repeated) == 100
    assert not failed
    assert (again[0] == again[1]).all()
    assert load_images(None, 16, 3).shape == (3, 16, 16, 3)


@pytest.mark.slow
def test_every_part_runs_small_on_a_cpu(tmp_path, capsys):
    data = main([*SMALL, "--batches=2", "--variants=eager", f"--out={tmp_path}", "--loop-repeats=1",
                 "--loop-args=--trainer.enable_progress_bar=false"])  # fmt: skip
    parts = data["parts"]
    assert set(parts) == set("abcef")
    assert not data["not_measured"]
    assert {(case["stage"], case["kind"]) for case in parts["b"].values()} == {
        (stage, kind) for stage in ("pretext", "downstream") for kind in ("bare", "step")
    }
    for part in "abce":
        assert not [case for case in parts[part].values() if "error" in case]
    assert all(len(case["repeats"]) == 2 and case["images_per_s"] > 0 for case in parts["b"].values())
    assert all(case["loop/step"] > 0 for case in parts["c"].values())
    for record in parts["e"].values():
        shares = [kernel["share"] for kernel in record["kernels"]]
        assert len(shares) == 10
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) <= 1.0
    for figures in parts["f"].values():
        assert len(figures["curves"]["bf16"]) == 4
        # The same weights and data: only rounding tells the two precisions apart, and other weights tell more.
        assert figures["bf16_gap"] < min(0.02, figures["seed_gap"])
    (file,) = tmp_path.glob("gpu*.md")
    assert file.read_text() == as_markdown(data)


@pytest.mark.slow
def test_compiled_steps_run(tmp_path):
    data = main([*SMALL, "--parts=b", "--batches=2", "--variants=compiled,whole", "--compile-backend=aot_eager",
                 f"--out={tmp_path}", "--repeats=1"])  # fmt: skip
    cases = list(data["parts"]["b"].values())
    assert [case["variant"] for case in cases] == ["compiled"] * 4 + ["whole"] * 2
    assert not [case["error"] for case in cases if "error" in case]
