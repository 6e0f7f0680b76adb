"""Converted folders of networks with random weights that compile in a few seconds."""

import dataclasses
import math
import pathlib

import jax.numpy as jnp
import numpy as np

from imx2mx_jax import weights
from imx2mx_jax.models.clip_vision import ClipVisionShape
from imx2mx_jax.models.network import abstract
from imx2mx_jax.models.seva import SevaShape
from imx2mx_jax.models.unet import UNetShape
from imx2mx_jax.models.vae import VaeShape
from imx2mx_jax.train import export
from tests.cli import support

BUNDLED = support.MICRO / "bundled" / "teacher"
WIDTH = 16

UNET = UNetShape(
  channels=(32,),
  layers=1,
  down_attention=(True,),
  heads=(8,),
  context_width=WIDTH,
  groups=8,
  up_attention=(True,),
)
SEVA = SevaShape(
  channels=32,
  channel_mult=(1,),
  blocks_per_level=1,
  attention_downsamples=(1,),
  depths=(1,),
  head_width=8,
  context_width=WIDTH,
  joint=("middle_ds1",),
  groups=8,
)

SETTINGS = support.SMALL | {
  # Updates in proportion to the gradient: what is nearly equal stays so.
  "optim.eps": 1.0,
  "optim.weight_decay": 0.0,
  "optim.lr": 0.1,
  "optim.final_lr": 0.1,
  "distill.iterations_first": 4,
  "metric_clip": "",
}
"""Of an edit in eight iterations, beside `models`."""


def models(folder: pathlib.Path) -> dict[str, str]:
  """Writes the models of an edit and gives the settings that name them."""
  write(folder, "teacher", unet=UNET, vae=_vae(), text_encoder=_text_encoder())
  write(folder, "student", seva=SEVA)
  write(folder, "student_vae", vae=_vae())
  write(folder, "image_encoder", vision=_vision())
  return {
    "teacher.weights": str(folder / "teacher"),
    "student.weights": str(folder / "student"),
    "student.vae": str(folder / "student_vae"),
    "student.image_encoder": str(folder / "image_encoder"),
  }


def write(folder, kind, **shapes):
  """A model's folder."""
  draw = np.random.default_rng(0).normal
  params = {
    name: {
      path: _numbers(draw, path, x.shape)
      for path, x in abstract(weights.NETWORKS[name][0], shape).params.items()
    }
    for name, shape in shapes.items()
  }
  tokenizer = BUNDLED / weights.TOKENIZER if kind == "teacher" else None
  origin = export.Origin("random numbers", "none")
  export.write(folder / kind, kind, shapes, params, origin, tokenizer)


def _numbers(draw, path, shape):
  """Kernels that keep the size of what goes through; norms and biases that do nothing."""
  if path.endswith(("scale", "bias")):
    return jnp.full(shape, float(path.endswith("scale")))
  return jnp.asarray(draw(size=shape) / math.prod(shape[:-1]) ** 0.5, jnp.float32)


def _vae():
  return VaeShape(channels=(8, 8), layers=1, groups=4)


def _text_encoder():
  bundled = weights.read_info(BUNDLED, "teacher").networks["text_encoder"].shape
  return dataclasses.replace(bundled, width=WIDTH, layers=1, heads=2, mlp_width=WIDTH)


def _vision():
  sizes = {"image_size": 8, "patch_size": 4, "width": 8, "layers": 1, "heads": 2, "mlp_width": 8}
  return ClipVisionShape(**sizes, embed_width=WIDTH)
