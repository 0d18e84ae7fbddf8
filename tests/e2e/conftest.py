import pytest
import torch

from enhance_ray import checkpoint
from enhance_ray.checkpoint import ModelConfig
from enhance_ray.models.denoiser import Denoiser, DenoiserConfig


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small model that lets everything pass: its mask is open, its rotation nil."""
    settings = DenoiserConfig(hidden=4, blocks=1, middle_blocks=0, bands=16)
    denoiser = Denoiser(settings)
    torch.nn.init.zeros_(denoiser.net.head[2].weight)
    denoiser.net.head[2].bias.data = torch.tensor([40.0, 40.0, 0.0])
    folder = tmp_path_factory.mktemp("model") / "open"
    checkpoint.save(folder, ModelConfig(name="open", denoiser=settings), denoiser.state_dict())
    return str(folder)
