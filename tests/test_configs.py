"""A config.json that asks for what we do not compute is refused in one sentence."""

import pytest

from convert_weights.configs import UnsupportedConfig
from convert_weights.tables import controlnet, unet, vae
from imx2mx_jax.models.controlnet import ControlNetShape
from imx2mx_jax.models.unet import UNetShape
from imx2mx_jax.models.vae import VaeShape

SD15 = {"cross_attention_dim": 768}
SD15_VAE = {
  "block_out_channels": [128, 256, 512, 512],
  "down_block_types": ["DownEncoderBlock2D"] * 4,
  "up_block_types": ["UpDecoderBlock2D"] * 4,
  "layers_per_block": 2,
}

REFUSED = [
  (unet, "act_fn", "gelu"),
  (unet, "addition_embed_type", "text_time"),
  (unet, "center_input_sample", True),
  (unet, "class_embed_type", "timestep"),
  (unet, "num_class_embeds", 10),
  (unet, "cross_attention_dim", [768, 1024]),
  (unet, "down_block_types", ["SimpleCrossAttnDownBlock2D"] * 4),
  (unet, "up_block_types", ["UpBlock2D", "AttnUpBlock2D"]),
  (unet, "encoder_hid_dim", 64),
  (unet, "freq_shift", 1),
  (unet, "layers_per_block", [1, 2, 2, 2]),
  (unet, "mid_block_type", None),
  (unet, "num_attention_heads", 8),
  (unet, "resnet_time_scale_shift", "scale_shift"),
  (unet, "time_embedding_type", "fourier"),
  (unet, "a_field_of_tomorrow", 1),
  (controlnet, "controlnet_conditioning_channel_order", "bgr"),
  (controlnet, "conditioning_channels", 1),
  (controlnet, "global_pool_conditions", True),
  (vae, "latents_mean", [0.1]),
  (vae, "mid_block_add_attention", False),
  (vae, "shift_factor", 0.1),
  (vae, "up_block_types", ["AttnUpDecoderBlock2D"]),
  (vae, "use_quant_conv", False),
]


@pytest.mark.parametrize(
  ("table", "field", "value"), REFUSED, ids=[f"{t.__name__[-4:]}-{f}" for t, f, _ in REFUSED]
)
def test_a_field_that_we_do_not_compute_is_named_with_its_value(table, field, value):
  with pytest.raises(UnsupportedConfig) as error:
    table.shape((SD15_VAE if table is vae else SD15) | {field: value})
  assert f"{field} = " in str(error.value)
  assert repr(value[-1] if field.endswith("types") else value) in str(error.value)


def test_a_config_without_its_default_fields_is_the_released_shape():
  assert unet.shape(SD15 | {"in_channels": 8}) == UNetShape()
  assert controlnet.shape(SD15) == ControlNetShape()
  assert vae.shape(SD15_VAE) == VaeShape()


def test_fields_that_change_nothing_for_us_may_have_any_value():
  idle = {"upcast_attention": True, "sample_size": 96, "_name_or_path": "x", "dropout": 0.1}
  assert unet.shape(SD15 | {"in_channels": 8} | idle) == UNetShape()
