import json
import math
import shutil
import time
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from small_data import Noisy

from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.classical import CLASSICAL, missing_package
from wssl_pl.evaluation.compare import compare
from wssl_pl.evaluation.drawing import columns_of, strip
from wssl_pl.evaluation.evaluate import Settings, evaluate, predict, read_pairs
from wssl_pl.evaluation.methods import Classical
from wssl_pl.evaluation.metrics import METRICS, measure
from wssl_pl.evaluation.pairs import Pairs, write_named_pairs
from wssl_pl.evaluation.predictions import Predictions
from wssl_pl.evaluation.report import comparison_page, leaderboard, write_comparison, write_report
from wssl_pl.evaluation.results import Weights, read_result

CPU = torch.device("cpu")


def test_what_a_result_holds(pairs, noisy, tmp_path):
    result = evaluate(pairs, noisy)
    result.save(tmp_path / "out")
    table = result.table
    assert table.metrics[:4] == ("psnr", "psnr_composite", "ssim", "ssim_composite")
    assert "psnr_hole" in table.metrics
    assert list(table.images) == [pair.name for pair in pairs.pairs]
    assert table.ratios.tolist() == [pair.ratio for pair in pairs.pairs]
    image, mask = (part.float() for part in pairs.read(pairs.pairs))
    expected = measure(predict(noisy, pairs.pairs, image / 255, mask), image / 255, mask)
    for metric in ("psnr", "ssim_composite", "l1_hole"):
        assert table.column(metric).tolist() == pytest.approx(expected[metric].tolist(), abs=2e-5)
    entry = result.estimates["all"]["psnr"]
    assert entry.mean == pytest.approx(expected["psnr"].mean().item(), abs=1e-4)
    assert entry.low < entry.mean < entry.high
    counts = result.counts
    assert counts["all"] == 8 == sum(count for name, count in counts.items() if name != "all")
    means = [result.estimates[name]["psnr"].mean * count for name, count in counts.items() if name != "all"]
    assert sum(means) / 8 == pytest.approx(entry.mean, abs=1e-6)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["pairs"]["hash"] == pairs.manifest.hash
    assert summary["metrics"]["all"]["psnr"]["mean"] == entry.mean
    notes = " ".join(result.notes)
    for missing in ("lpips_weights=FILE", "inception_weights=FILE", "MS-SSIM not measured", "https://"):
        assert missing in notes


def test_reports(pairs, noisy, tmp_path):
    out = tmp_path / "out"
    write_report(evaluate(pairs, noisy), out, pairs, noisy, CPU)
    text = (out / "report.md").read_text()
    page = (out / "report.html").read_text()
    for part in (text, page):
        assert "PSNR hole" in part
        assert pairs.manifest.hash[:16] in part
        assert all(f"{rank} 1" in part for rank in ("best", "median", "worst"))
    for name in ("box_plots.png", "example_best_1.png", "example_worst_1.png", "sample_6.png"):
        assert name in text
        assert Image.open(out / name).width > 4 * 48
    assert page.count("data:image/png;base64,") == 1 + 8 + 6
    # The samples are what was measured, and need not be made again.
    filled = columns_of(out / "sample_6.png", 4)[2]
    last = max(pairs.pairs, key=lambda pair: pair.ratio)
    image, mask, given = read_pairs(pairs, [last], CPU)
    output = predict(noisy, [last], image, mask, given)
    expected = torch.where(mask > 0.5, output, image)[0].mul(255).round().byte().permute(1, 2, 0)
    assert np.array_equal(filled, expected.numpy())
    assert "src='http" not in page


def test_batches_do_not_change_metrics(pairs, noisy):
    small, large = (evaluate(pairs, noisy, Settings(batch_size=size)).table for size in (3, 8))
    assert small.values == pytest.approx(large.values, abs=2e-6, nan_ok=True)


def test_limit_is_a_beginning_of_the_list(pairs, noisy):
    some, every = (evaluate(pairs, noisy, Settings(limit=limit)).table for limit in (3, None))
    assert np.array_equal(some.values, every.values[:3], equal_nan=True)


INSTALLED = [name for name in CLASSICAL if missing_package(name) is None]


@pytest.mark.parametrize("name", INSTALLED)
def test_classical_methods_and_their_saved_files_have_the_same_metrics(pairs, tmp_path, name):
    method = Classical(name)
    direct = evaluate(pairs, method, Settings(limit=2)).table
    (tmp_path / "files").mkdir()
    image, mask = (part.float() for part in pairs.read(pairs.pairs[:2]))
    filled = predict(method, pairs.pairs[:2], image / 255, mask)
    assert torch.equal((filled * 255).round()[(1 - mask).bool().expand_as(image)],
                       image[(1 - mask).bool().expand_as(image)])  # fmt: skip
    for pair, picture in zip(pairs.pairs, filled, strict=False):
        pixels = picture.mul(255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / "files" / f"{pair.name}.png")
    names = [pair.name for pair in pairs.pairs]
    saved = evaluate(pairs, Predictions(tmp_path / "files", names[:2], names), Settings(limit=2)).table
    assert np.array_equal(direct.values, saved.values, equal_nan=True)
    assert direct.column("psnr")[0] > 10


def test_mean_fill_by_hand():
    image = torch.zeros(1, 3, 4, 4)
    image[:, 0, :, 2:] = 0.8
    image[:, 1] = 0.4
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :1] = 1
    filled = Classical("mean")(["a"], torch.where(mask > 0.5, 0.0, image), mask)
    assert filled[0, :, 0, 0].tolist() == pytest.approx([0.8 * 2 / 3, 0.4, 0.0])


@pytest.mark.parametrize("name", ["fsr_fast", "fsr_best"])
def test_fsr_is_called_as_opencv_has_it(monkeypatch, name):
    def inpaint(pixels, known, filled, flag):
        assert flag == {"fsr_fast": 2, "fsr_best": 1}[name]
        assert pixels.shape == (32, 48, 3)
        assert known.shape == (32, 48)
        assert known.dtype == np.uint8
        assert (pixels[known == 1] == (76, 51, 26)).all()  # blue, green, red
        filled[:] = pixels + 1  # as rounding would change known pixels
        filled[known == 0] = (30, 20, 10)

    monkeypatch.setattr(cv2, "xphoto", SimpleNamespace(inpaint=inpaint), raising=False)
    image = torch.tensor([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1).expand(2, 3, 20, 33)
    mask = (torch.rand(2, 1, 20, 33) < 0.4).float()
    filled = Classical(name)(["a", "b"], torch.where(mask > 0.5, 0.0, image), mask)
    hole = (mask > 0.5).expand_as(image)
    assert torch.equal(filled[~hole], image[~hole])
    expected = torch.tensor([10.0, 20.0, 30.0]).reshape(1, 3, 1, 1).expand_as(image) / 255
    assert torch.equal(filled[hole], expected[hole])


def test_fsr_without_contrib_is_one_line(monkeypatch):
    monkeypatch.delattr(cv2, "xphoto", raising=False)
    with pytest.raises(WSSLError, match=r"method=fsr_fast: needs OpenCV's contrib modules: .*opencv-contrib-python"):
        Classical("fsr_fast")


@pytest.mark.parametrize("name", INSTALLED)
def test_all_hole_and_no_hole(name):
    image = torch.rand(2, 3, 16, 16)
    mask = torch.stack([torch.ones(1, 16, 16), torch.zeros(1, 16, 16)])
    filled = Classical(name)(["a", "b"], torch.where(mask > 0.5, 0.0, image), mask)
    assert torch.equal(filled[0], torch.full((3, 16, 16), 0.5))
    assert torch.equal(filled[1], image[1])


def test_identical_images_are_counted_and_kept_out_of_the_mean(pairs, tmp_path):
    (tmp_path / "files").mkdir()
    names = [pair.name for pair in pairs.pairs]
    image, _ = pairs.read(pairs.pairs)
    for number, name in enumerate(names):
        pixels = image[number].permute(1, 2, 0).numpy()
        Image.fromarray(pixels if number < 3 else pixels // 2).save(tmp_path / "files" / f"{name}.png")
    method = Predictions(tmp_path / "files", names, names)
    result = evaluate(pairs, method)
    entry = result.estimates["all"]["psnr"]
    assert entry.infinite == 3
    finite = [value for value in result.table.column("psnr") if value != math.inf]
    assert len(finite) == 5
    assert entry.mean == pytest.approx(np.mean(finite), abs=1e-6)
    write_report(result, tmp_path / "out", pairs, method, CPU)
    assert "infinite (identical) for 3 images" in (tmp_path / "out" / "report.md").read_text()


def test_only_identical_images(pairs, tmp_path):
    class Truth(Noisy):
        def __call__(self, names, images, masks):
            return pairs.read([pair for pair in pairs.pairs if pair.name in names])[0] / 255

    result = evaluate(pairs, Truth())
    assert result.estimates["all"]["psnr"].mean is None
    assert result.estimates["all"]["ssim"].mean == pytest.approx(1.0, abs=1e-6)
    write_report(result, tmp_path / "out", pairs, Truth(), CPU)
    assert read_result(tmp_path / "out").estimates == result.estimates


def test_pixels_that_are_not_numbers_are_refused_by_name(pairs):
    class Broken(Noisy):
        def __call__(self, names, images, masks):
            pictures = super().__call__(names, images, masks)
            pictures[names.index("00005"), 1, 2, 3] = math.nan
            return pictures

    with pytest.raises(WSSLError, match=r"not numbers .* for 00005"):
        evaluate(pairs, Broken())


def test_a_method_cannot_look_into_the_hole(pairs):
    class Looking(Noisy):
        def __call__(self, names, images, masks):
            assert (images * masks).abs().max() == 0
            return images

    assert evaluate(pairs, Looking()).seconds_per_image > 0


def test_products_are_exact_and_what_was_set_comes_back(pairs, noisy):
    class Asking(Noisy):
        def __call__(self, names, images, masks):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
            return super().__call__(names, images, masks)

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        evaluate(pairs, Asking())
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_pairs_folder_is_not_written_to(pairs, noisy):
    before = sorted(pairs.folder.rglob("*"))
    with pytest.raises(WSSLError, match="is the folder of the pairs"):
        write_report(evaluate(pairs, noisy), pairs.folder, pairs, noisy, CPU)
    assert sorted(pairs.folder.rglob("*")) == before


def test_strips_of_large_images_are_small_and_taken_apart(tmp_path, noisy):
    for folder, pixels in (("images", (400, 300, 3)), ("masks", (400, 300))):
        (tmp_path / folder).mkdir()
        value = np.zeros(pixels, np.uint8)
        value[:100] = 250
        Image.fromarray(value).save(tmp_path / folder / "1.png")
    pairs = write_named_pairs(tmp_path / "images", tmp_path / "masks", tmp_path / "pairs", "white")
    (tmp_path / "strip.png").write_bytes(strip(pairs, {}, noisy, CPU, "1"))
    masked, _, filled, truth = columns_of(tmp_path / "strip.png", 4)
    assert masked.shape == filled.shape == truth.shape == (256, 192, 3)
    assert [masked[10, 10, 0], truth[10, 10, 0], truth[-10, 10, 0]] == pytest.approx([127.5, 250, 0], abs=1)
    with pytest.raises(WSSLError, match=r"result=.*strip.png: is no strip of 3 images: run `wssl evaluate` again"):
        columns_of(tmp_path / "strip.png", 3)


class TestCompare:
    @pytest.fixture
    def results(self, pairs, tmp_path):
        for noise in (0.05, 0.1):
            evaluate(pairs, Noisy(noise)).save(tmp_path / f"{noise}")
        return [tmp_path / "0.1", tmp_path / "0.05"]

    def test_differences_by_hand(self, results):
        found = compare(results).others[0].groups
        first, second = (read_result(folder).table for folder in results)
        entry = found["all"]["psnr"]
        assert entry.difference == pytest.approx((second.column("psnr") - first.column("psnr")).mean())
        assert entry.low <= entry.difference <= entry.high
        assert entry.won == 1.0
        # Lower is better: less noise wins there too, with a negative difference.
        assert found["all"]["l1"].difference < 0
        assert found["all"]["l1"].won == 1.0
        assert set(found) == {"all", *first.bins}
        assert set(found["all"]) <= set(METRICS)

    def test_paired_intervals_are_narrower_than_those_of_the_means(self, results):
        entry = compare(results).others[0].groups["all"]["psnr_hole"]
        alone = read_result(results[0]).estimates["all"]["psnr_hole"]
        assert entry.high - entry.low < (alone.high - alone.low) / 2

    def test_against_itself(self, results):
        result = compare([results[0], results[0], results[1]])
        entry = result.others[0].groups["all"]["psnr"]
        assert (entry.difference, entry.won, entry.tied) == (0.0, 0.0, 1.0)
        assert len(result.others) == 2
        assert "won 100%" in comparison_page(result)

    def test_a_leaderboard_of_any_number(self, pairs, results, tmp_path):
        evaluate(pairs, Classical("mean")).save(tmp_path / "mean")
        folders = [*results, tmp_path / "mean"]
        found = compare(folders)
        means = [standing.metrics["psnr_composite"].mean for standing in found.leaderboard]
        assert means == sorted(means, reverse=True)
        assert (found.ranked_by, found.folder, len(found.others)) == ("psnr_composite", str(results[0]), 2)
        of_reference = next(one for one in found.leaderboard if one.folder == found.folder)
        assert of_reference.difference is None
        assert {one.name for one in found.leaderboard} == {"mean", *(f"noisy ({folder})" for folder in results)}
        best = compare(folders, rank_by="l1", reference="best")
        means = [standing.metrics["l1"].mean for standing in best.leaderboard]
        assert means == sorted(means)
        assert best.folder == best.leaderboard[0].folder
        assert all(one.difference.difference > 0 for one in best.leaderboard[1:])
        rows = leaderboard(best)
        assert rows[0][:4] == ["", "result", "L1 ↓", "difference"]
        assert [row[0] for row in rows[1:]] == ["1", "2", "3"]
        assert rows[1][3] == "reference"
        with pytest.raises(WSSLError, match=r"^rank_by=lpips: no result has this metric: there are psnr, "):
            compare(folders, rank_by="lpips")

    def test_identical_images_are_the_best(self, pairs, results, tmp_path):
        images = Predictions(pairs.folder / "images", *[[pair.name for pair in pairs.pairs]] * 2)
        evaluate(pairs, images).save(tmp_path / "truth")
        assert compare([*results, tmp_path / "truth"]).leaderboard[0].name == "images"

    def test_pages_have_the_same_images_of_every_result(self, pairs, tmp_path):
        names = ["mean", "telea"]
        for name in names:
            method = Classical(name)
            write_report(evaluate(pairs, method), tmp_path / name, pairs, method, CPU)
        evaluate(pairs, Noisy()).save(tmp_path / "without")
        write_comparison(compare([tmp_path / name for name in (*names, "without")]), tmp_path / "out")
        page, text = ((tmp_path / "out" / f"comparison.{kind}").read_text() for kind in ("html", "md"))
        assert page.count("data:image/png;base64,") == 1
        assert "](comparison.png)" in text
        width, height = Image.open(tmp_path / "out" / "comparison.png").size
        assert 0.6 < width / height < 0.75  # four columns of six images
        assert json.loads((tmp_path / "out" / "comparison.json").read_text())["leaderboard"][0]["metrics"]["psnr"][
            "mean"
        ]

    def test_protocols(self, results):
        def save(protocol):
            replace(read_result(results[1]), protocol=protocol).save(results[1])
            return compare(results).notes

        assert save(1) == []
        assert save(0) == [f"{results[1]}: protocol unknown"]
        with pytest.raises(WSSLError, match=r"0.05: was measured by protocol 2, .*0.1 by protocol 1: measure both"):
            save(2)

    def test_lpips_of_different_networks_is_omitted(self, results):
        for folder, network in zip(results, ("alex", "vgg"), strict=True):
            one = read_result(folder)
            values = np.concatenate([one.table.values, one.table.values[:, :1]], axis=1)
            table = replace(one.table, metrics=(*one.table.metrics, "lpips"), values=values)
            replace(one, table=table, weights={"lpips": Weights("a.pth", "0", network)}).save(folder)
        found = compare(results)
        assert found.notes == ["LPIPS is omitted: it is of different networks (alex, vgg)"]
        assert "lpips" not in found.others[0].groups["all"]
        assert "lpips" not in found.leaderboard[0].metrics

    def test_other_pairs_are_refused(self, results, tmp_path):
        other = shutil.copytree(results[0], tmp_path / "other")
        summary = json.loads((other / "summary.json").read_text())
        summary["pairs"]["hash"] = "0" * 64
        (other / "summary.json").write_text(json.dumps(summary))
        with pytest.raises(WSSLError, match="measured on other pairs"):
            compare([results[0], other])

    def test_another_part_of_the_pairs_is_refused(self, pairs, results, noisy, tmp_path):
        evaluate(pairs, noisy, Settings(limit=3)).save(tmp_path / "some")
        with pytest.raises(WSSLError, match="on 3 of the pairs"):
            compare([results[0], tmp_path / "some"])

    def test_results_without_a_common_metric_are_refused(self, results, tmp_path):
        result = read_result(results[0])
        lpips = replace(result.table, metrics=("lpips",), values=result.table.values[:, :1])
        replace(result, table=lpips).save(tmp_path / "lpips")
        with pytest.raises(WSSLError, match=r"^result=.*lpips: has no metric that .* has: evaluate both"):
            compare([results[0], tmp_path / "lpips"])

    def test_what_is_no_result(self, results, tmp_path):
        with pytest.raises(WSSLError, match="not a finished result"):
            compare([results[0], tmp_path])
        with pytest.raises(WSSLError, match="two or more"):
            compare(results[:1])


@pytest.mark.real
def test_real_faces_with_real_masks(real_data, tmp_path):
    from wssl_pl.data import WSSLDataModule
    from wssl_pl.evaluation.pairs import write_pairs

    data = WSSLDataModule(
        images=str(real_data / "celeba_hq"), masks=str(real_data / "nvidia_masks"), hole="white",
        hole_ratio=(0.0, 0.6), image_size=64, resize=72, limit=12,
    )  # fmt: skip
    write_pairs(data, "test", tmp_path / "pairs")
    result = evaluate(Pairs.open(tmp_path / "pairs"), Classical("telea"))
    assert len(result.counts) == 7
    means = [entry["psnr"].mean for name, entry in result.estimates.items() if name != "all"]
    assert means[0] > means[-1] + 5


def test_stored_values_are_rounded_and_the_time_is_that_of_an_image(pairs, noisy):
    result = evaluate(pairs, noisy)
    values = result.table.column("psnr_hole")
    assert np.array_equal(values, values.round(6))

    class Slow:
        name, notes = "slow", ()
        describe = noisy.describe

        def __call__(self, *given):
            time.sleep(0.02)
            return noisy(*given)

    assert 0.02 <= evaluate(pairs, Slow(), Settings(batch_size=1)).seconds_per_image < 8 * 0.02
