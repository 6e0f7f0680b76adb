"""CLIP's text tower: transformers' names, and our shape from and to a `CLIPTextConfig`."""

from typing import Any

from convert_weights import configs
from convert_weights.names import Rule, Table, layer, norm
from imx2mx_jax.models.clip_layers import ACTIVATIONS
from imx2mx_jax.models.clip_text import ClipTextShape

# What transformers leaves out of a config.json where it equals its own default.
_DEFAULTS = {
  "vocab_size": 49408,
  "max_position_embeddings": 77,
  "hidden_size": 512,
  "num_hidden_layers": 12,
  "num_attention_heads": 8,
  "intermediate_size": 2048,
  "hidden_act": "quick_gelu",
  "layer_norm_eps": 1e-5,
}


def blocks(ours: str, released: str) -> tuple[Rule, ...]:
  """The rows of a tower's blocks in transformers' spelling; ours, released: prefixes."""
  block, theirs = rf"{ours}blocks/(\d+)", rf"{released}encoder.layers.\1"
  return (
    *norm(rf"{block}/norm([12])", rf"{theirs}.layer_norm\2"),
    *layer(rf"{block}/attention/([qkv])", rf"{theirs}.self_attn.\2_proj"),
    *layer(rf"{block}/attention/out", rf"{theirs}.self_attn.out_proj"),
    *layer(rf"{block}/(fc[12])", rf"{theirs}.mlp.\2"),
  )


def tower(ours: str, released: str) -> tuple[Rule, ...]:
  """The rows of a text tower; ours, released: prefixes."""
  return (
    Rule(f"{ours}tokens/embedding", f"{released}embeddings.token_embedding.weight"),
    Rule(f"{ours}positions", f"{released}embeddings.position_embedding.weight"),
    *blocks(ours, released),
    *norm(f"{ours}norm", f"{released}final_layer_norm"),
  )


def _dialect(released: str) -> Table:
  # position_ids: a buffer of older files, always 0, 1, 2, ...
  return Table(tower("", released), skip=(rf"{released}embeddings\.position_ids",))


# The released files; what transformers 5 saves.
DIALECTS = (_dialect("text_model."), _dialect(""))


def activation(config: dict) -> str:
  """A tower's activation. Raises UnsupportedConfig."""
  return configs.choices(
    "hidden_act", [config["hidden_act"]], {name: name for name in ACTIVATIONS}
  )[0]


def shape(config: dict) -> ClipTextShape:
  """Our shape from the fields of a `CLIPTextConfig`."""
  config = _DEFAULTS | config
  return ClipTextShape(
    vocabulary=config["vocab_size"],
    positions=config["max_position_embeddings"],
    width=config["hidden_size"],
    layers=config["num_hidden_layers"],
    heads=config["num_attention_heads"],
    mlp_width=config["intermediate_size"],
    activation=activation(config),
    eps=config["layer_norm_eps"],
  )


def config(shape: ClipTextShape) -> dict[str, Any]:
  """A `CLIPTextConfig` for our shape."""
  return {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": shape.vocabulary,
    "max_position_embeddings": shape.positions,
    "hidden_size": shape.width,
    "num_hidden_layers": shape.layers,
    "num_attention_heads": shape.heads,
    "intermediate_size": shape.mlp_width,
    "hidden_act": shape.activation,
    "layer_norm_eps": shape.eps,
    "bos_token_id": None,  # the tokenizer adds it; the default lies outside small vocabularies
    "eos_token_id": 2,  # early configs' way to say "the highest id", which the end mark is
  }
