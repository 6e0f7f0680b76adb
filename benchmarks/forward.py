"""Our networks' forward passes against diffusers' in PyTorch, on the same CPU, by turns.

    python -m benchmarks.forward [--size=tiny|full]

tiny: the bundled micro models' shapes. full: the released shapes on latents of 16 x 16. Teacher:
the UNet on 12 rows (three branches of four views, with a key view) against diffusers' UNet on the
same rows. Student: SEVA on 5 frames against the UNet of Stable Diffusion 2.1 with SEVA's widths and
two blocks in each transformer, in place of SEVA's spatial and time block; SEVA does more than that
(its time block has a second feed-forward, and frames attend to each other). Weights are random,
everything is float32. Prints the fastest of several repeats and the ratio ours / theirs: below 1 we
are faster. Needs the extra `parity`.
"""

import argparse
import dataclasses
import os
import pathlib
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import UNet2DConditionModel

import imx2mx_jax
from benchmarks import machine
from imx2mx_jax import weights
from imx2mx_jax.models.network import initialise
from imx2mx_jax.models.seva import Seva, SevaShape
from imx2mx_jax.models.unet import UNet, UNetShape

BUNDLED = pathlib.Path(imx2mx_jax.__file__).parent / "micro" / "bundled"
BRANCHES, VIEWS = 3, 4


@dataclasses.dataclass(frozen=True)
class Size:
  """unet_cells, seva_cells: height and width of the latents. tokens: of a text."""

  unet: UNetShape
  seva: SevaShape
  unet_cells: int
  seva_cells: int
  tokens: int
  repeats: int


def sizes(name: str) -> Size:
  """The networks' shapes. name: "tiny" or "full"."""
  if name == "full":
    return Size(UNetShape(), SevaShape(), 16, 16, tokens=77, repeats=3)
  read = lambda kind, network: weights.read_info(BUNDLED / kind, kind).networks[network].shape
  return Size(read("teacher", "unet"), read("student", "seva"), 12, 16, tokens=32, repeats=20)


def as_sd2(shape: SevaShape) -> UNetShape:
  """A UNet with SEVA's widths and its places of attention."""
  channels = tuple(shape.channels * times for times in shape.channel_mult)
  attention = tuple(2**level in shape.attention_downsamples for level in range(len(channels)))
  return UNetShape(
    in_channels=shape.in_channels,
    channels=channels,
    layers=shape.blocks_per_level,
    down_attention=attention,
    up_attention=attention[::-1],
    heads=tuple(width // shape.head_width for width in channels),
    depth=2,
    context_width=shape.context_width,
    groups=shape.groups,
  )


def theirs(
  shape: UNetShape, rows: int, cells: int, tokens: int, device: str = "cpu"
) -> Callable[[], object]:
  """diffusers' UNet of this shape, ready to be called; on "cuda" in bfloat16."""
  down = {False: "DownBlock2D", True: "CrossAttnDownBlock2D"}
  up = {False: "UpBlock2D", True: "CrossAttnUpBlock2D"}
  model = UNet2DConditionModel(
    in_channels=shape.in_channels,
    block_out_channels=shape.channels,
    down_block_types=tuple(down[attention] for attention in shape.down_attention),
    up_block_types=tuple(up[attention] for attention in shape.up_attention),
    layers_per_block=shape.layers,
    transformer_layers_per_block=shape.depth,
    attention_head_dim=shape.heads,  # the number of heads, in spite of its name
    cross_attention_dim=shape.context_width,
    norm_num_groups=shape.groups,
    use_linear_projection=True,
  ).eval()
  like = {"device": device, "dtype": torch.float32 if device == "cpu" else torch.bfloat16}
  model = model.to(**like)
  sample = torch.randn(rows, shape.in_channels, cells, cells, **like)
  context = torch.randn(rows, tokens, shape.context_width, **like)

  def call():
    with torch.inference_mode():
      return model(sample, 500, context).sample

  return call


def teacher(size: Size) -> tuple[Callable[[], object], Callable[[], object]]:
  """(ours, theirs)."""
  rows, cells, tokens = BRANCHES * VIEWS, size.unet_cells, size.tokens
  network = initialise(UNet, size.unet, seed=0)
  inputs = (
    random(rows, cells, cells, size.unet.in_channels),
    jnp.asarray(500),
    random(rows, tokens, size.unet.context_width),
  )
  run = jax.jit(lambda network, key, *x: network(*x, key_view=key, views=VIEWS))
  ours = lambda: run(network, jnp.int32(1), *inputs).block_until_ready()
  return ours, theirs(size.unet, rows, cells, tokens)


def student(size: Size) -> tuple[Callable[[], object], Callable[[], object]]:
  """(ours, theirs)."""
  frames, cells, shape = VIEWS + 1, size.seva_cells, size.seva
  network = initialise(Seva, shape, seed=0)
  inputs = (
    random(frames, cells, cells, shape.in_channels),
    jnp.full(frames, 500),
    random(frames, 1, shape.context_width),
    random(frames, cells, cells, shape.dense_channels),
  )
  run = jax.jit(lambda network, *x: network(*x, frames=frames))
  ours = lambda: run(network, *inputs).block_until_ready()
  return ours, theirs(as_sd2(shape), frames, cells, 1)


def random(*shape: int) -> jax.Array:
  """Normal numbers."""
  return jnp.asarray(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


def fastest(calls: tuple[Callable[[], object], ...], repeats: int) -> list[float]:
  """Each call's shortest time in seconds, of repeats by turns after a first one."""
  times = [[] for _ in calls]
  for _ in range(repeats + 1):
    for call, taken in zip(calls, times, strict=True):
      began = time.perf_counter()
      call()
      taken.append(time.perf_counter() - began)
  return [min(taken[1:]) for taken in times]


def main() -> None:
  """Prints a line for each network."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
  args = parser.parse_args()
  torch.set_num_threads(os.cpu_count())
  print(machine.describe())
  size = sizes(args.size)
  for network in (teacher, student):
    ours, theirs = fastest(network(size), size.repeats)
    print(
      f"{args.size} {network.__name__}: ours {ours:.4g} s, PyTorch {theirs:.4g} s, "
      f"ratio {ours / theirs:.2f} (fastest of {size.repeats})",
      flush=True,
    )


if __name__ == "__main__":
  main()
