"""Small data, and a method made for the tests."""

import torch

from wssl_pl.data import WSSLDataModule


def sample_data(size=48, limit=8, **kwargs):
    settings = {"images": "synthetic", "masks": "synthetic", "hole_ratio": (0.1, 0.5)} | kwargs
    return WSSLDataModule(image_size=size, resize=size + 8, limit=limit, **settings)


class Noisy:
    """The image it is given, holes grey, with noise all over."""

    name, notes = "noisy", []

    def __init__(self, noise=0.1):
        self.noise = noise

    def __call__(self, names, images, masks):
        # Drawn for each name, so that batches and examples see the same noise.
        drawn = []
        for name in names:
            generator = torch.Generator().manual_seed(int(name))
            drawn.append(torch.randn(images.shape[1:], generator=generator))
        return (torch.where(masks > 0.5, 0.5, images) + self.noise * torch.stack(drawn)).clamp(0, 1)

    def describe(self):
        return {"method": "noisy"}
