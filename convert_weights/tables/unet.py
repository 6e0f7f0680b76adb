"""diffusers' UNet2DConditionModel: its names, and our shape from and to its config.json."""

from collections.abc import Mapping
from typing import Any

from convert_weights import configs
from convert_weights.names import Rule, Table, layer, norm
from imx2mx_jax.models.unet import TrunkShape, UNetShape

_RESNET = r"(.*/resnets/\d+)"
_TRANSFORMER = r"(.*/attentions/\d+)"
_BLOCK = r"(.*/transformer_blocks/\d+)"

# Whether a level has transformers.
_DOWN = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}
_UP = {"UpBlock2D": False, "CrossAttnUpBlock2D": True}


def resnet(path: str, released: str) -> tuple[Rule, ...]:
  """The rows of a residual block. path, released: its place, without a slash or dot at the end."""
  return (
    *norm(rf"{path}/(?P<norm>norm[12])", rf"{released}.\g<norm>"),
    *layer(rf"{path}/(?P<conv>conv[12])", rf"{released}.\g<conv>", "conv"),
    *layer(rf"{path}/skip", rf"{released}.conv_shortcut", "conv1x1_to_linear"),
  )


def attention(path: str, released: str) -> tuple[Rule, ...]:
  """The rows of an attention layer. path, released: what its parameters' names begin with."""
  return (
    Rule(rf"{path}(?P<qkv>[qkv])/kernel", rf"{released}to_\g<qkv>.weight", "linear"),
    *layer(rf"{path}out", rf"{released}to_out.0"),
  )


def trunk(projection: str) -> tuple[Rule, ...]:
  """The rows that a UNet and its ControlNet share, and those of all blocks on the way up.

  projection: the transform of the layers around the transformer blocks, released as 1x1
  convolutions or as linear layers (`use_linear_projection`).
  """
  return (
    *layer("conv_in", "conv_in", "conv"),
    *layer(r"time_embedding/linear([12])", r"time_embedding.linear_\1"),
    *layer(r"(.*)/downsample/conv", r"\1.downsamplers.0.conv", "conv"),
    *resnet(_RESNET, r"\1"),
    *layer(rf"{_RESNET}/time", r"\1.time_emb_proj"),
    *norm(rf"{_TRANSFORMER}/norm", r"\1.norm"),
    *layer(rf"{_TRANSFORMER}/(proj_in|proj_out)", r"\1.\2", projection),
    *norm(rf"{_BLOCK}/(norm[123])", r"\1.\2"),
    *attention(rf"{_BLOCK}/(attn[12])/", r"\1.\2."),
    *layer(rf"{_BLOCK}/ff/proj", r"\1.ff.net.0.proj"),
    *layer(rf"{_BLOCK}/ff/out", r"\1.ff.net.2"),
  )


def _table(projection: str) -> Table:
  return Table(
    (
      *trunk(projection),
      *layer(r"(.*)/upsample/conv", r"\1.upsamplers.0.conv", "conv"),
      *norm("norm_out", "conv_norm_out"),
      *layer("conv_out", "conv_out", "conv"),
    )
  )


DIALECTS = (_table("conv1x1_to_linear"), _table("linear"))

TRUNK_FIELDS = {
  "in_channels": 4,
  "block_out_channels": (320, 640, 1280, 1280),
  "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
  "layers_per_block": 2,
  "transformer_layers_per_block": 1,
  "attention_head_dim": 8,  # the number of heads, in spite of its name
  "cross_attention_dim": 1280,
  "norm_num_groups": 32,
  "norm_eps": 1e-5,
}
"""The fields of a UNet and of a ControlNet, with diffusers' defaults."""

TRUNK_FIXED = {
  "act_fn": "silu",
  "attention_type": "default",
  "downsample_padding": 1,
  "flip_sin_to_cos": True,
  "freq_shift": 0,
  "mid_block_scale_factor": 1,
  "mid_block_type": "UNetMidBlock2DCrossAttn",
  "resnet_time_scale_shift": "default",
}
"""Fields of which our networks compute one value only."""

TRUNK_IDLE = (
  "addition_embed_type_num_heads",  # has a value even where addition_embed_type is off
  "dropout",  # training only
  "sample_size",
  "upcast_attention",  # our softmax is in float32 anyway
  "use_linear_projection",  # a matter of the dialects
)
"""Fields that change nothing for us."""


def trunk_shape(fields: Mapping[str, Any]) -> dict[str, Any]:
  """TrunkShape's fields from the config's."""
  uniform = lambda field: configs.for_all_levels(field, fields[field])
  return {
    "in_channels": fields["in_channels"],
    "channels": tuple(fields["block_out_channels"]),
    "layers": uniform("layers_per_block"),
    "down_attention": configs.choices("down_block_types", fields["down_block_types"], _DOWN),
    "heads": configs.for_each_level(
      fields["attention_head_dim"], len(fields["block_out_channels"])
    ),
    "depth": uniform("transformer_layers_per_block"),
    "context_width": uniform("cross_attention_dim"),
    "groups": fields["norm_num_groups"],
    "eps": fields["norm_eps"],
  }


def shape(config: Mapping[str, Any]) -> UNetShape:
  """Our shape from diffusers' config.json. Raises UnsupportedConfig (a UserError)."""
  up_types = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
  fields = configs.read(
    config,
    fields=TRUNK_FIELDS | {"out_channels": 4, "up_block_types": up_types},
    fixed=TRUNK_FIXED
    | {
      "conv_in_kernel": 3,
      "conv_out_kernel": 3,
      "resnet_out_scale_factor": 1,
      "time_embedding_type": "positional",
    },
    idle=TRUNK_IDLE,
  )
  return UNetShape(
    **trunk_shape(fields),
    out_channels=fields["out_channels"],
    up_attention=configs.choices("up_block_types", fields["up_block_types"], _UP),
  )


def trunk_config(shape: TrunkShape) -> dict[str, Any]:
  """The config's fields from TrunkShape's; what is fixed has the library's default."""
  return {
    "in_channels": shape.in_channels,
    "block_out_channels": shape.channels,
    "layers_per_block": shape.layers,
    "down_block_types": configs.spelt(shape.down_attention, _DOWN),
    "attention_head_dim": shape.heads,
    "transformer_layers_per_block": shape.depth,
    "cross_attention_dim": shape.context_width,
    "norm_num_groups": shape.groups,
    "norm_eps": shape.eps,
  }


def config(shape: UNetShape) -> dict[str, Any]:
  """diffusers' config.json for our shape, of the first dialect."""
  return {
    "_class_name": "UNet2DConditionModel",
    **trunk_config(shape),
    "out_channels": shape.out_channels,
    "up_block_types": configs.spelt(shape.up_attention, _UP),
  }
