"""Tiny models in the layouts of the released ones, with random weights."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from convert_weights import names, reader
from convert_weights.names import Table
from imx2mx_jax.models.network import abstract
from imx2mx_jax.weights import NETWORKS

_TEXT = {
  "vocab_size": 12,
  "max_position_embeddings": 7,
  "hidden_size": 8,
  "num_hidden_layers": 1,
  "num_attention_heads": 2,
  "intermediate_size": 20,
}
_TRUNK = {
  "in_channels": 8,
  "block_out_channels": [8, 16],
  "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
  "layers_per_block": 1,
  "attention_head_dim": 2,
  "cross_attention_dim": 8,
  "norm_num_groups": 4,
}

CONFIGS: dict[str, dict[str, Any]] = {
  "unet": _TRUNK | {"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]},
  "controlnet": _TRUNK | {"conditioning_embedding_out_channels": [4, 6]},
  "vae": {
    "block_out_channels": [4, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 2,
    "scaling_factor": 0.3,
  },
  "text_encoder": _TEXT,
  "vision": {"image_size": 8, "patch_size": 4, "width": 8, "layers": 1, "heads": 2, "embed_dim": 6},
  "clip": {
    "projection_dim": 6,
    "text_config": _TEXT,
    "vision_config": {
      "image_size": 8,
      "patch_size": 4,
      "hidden_size": 10,
      "num_hidden_layers": 1,
      "num_attention_heads": 2,
      "intermediate_size": 12,
    },
  },
  "seva": {
    "in_channels": 11,
    "model_channels": 32,
    "out_channels": 4,
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "channel_mult": [1, 2],
    "num_head_channels": 16,
    "transformer_depth": [1, 1],
    "context_dim": 6,
    "dense_in_channels": 6,
    "unflatten_names": ["middle_ds2"],
  },
}
"""{network: a config.json as upstream writes it}."""

_TOKENIZER = {
  "vocab.json": json.dumps({"a</w>": 0, "<|startoftext|>": 10, "<|endoftext|>": 11}),
  "merges.txt": "#version: 0.2\n",
  "tokenizer_config.json": json.dumps({"model_max_length": 7}),
}


def tensors(network: str, table: Table | None = None, dtype=np.float32) -> dict[str, np.ndarray]:
  """{released name: random tensor} of a tiny network, in its first spelling or in `table`'s."""
  module = reader.TABLES[network]
  params = abstract(NETWORKS[network][0], module.shape(CONFIGS[network])).params
  targets = {path: leaf.shape for path, leaf in params.items()}
  rows = names.assignments(targets, table or module.DIALECTS[0])
  draw = np.random.default_rng(0)
  return {row.released: draw.normal(size=row.released_shape).astype(dtype) for row in rows}


def write_json(file: pathlib.Path, content: Mapping[str, Any]) -> None:
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text(json.dumps(content))


def write_tensors(file: pathlib.Path, content: Mapping[str, np.ndarray]) -> None:
  file.parent.mkdir(parents=True, exist_ok=True)
  save_file(dict(content), file)


def write(kind: str, folder: pathlib.Path, dtype=np.float32) -> pathlib.Path:
  """Writes a tiny model of a kind; returns the folder."""
  for network, place in reader.PLACES[kind].items():
    at = folder / place.folders[0]
    write_json(at / "config.json", CONFIGS[network])
    write_tensors(at / f"{place.stems[0]}.safetensors", tensors(network, dtype=dtype))
  if kind in reader.TOKENIZERS:
    within = folder / reader.TOKENIZERS[kind]
    within.mkdir(exist_ok=True)
    for name, text in _TOKENIZER.items():
      (within / name).write_text(text)
  return folder
