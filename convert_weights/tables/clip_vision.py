"""CLIP's vision tower: open_clip's and transformers' names, our shape from and to their configs."""

import math
from typing import Any

from convert_weights.names import Rule, Table, layer, norm
from convert_weights.tables import clip_text
from imx2mx_jax.models.clip_vision import ClipVisionShape

# What transformers leaves out of a config.json where it equals its own default.
_TRANSFORMERS_DEFAULTS = {
  "image_size": 224,
  "patch_size": 32,
  "hidden_size": 768,
  "num_hidden_layers": 12,
  "num_attention_heads": 12,
  "intermediate_size": 3072,
  "projection_dim": 512,
  "hidden_act": "quick_gelu",
  "layer_norm_eps": 1e-5,
}
_OPEN_CLIP_DEFAULTS = {
  "image_size": 224,
  "patch_size": 16,
  "width": 768,
  "layers": 12,
  "head_width": 64,
  "mlp_ratio": 4.0,
  "quick_gelu": False,
  "layer_norm_eps": 1e-5,
  "mean": ClipVisionShape.mean,
  "std": ClipVisionShape.std,
}


def tower(ours: str, released: str, projection: str) -> tuple[Rule, ...]:
  """The rows in transformers' spelling; ours, released: prefixes; projection: the last layer."""
  return (
    Rule(f"{ours}patches/kernel", f"{released}embeddings.patch_embedding.weight", "conv"),
    Rule(f"{ours}class_token", f"{released}embeddings.class_embedding"),
    Rule(f"{ours}positions", f"{released}embeddings.position_embedding.weight"),
    *norm(f"{ours}norm_in", f"{released}pre_layrnorm"),  # sic
    *clip_text.blocks(ours, released),
    *norm(f"{ours}norm_out", f"{released}post_layernorm"),
    Rule(f"{ours}projection/kernel", f"{projection}.weight", "linear"),
  )


def _open_clip(prefix: str, skip: tuple[str, ...] = ()) -> Table:
  block, theirs = r"blocks/(\d+)", rf"{prefix}transformer.resblocks.\1"
  return Table(
    (
      Rule("patches/kernel", f"{prefix}conv1.weight", "conv"),
      Rule("class_token", f"{prefix}class_embedding"),
      Rule("positions", f"{prefix}positional_embedding"),
      *norm("norm_in", f"{prefix}ln_pre"),
      *norm(rf"{block}/norm([12])", rf"{theirs}.ln_\2"),
      *(
        Rule(
          rf"{block}/attention/{x}/{ours}", rf"{theirs}.attn.in_proj_{name}", f"split_{x}_{kind}"
        )
        for x in "qkv"
        for ours, name, kind in (("kernel", "weight", "linear"), ("bias", "bias", "bias"))
      ),
      *layer(rf"{block}/attention/out", rf"{theirs}.attn.out_proj"),
      *layer(rf"{block}/fc1", rf"{theirs}.mlp.c_fc"),
      *layer(rf"{block}/fc2", rf"{theirs}.mlp.c_proj"),
      *norm("norm_out", f"{prefix}ln_post"),
      Rule("projection/kernel", f"{prefix}proj"),
    ),
    skip,
  )


DIALECTS = (
  _open_clip(
    "visual.",
    skip=(
      # the text tower, which the same file holds
      r"transformer\.resblocks\..*",
      r"(token_embedding|ln_final)\..*",
      r"positional_embedding|text_projection|attn_mask",
      # the temperature of the contrastive loss
      r"logit_scale",
    ),
  ),
  Table(
    tower("", "vision_model.", "visual_projection"),
    skip=(
      # the text tower, which the same file holds
      r"text_model\..*|text_projection\.weight",
      # the temperature of the contrastive loss
      r"logit_scale",
      # a buffer of older files, always 0, 1, 2, ...
      r"vision_model\.embeddings\.position_ids",
    ),
  ),
  _open_clip(""),  # the tower saved by itself
)


def shape(config: dict) -> ClipVisionShape:
  """Our shape from open_clip_config.json, or from transformers' config.json.

  The latter may be a whole CLIP's or a `CLIPVisionModelWithProjection`'s; the former may also be
  its "model_cfg" alone, or flat, with open_clip's field names.
  """
  if "vision_config" in config:
    projection = {key: config[key] for key in ("projection_dim",) if key in config}
    return _from_transformers(config["vision_config"] | projection)
  if "hidden_size" in config:
    return _from_transformers(config)
  return _from_open_clip(config)


def _from_transformers(config: dict) -> ClipVisionShape:
  config = _TRANSFORMERS_DEFAULTS | config
  return ClipVisionShape(
    image_size=config["image_size"],
    patch_size=config["patch_size"],
    width=config["hidden_size"],
    layers=config["num_hidden_layers"],
    heads=config["num_attention_heads"],
    mlp_width=config["intermediate_size"],
    embed_width=config["projection_dim"],
    activation=clip_text.activation(config),
    eps=config["layer_norm_eps"],
  )


def _from_open_clip(config: dict) -> ClipVisionShape:
  model = config.get("model_cfg", config)
  config = (
    _OPEN_CLIP_DEFAULTS | model | model.get("vision_cfg", {}) | config.get("preprocess_cfg", {})
  )
  return ClipVisionShape(
    image_size=config["image_size"],
    patch_size=config["patch_size"],
    width=config["width"],
    layers=config["layers"],
    heads=config.get("heads", config["width"] // config["head_width"]),
    mlp_width=int(config["width"] * config["mlp_ratio"]),
    embed_width=config["embed_dim"],
    activation="quick_gelu" if config["quick_gelu"] else "gelu",
    eps=config["layer_norm_eps"],
    mean=tuple(config["mean"]),
    std=tuple(config["std"]),
  )


def config(shape: ClipVisionShape) -> dict[str, Any]:
  """open_clip's fields for our shape, flat; of the first dialect."""
  ratio = shape.mlp_width / shape.width
  if int(shape.width * ratio) < shape.mlp_width:  # open_clip truncates
    ratio = math.nextafter(ratio, math.inf)
  return {
    "embed_dim": shape.embed_width,
    "image_size": shape.image_size,
    "patch_size": shape.patch_size,
    "width": shape.width,
    "layers": shape.layers,
    "heads": shape.heads,
    "head_width": shape.width // shape.heads,
    "mlp_ratio": ratio,
    "quick_gelu": shape.activation == "quick_gelu",
    "layer_norm_eps": shape.eps,
    "mean": shape.mean,
    "std": shape.std,
  }


def transformers_config(shape: ClipVisionShape) -> dict[str, Any]:
  """A `CLIPVisionConfig` for our shape; mean and std are the image processor's."""
  return {
    "model_type": "clip_vision_model",
    "image_size": shape.image_size,
    "patch_size": shape.patch_size,
    "hidden_size": shape.width,
    "num_hidden_layers": shape.layers,
    "num_attention_heads": shape.heads,
    "intermediate_size": shape.mlp_width,
    "hidden_act": shape.activation,
    "layer_norm_eps": shape.eps,
  }
