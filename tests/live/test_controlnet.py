"""The ControlNet equals diffusers', and so does the UNet that gets its residuals."""

import jax
import jax.numpy as jnp
import pytest

from convert_weights.tables import controlnet, unet
from imx2mx_jax.models.controlnet import ControlNet
from imx2mx_jax.models.unet import UNet
from tests.golden.support import nhwc
from tests.live import support

pytestmark = pytest.mark.torch

TRUNK = {
  "block_out_channels": (24, 40),
  "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
  "layers_per_block": 1,
  "norm_num_groups": 2,
  "attention_head_dim": 4,
  "cross_attention_dim": 28,
}


def test_residuals_and_guided_prediction_equal_diffusers(torch, tmp_path):
  from diffusers import ControlNetModel, UNet2DConditionModel

  hint_channels = (6, 10, 14)
  their_control = ControlNetModel(**TRUNK, conditioning_embedding_out_channels=hint_channels)
  their_unet = UNet2DConditionModel(**TRUNK, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
  for seed, (name, model) in enumerate({"control": their_control, "unet": their_unet}.items()):
    support.randomise(model, seed).save_pretrained(tmp_path / name)
  control = support.converted(ControlNet, controlnet, tmp_path / "control")
  unet_ = support.converted(UNet, unet, tmp_path / "unet")

  generator = torch.Generator().manual_seed(2)
  sample = torch.randn(2, 4, 8, 12, generator=generator)
  context = torch.randn(2, 7, 28, generator=generator)
  image = torch.rand(2, 3, 4 * 8, 4 * 12, generator=generator)
  timestep = torch.tensor(321)
  with torch.no_grad():
    down, middle = their_control(sample, timestep, context, image, return_dict=False)
    wanted = their_unet(
      sample,
      timestep,
      context,
      down_block_additional_residuals=down,
      mid_block_additional_residual=middle,
    ).sample

  @jax.jit
  def predict(control, unet, sample, timestep, context, image):
    residuals = control(sample, timestep, context, image)
    return *residuals, unet(sample, timestep, context, residuals=residuals)

  given = (nhwc(sample.numpy()), timestep.numpy(), context.numpy(), nhwc(image.numpy()))
  our_down, our_middle, found = predict(control, unet_, *map(jnp.asarray, given))
  for index, (ours, theirs) in enumerate(zip(our_down, down, strict=True)):
    support.assert_equal(ours, theirs.movedim(1, -1), f"residual {index}")
  support.assert_equal(our_middle, middle.movedim(1, -1), "residual of the middle")
  support.assert_equal(found, wanted.movedim(1, -1), "prediction")
