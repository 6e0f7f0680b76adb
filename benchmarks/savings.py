"""What an iteration at the paper's size would compute more without its exact savings.

    python -m benchmarks.savings

Counts operations (imx2mx_jax/flops.py) without computing anything: each saving beside the program
that does without it. All of them leave the numbers as they are; tests hold them to that.
"""

import functools

import jax
import jax.numpy as jnp

from benchmarks.step import SIZES, VIEWS, model_flops
from imx2mx_jax import flops
from imx2mx_jax.models.clip_text import ClipText, ClipTextShape
from imx2mx_jax.models.network import abstract
from imx2mx_jax.models.seva import Seva
from imx2mx_jax.models.unet import UNet
from imx2mx_jax.models.vae import Vae, VaeShape

BRANCHES = 3
FULL = SIZES["full"]


def main() -> None:
  """Counts and prints a table."""
  total = model_flops(FULL)
  print(f"an iteration: {total / 1e12:.2f} TFLOP\n")
  print("| saved at each iteration | TFLOP | share |\n|---|---|---|")
  for what, saved in {
    "keys and values of one key view for a branch": teacher(own_keys=True) - teacher(),
    "keys and values of one text for a branch": teacher(texts=BRANCHES * VIEWS) - teacher(),
    "embeddings of both texts, once": texts(),
    "latents of the source views, once": sources(),
    "attention to a single context token is a constant": 3 * (student(tokens=2) - student()),
    "not taken: the clean frame's row after the last attention": 3 * clean_row(),
  }.items():
    print(f"| {what} | {saved / 1e12:.3f} | {saved / total:.2%} |")


def _blank(*shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def teacher(texts: int = BRANCHES, own_keys: bool = False) -> int:
  """Operations of the teacher's prediction. own_keys: each view has keys and values of its own."""
  rows, shape = BRANCHES * VIEWS, FULL.unet
  how = {} if own_keys else {"key_view": jnp.int32(0), "views": VIEWS}
  return flops.count(
    lambda net, *x: net(*x, **how),
    abstract(UNet, shape),
    _blank(rows, FULL.teacher, FULL.teacher, shape.in_channels),
    _blank(),
    _blank(texts, FULL.tokens, shape.context_width),
  )


def student(tokens: int = 1) -> int:
  """Operations of the student's forward pass; from two context tokens on its attention works."""
  frames, cells, shape = VIEWS + 1, FULL.student, FULL.seva
  return flops.count(
    functools.partial(lambda net, *x, frames: net(*x, frames=frames), frames=frames),
    abstract(Seva, shape),
    _blank(frames, cells, cells, shape.in_channels),
    _blank(frames),
    _blank(frames, tokens, shape.context_width),
    _blank(frames, cells, cells, shape.dense_channels),
  )


def texts() -> int:
  """Operations of the text encoder on the instruction and on the empty text."""
  ids = jax.ShapeDtypeStruct((2, FULL.tokens), jnp.int32)
  return flops.count(lambda net, ids: net(ids), abstract(ClipText, ClipTextShape()), ids)


def sources() -> int:
  """Operations of the autoencoder's encoder on all views at the teacher's size."""
  vae, side = abstract(Vae, VaeShape()), 8 * FULL.teacher
  return flops.count(lambda net, x: net.module.encode(x), vae, _blank(VIEWS, side, side, 3))


def clean_row() -> int:
  """Operations on one frame after the last layer in which frames meet, the last time block's.

  Its feed-forward, the transformer's last layer, the network's last convolution.
  """
  width, shape = FULL.seva.channels, FULL.seva
  layers = width * 8 * width + 4 * width * width + width * width + 9 * width * shape.out_channels
  return 2 * layers * FULL.student**2


if __name__ == "__main__":
  main()
