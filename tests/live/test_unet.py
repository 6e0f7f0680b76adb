"""The UNet equals diffusers' with the shapes that configs of the family ask for."""

import jax
import jax.numpy as jnp
import pytest

from convert_weights.tables import unet as table
from imx2mx_jax.models.unet import UNet
from tests.golden.support import nhwc
from tests.live import support

pytestmark = pytest.mark.torch

# No two widths of a network are equal.
INSTRUCT_PIX2PIX = {
  "in_channels": 8,
  "block_out_channels": (24, 40),
  "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
  "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
  "layers_per_block": 2,
  "norm_num_groups": 2,
  "attention_head_dim": 4,
  "cross_attention_dim": 28,
}
STABLE_DIFFUSION_2 = {
  "out_channels": 6,
  "block_out_channels": (16, 24, 56),
  "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
  "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
  "layers_per_block": 1,
  "norm_num_groups": 8,
  "norm_eps": 1e-3,
  "attention_head_dim": (2, 3, 7),
  "transformer_layers_per_block": 2,
  "cross_attention_dim": 36,
  "use_linear_projection": True,
}


def check(torch, config: dict, size: tuple[int, int], folder):
  from diffusers import UNet2DConditionModel

  theirs = support.randomise(UNet2DConditionModel(**config))
  theirs.save_pretrained(folder)
  ours = support.converted(UNet, table, folder)

  generator = torch.Generator().manual_seed(1)
  sample = torch.randn(3, theirs.config.in_channels, *size, generator=generator)
  timesteps = torch.tensor([3.0, 500.5, 999.0])
  context = torch.randn(3, 7, theirs.config.cross_attention_dim, generator=generator)
  with torch.no_grad():
    wanted = theirs(sample, timesteps, context).sample

  given = (nhwc(sample.numpy()), timesteps.numpy(), context.numpy())
  found = jax.jit(lambda network, *given: network(*given))(ours, *map(jnp.asarray, given))
  support.assert_equal(found, wanted.movedim(1, -1), "prediction")


def test_prediction_of_an_editor_equals_diffusers(torch, tmp_path):
  check(torch, INSTRUCT_PIX2PIX, (12, 20), tmp_path)


def test_prediction_equals_diffusers_where_the_size_does_not_divide(torch, tmp_path):
  check(torch, STABLE_DIFFUSION_2, (10, 14), tmp_path)
