import pytest
import torch

from wssl_pl.data.crop import crop_batch


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_each_image_is_cropped_at_its_own_place(dtype: torch.dtype, layout: torch.memory_format) -> None:
    images = torch.randint(0, 256, (6, 3, 40, 44)).to(dtype).to(memory_format=layout)
    crop = torch.tensor([[0, 0], [8, 12], [8, 0], [0, 12], [3, 5], [7, 1]])
    cropped = crop_batch(images, crop, 32)
    expected = torch.stack([images[i, :, t : t + 32, x : x + 32] for i, (t, x) in enumerate(crop.tolist())])
    assert torch.equal(cropped, expected)
    assert cropped.dtype == dtype
    assert cropped.is_contiguous(memory_format=torch.channels_last)


def test_a_slice_of_a_larger_batch() -> None:
    images = torch.randint(0, 256, (6, 3, 40, 40), dtype=torch.uint8).to(memory_format=torch.channels_last)[2:5]
    crop = torch.tensor([[0, 0], [4, 4], [8, 8]])
    expected = torch.stack([images[i, :, t : t + 32, x : x + 32] for i, (t, x) in enumerate(crop.tolist())])
    assert torch.equal(crop_batch(images, crop, 32), expected)


def test_the_whole_image_and_no_image() -> None:
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(crop_batch(images, torch.zeros(2, 2, dtype=torch.int64), 32), images)
    assert crop_batch(images[:0], torch.zeros(0, 2, dtype=torch.int64), 16).shape == (0, 3, 16, 16)
    assert torch.equal(crop_batch(images[:1], torch.tensor([[2, 3]]), 16), images[:1, :, 2:18, 3:19])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_host_does_not_wait() -> None:
    images = torch.randint(0, 256, (64, 3, 256, 256), dtype=torch.uint8).to(memory_format=torch.channels_last)
    crop = torch.randint(0, 33, (64, 2))
    on_gpu = images.cuda(), crop.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        cropped = crop_batch(*on_gpu, 224)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(cropped.cpu(), crop_batch(images, crop, 224))
