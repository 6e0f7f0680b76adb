"""ControlNet for the Stable Diffusion 1.5 family (diffusers' ControlNetModel, arXiv 2302.05543)."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from imx2mx_jax.models.layers import conv, linear
from imx2mx_jax.models.unet import Trunk, TrunkShape
from imx2mx_jax.shapes import Array, Float, Num


@dataclasses.dataclass(frozen=True)
class ControlNetShape(TrunkShape):
  """The ControlNet's dimensions; the defaults are those for Stable Diffusion 1.5.

  hint_channels: of the maps between the condition image and the latents' size, each half the
  size of the one before.
  """

  hint_channels: tuple[int, ...] = (16, 32, 96, 256)


class HintEmbedding(nnx.Module):
  """The condition image as a map of the latents' size."""

  def __init__(self, shape: ControlNetShape, *, dtype, rngs: nnx.Rngs):
    first, last = shape.hint_channels[0], shape.hint_channels[-1]
    self.conv_in = conv(3, first, dtype=dtype, rngs=rngs)
    blocks = []
    for c_in, c_out in itertools.pairwise(shape.hint_channels):
      blocks.append(conv(c_in, c_in, dtype=dtype, rngs=rngs))
      blocks.append(conv(c_in, c_out, stride=2, dtype=dtype, rngs=rngs))
    self.blocks = nnx.List(blocks)
    self.conv_out = conv(last, shape.channels[0], dtype=dtype, rngs=rngs)

  def __call__(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B h w C"]:
    x = jax.nn.silu(self.conv_in(image))
    for block in self.blocks:
      x = jax.nn.silu(block(x))
    return self.conv_out(x)


class ControlNet(Trunk):
  """What a condition image (edges, depth) adds to the maps of a UNet."""

  def __init__(self, shape: ControlNetShape, *, dtype=jnp.float32, rngs: nnx.Rngs):
    super().__init__(shape, dtype=dtype, rngs=rngs)
    self.hint = HintEmbedding(shape, dtype=dtype, rngs=rngs)
    self.down_residuals = nnx.List(
      linear(width, width, dtype=dtype, rngs=rngs) for width in shape.skip_channels
    )
    self.mid_residual = linear(shape.channels[-1], shape.channels[-1], dtype=dtype, rngs=rngs)

  def __call__(
    self,
    sample: Float[Array, "B h w _"],
    timestep: Num[Array, "..."],
    context: Float[Array, "R M D"],
    image: Float[Array, "B H W 3"],
  ) -> tuple[list[Float[Array, "B ..."]], Float[Array, "B ..."]]:
    """The `residuals` of the UNet's call at strength 1: for each map on the way down, the middle.

    sample, timestep, context: as the UNet gets them. image: the condition in [0, 1], of
    2 ** (len(hint_channels) - 1) times the latents' size.
    """
    cond = self.condition(sample, timestep, context)
    maps, middle = self.descend(self.conv_in(sample) + self.hint(image), cond)
    down = [layer(x) for layer, x in zip(self.down_residuals, maps, strict=True)]
    return down, self.mid_residual(middle)
