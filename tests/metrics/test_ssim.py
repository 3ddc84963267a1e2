import pytest
import torch
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from wssl_pl.metrics import ms_ssim, ssim, ssim_map
from wssl_pl.metrics.gaussian import band


@pytest.fixture
def pair():
    a = torch.rand(3, 3, 40, 48)
    return a, (a + 0.1 * torch.randn_like(a)).clamp(0, 1)


def test_agrees_with_torchmetrics(pair):
    expected = structural_similarity_index_measure(*pair, data_range=1.0, reduction="none")
    assert ssim(*pair).tolist() == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("size", [(6, 6), (11, 8), (40, 48)])
def test_map_and_gradient_agree_with_kornia(size):
    a = torch.rand(2, 3, *size)
    b = (a + 0.2 * torch.randn_like(a)).clamp(0, 1)
    maps, gradients = [], []
    for implementation in ("fast", "kornia"):
        prediction = a.clone().requires_grad_()
        maps.append(ssim_map(prediction, b, implementation))
        # A gradient of another size for each pixel, so that the whole derivative is compared.
        (maps[-1] * torch.linspace(-1, 1, a.numel()).view_as(a)).sum().backward()
        gradients.append(prediction.grad)
    assert torch.allclose(maps[0], maps[1], atol=1e-5)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5 * gradients[1].abs().max().item())


@pytest.mark.parametrize("function", [ssim, ssim_map])
def test_gradient(function):
    prediction = torch.rand(2, 2, 7, 9, dtype=torch.float64, requires_grad=True)
    target = torch.rand(2, 2, 7, 9, dtype=torch.float64)
    assert torch.autograd.gradcheck(function, (prediction, target))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(6, 6), (35, 48), (150, 300), (300, 290)])  # several images at a time, one, and less
def test_mean_and_its_gradient_agree_with_kornia(size, layout):
    a = torch.rand(3, 3, *size)
    b = (a + 0.2 * torch.randn_like(a)).clamp(0, 1).contiguous(memory_format=layout)
    values, gradients = [], []
    for implementation in ("fast", "kornia"):
        prediction = a.contiguous(memory_format=layout).requires_grad_()
        values.append(ssim(prediction, b, implementation))
        # Another factor for each image, as a weighted loss would have.
        (values[-1] * torch.tensor([1.0, -2.0, 0.5])).sum().backward()
        gradients.append(prediction.grad)
        prediction.grad = None
    assert torch.allclose(values[0], values[1], atol=1e-5)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5 * gradients[1].abs().max().item())


@pytest.mark.parametrize("window", [3, 5, 7, 9, 11, 13, 21, 33])
@pytest.mark.parametrize("sigma", [0.8, 1.5, 4.0])
def test_both_implementations_agree_for_any_odd_window(window, sigma):
    a = torch.rand(2, 3, window // 2 + 1, 40)
    b = (a + 0.2 * torch.randn_like(a)).clamp(0, 1)
    values, gradients = [], []
    for implementation in ("fast", "kornia"):
        prediction = a.clone().requires_grad_()
        values.append(ssim(prediction, b, implementation, window, sigma))
        values[-1].sum().backward()
        gradients.append(prediction.grad)
    assert torch.allclose(values[0], values[1], atol=1e-5)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5 * gradients[1].abs().max().item())
    with pytest.raises(ValueError, match=f"at least {window // 2 + 1} px"):
        ssim(a[..., :-1, :], b[..., :-1, :], window=window, sigma=sigma)


@pytest.mark.parametrize("sigma", [0.8, 3.0])
def test_another_sigma_agrees_with_torchmetrics(pair, sigma):
    window = 2 * int(3.5 * sigma + 0.5) + 1  # what torchmetrics takes for this sigma
    expected = structural_similarity_index_measure(*pair, data_range=1.0, sigma=sigma, reduction="none")
    assert ssim(*pair, window=window, sigma=sigma).tolist() == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("function", [ssim, ssim_map, ms_ssim])
def test_is_differentiable_after_a_validation_under_inference_mode(function):
    band.cache_clear()
    side = 176 if function is ms_ssim else 12
    target = torch.rand(1, 1, side, side)
    prediction = target + 0.1 * torch.rand_like(target)
    with torch.inference_mode():
        function(prediction, target)
    prediction.requires_grad_()
    function(prediction, target).sum().backward()
    assert prediction.grad.abs().sum() > 0


def test_no_gradient_flows_into_the_target():
    prediction, target = torch.rand(1, 3, 8, 8, requires_grad=True), torch.rand(1, 3, 8, 8, requires_grad=True)
    ssim(prediction, target).sum().backward()
    assert target.grad is None


def test_bad_arguments():
    with pytest.raises(ValueError, match="fast, kornia"):
        ssim(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), "slow")
    with pytest.raises(ValueError, match="at least 6 px"):
        ssim(torch.rand(1, 3, 5, 8), torch.rand(1, 3, 5, 8))


@pytest.mark.parametrize(("window", "sigma"), [(10, 1.5), (1, 1.5), (-3, 1.5), (11, 0.0), (11, float("nan"))])
def test_a_window_that_cannot_be_used(window, sigma):
    with pytest.raises(ValueError, match=r"window=|sigma="):
        ssim(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16), window=window, sigma=sigma)


def test_interior_agrees_with_scikit_image(pair):
    a, b = pair
    _, full = structural_similarity(
        a[0].numpy(), b[0].numpy(), channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        data_range=1.0, full=True,
    )  # fmt: skip
    ours = ssim_map(a[:1], b[:1])[0]
    assert torch.allclose(ours[:, 5:-5, 5:-5], torch.from_numpy(full)[:, 5:-5, 5:-5], atol=1e-4)


@pytest.mark.parametrize("implementation", ["fast", "kornia"])
def test_stays_in_float32_under_autocast(pair, implementation):
    a, b = pair
    results = []
    for enabled in (True, False):
        prediction = a.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            value = ssim(prediction, b, implementation)
            value.sum().backward()
        results.append((value, prediction.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
