"""diffusers' ControlNetModel: its names, and our shape from and to its config.json."""

from collections.abc import Mapping
from typing import Any

from convert_weights import configs
from convert_weights.names import Table, layer
from convert_weights.tables import unet
from imx2mx_jax.models.controlnet import ControlNetShape


def _table(projection: str) -> Table:
  return Table(
    (
      *unet.trunk(projection),
      *layer(r"hint/(conv_in|conv_out|blocks/\d+)", r"controlnet_cond_embedding.\1", "conv"),
      *layer(r"down_residuals/(\d+)", r"controlnet_down_blocks.\1", "conv1x1_to_linear"),
      *layer("mid_residual", "controlnet_mid_block", "conv1x1_to_linear"),
    )
  )


DIALECTS = (_table("conv1x1_to_linear"), _table("linear"))


def shape(config: Mapping[str, Any]) -> ControlNetShape:
  """Our shape from diffusers' config.json. Raises UnsupportedConfig (a UserError)."""
  fields = configs.read(
    config,
    fields=unet.TRUNK_FIELDS | {"conditioning_embedding_out_channels": (16, 32, 96, 256)},
    fixed=unet.TRUNK_FIXED
    | {"conditioning_channels": 3, "controlnet_conditioning_channel_order": "rgb"},
    idle=unet.TRUNK_IDLE,
  )
  return ControlNetShape(
    **unet.trunk_shape(fields),
    hint_channels=tuple(fields["conditioning_embedding_out_channels"]),
  )


def config(shape: ControlNetShape) -> dict[str, Any]:
  """diffusers' config.json for our shape, of the first dialect."""
  return {
    "_class_name": "ControlNetModel",
    **unet.trunk_config(shape),
    "conditioning_embedding_out_channels": shape.hint_channels,
  }
