"""SEVA: the names in modelv1.1.safetensors, and our shape from and to its parameters' fields."""

from typing import Any

from convert_weights.names import Rule, Table, layer, norm
from imx2mx_jax.models.seva import SevaShape

_PLACE = r"((?:input_blocks/\d+|middle_block|output_blocks/\d+)/\d+)"
_BLOCK = r"(.*/(?:transformer|time_mix)_blocks/\d+)"

DIALECTS = (
  Table(
    (
      *layer(r"time_embed/linear1", "time_embed.0"),
      *layer(r"time_embed/linear2", "time_embed.2"),
      *layer(r"(input_blocks/0/0)", r"\1", "conv"),
      # Downsampling and upsampling
      *layer(r"(input_blocks/\d+/0)/conv", r"\1.op", "conv"),
      *layer(r"(output_blocks/\d+/\d+)/conv", r"\1.conv", "conv"),
      # Residual blocks
      *norm(rf"{_PLACE}/norm1", r"\1.in_layers.0"),
      *layer(rf"{_PLACE}/dense", r"\1.dense_emb_layers.0", "conv"),
      *layer(rf"{_PLACE}/conv1", r"\1.in_layers.2", "conv"),
      *layer(rf"{_PLACE}/time", r"\1.emb_layers.1"),
      *norm(rf"{_PLACE}/norm2", r"\1.out_layers.0"),
      *layer(rf"{_PLACE}/conv2", r"\1.out_layers.3", "conv"),
      *layer(rf"{_PLACE}/skip", r"\1.skip_connection", "conv"),
      # Transformers
      *norm(rf"{_PLACE}/norm", r"\1.norm"),
      *layer(rf"{_PLACE}/(proj_in|proj_out)", r"\1.\2"),
      *norm(rf"{_BLOCK}/(norm1|norm2|norm3|norm_in)", r"\1.\2"),
      Rule(rf"{_BLOCK}/(attn1|attn2)/([qkv])/kernel", r"\1.\2.to_\3.weight", "linear"),
      *layer(rf"{_BLOCK}/(attn1|attn2)/out", r"\1.\2.to_out.0"),
      *layer(rf"{_BLOCK}/(ff|ff_in)/proj", r"\1.\2.net.0.proj"),
      *layer(rf"{_BLOCK}/(ff|ff_in)/out", r"\1.\2.net.2"),
      *norm(r"norm_out", "out.0"),
      *layer(r"conv_out", "out.2", "conv"),
    )
  ),
)


def shape(config: dict) -> SevaShape:
  """Our shape from SEVA's own parameter names (model_channels, channel_mult, ...)."""
  return SevaShape(
    in_channels=config["in_channels"],
    out_channels=config["out_channels"],
    channels=config["model_channels"],
    channel_mult=tuple(config["channel_mult"]),
    blocks_per_level=config["num_res_blocks"],
    attention_downsamples=tuple(sorted(config["attention_resolutions"])),
    depths=tuple(config["transformer_depth"]),
    head_width=config["num_head_channels"],
    context_width=config["context_dim"],
    dense_channels=config["dense_in_channels"],
    joint=tuple(config["unflatten_names"]),
  )


def config(shape: SevaShape) -> dict[str, Any]:
  """SEVA's parameters for our shape."""
  return {
    "in_channels": shape.in_channels,
    "out_channels": shape.out_channels,
    "model_channels": shape.channels,
    "channel_mult": shape.channel_mult,
    "num_res_blocks": shape.blocks_per_level,
    "attention_resolutions": shape.attention_downsamples,
    "transformer_depth": shape.depths,
    "num_head_channels": shape.head_width,
    "context_dim": shape.context_width,
    "dense_in_channels": shape.dense_channels,
    "unflatten_names": shape.joint,
  }
