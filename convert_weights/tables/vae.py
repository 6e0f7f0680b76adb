"""diffusers' AutoencoderKL: its names, old and new, and our shape from and to its config.json."""

import itertools
from collections.abc import Mapping
from typing import Any

from convert_weights import configs
from convert_weights.names import Rule, Table, layer, norm
from convert_weights.tables.unet import resnet
from imx2mx_jax.models.vae import VaeShape

_ATTENTION = r"(.*/mid_block)/attention"
_PRESENT = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}
_OLD = {"q": "query", "k": "key", "v": "value", "out": "proj_attn"}


def _table(attention: Mapping[str, str], projection: str) -> Table:
  rows: list[Rule] = []
  for ours, released in attention.items():
    rows += layer(rf"{_ATTENTION}/attn/{ours}", rf"\1.attentions.0.{released}", projection)
  return Table(
    (
      *layer(r"((?:en|de)coder/conv_(?:in|out))", r"\1", "conv"),
      *norm(r"((?:en|de)coder)/norm_out", r"\1.conv_norm_out"),
      *resnet(r"(.*/resnets/\d+)", r"\1"),
      *layer(r"(encoder/down_blocks/\d+)/resample/conv", r"\1.downsamplers.0.conv", "conv"),
      *layer(r"(decoder/up_blocks/\d+)/resample/conv", r"\1.upsamplers.0.conv", "conv"),
      *norm(rf"{_ATTENTION}/norm", r"\1.attentions.0.group_norm"),
      *rows,
      *layer(r"(post_quant|quant)", r"\1_conv", "conv1x1_to_linear"),
    )
  )


# The present names first. Some files hold the attention's linear layers as 1x1 convolutions.
DIALECTS = tuple(
  _table(names, projection)
  for names, projection in itertools.product((_PRESENT, _OLD), ("linear", "conv1x1_to_linear"))
)


def shape(config: Mapping[str, Any]) -> VaeShape:
  """Our shape from diffusers' config.json. Raises UnsupportedConfig (a UserError)."""
  fields = configs.read(
    config,
    fields={
      "in_channels": 3,
      "latent_channels": 4,
      "block_out_channels": (64,),
      "layers_per_block": 1,
      "norm_num_groups": 32,
      "scaling_factor": 0.18215,
      "down_block_types": ("DownEncoderBlock2D",),
      "up_block_types": ("UpDecoderBlock2D",),
    },
    fixed={
      "act_fn": "silu",
      "mid_block_add_attention": True,
      "out_channels": config.get("in_channels", 3),
      "use_post_quant_conv": True,
      "use_quant_conv": True,
    },
    idle=("force_upcast", "sample_size"),  # how and at which size the library runs it
  )
  configs.choices("down_block_types", fields["down_block_types"], {"DownEncoderBlock2D": None})
  configs.choices("up_block_types", fields["up_block_types"], {"UpDecoderBlock2D": None})
  return VaeShape(
    image_channels=fields["in_channels"],
    latent_channels=fields["latent_channels"],
    channels=tuple(fields["block_out_channels"]),
    layers=fields["layers_per_block"],
    groups=fields["norm_num_groups"],
    scaling_factor=fields["scaling_factor"],
  )


def config(shape: VaeShape) -> dict[str, Any]:
  """diffusers' config.json for our shape."""
  levels = len(shape.channels)
  return {
    "_class_name": "AutoencoderKL",
    "in_channels": shape.image_channels,
    "out_channels": shape.image_channels,
    "latent_channels": shape.latent_channels,
    "block_out_channels": shape.channels,
    "down_block_types": ["DownEncoderBlock2D"] * levels,
    "up_block_types": ["UpDecoderBlock2D"] * levels,
    "layers_per_block": shape.layers,
    "norm_num_groups": shape.groups,
    "scaling_factor": shape.scaling_factor,
  }
