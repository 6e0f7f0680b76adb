"""The autoencoder of latent diffusion (diffusers' AutoencoderKL, arXiv 2112.10752)."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from imx2mx_jax.models.layers import Attention, Conv, GroupNorm, ResBlock, Upsample, conv, linear
from imx2mx_jax.shapes import Array, Float

EPS = 1e-6
"""Of every normalisation."""


@dataclasses.dataclass(frozen=True)
class VaeShape:
  """The autoencoder's dimensions; the defaults are Stable Diffusion's.

  channels: one entry for each level, the finest first. layers: residual blocks in a level of the
  encoder (the decoder has one more). scaling_factor: latents times this have about unit size; it
  is the caller's to apply.
  """

  image_channels: int = 3
  latent_channels: int = 4
  channels: tuple[int, ...] = (128, 256, 512, 512)
  layers: int = 2
  groups: int = 32
  scaling_factor: float = 0.18215

  @property
  def cell(self) -> int:
    """Pixels along a side of what one latent stands for."""
    return 2 ** (len(self.channels) - 1)

  def grid(self, hw: tuple[int, int]) -> tuple[int, int]:
    """The latents' height and width for pictures of `hw` pixels."""
    return hw[0] // self.cell, hw[1] // self.cell


class SelfAttention(nnx.Module):
  """One head over all cells of a map, with a residual."""

  def __init__(self, width: int, groups: int, *, dtype, rngs: nnx.Rngs):
    self.norm = GroupNorm(width, groups, EPS, rngs=rngs)
    self.attn = Attention(width, width, 1, width, bias=True, dtype=dtype, rngs=rngs)

  @jax.named_scope("self_attention")
  def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
    tokens = self.norm(x).reshape(x.shape[0], -1, x.shape[-1])
    return x + self.attn(tokens).reshape(x.shape)


class Downsample(nnx.Module):
  """Convolution of stride 2, padded by one at the bottom and on the right only."""

  def __init__(self, channels: int, *, dtype, rngs: nnx.Rngs):
    padding = ((0, 1), (0, 1))
    self.conv = Conv(channels, channels, 3, stride=2, padding=padding, dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h2 w2 C"]:
    return self.conv(x)


class Level(nnx.Module):
  """Residual blocks at one resolution, then the way to the next where `resample` is given."""

  def __init__(
    self,
    c_in: int,
    c_out: int,
    layers: int,
    resample: type[Downsample] | type[Upsample] | None,
    shape: VaeShape,
    *,
    dtype,
    rngs: nnx.Rngs,
  ):
    widths = (c_in, *[c_out] * layers)
    self.resnets = nnx.List(
      ResBlock(a, b, groups=shape.groups, eps=EPS, dtype=dtype, rngs=rngs)
      for a, b in itertools.pairwise(widths)
    )
    self.resample = resample(c_out, dtype=dtype, rngs=rngs) if resample else None

  def __call__(self, x: Float[Array, "B h w _"]) -> Float[Array, "B H W C"]:
    for resnet in self.resnets:
      x = resnet(x)
    return x if self.resample is None else self.resample(x)


class MidBlock(nnx.Module):
  """The coarsest level: self-attention between two residual blocks."""

  def __init__(self, width: int, shape: VaeShape, *, dtype, rngs: nnx.Rngs):
    self.resnets = nnx.List(
      ResBlock(width, width, groups=shape.groups, eps=EPS, dtype=dtype, rngs=rngs) for _ in "12"
    )
    self.attention = SelfAttention(width, shape.groups, dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
    before, after = self.resnets
    return after(self.attention(before(x)))


class Encoder(nnx.Module):
  """Images to the moments of their latents, before `quant_conv`."""

  def __init__(self, shape: VaeShape, *, dtype, rngs: nnx.Rngs):
    widths = (shape.channels[0], *shape.channels)
    resample = [Downsample] * (len(shape.channels) - 1) + [None]
    self.conv_in = conv(shape.image_channels, widths[0], dtype=dtype, rngs=rngs)
    self.down_blocks = nnx.List(
      Level(c_in, c_out, shape.layers, kind, shape, dtype=dtype, rngs=rngs)
      for (c_in, c_out), kind in zip(itertools.pairwise(widths), resample, strict=True)
    )
    self.mid_block = MidBlock(widths[-1], shape, dtype=dtype, rngs=rngs)
    self.norm_out = GroupNorm(widths[-1], shape.groups, EPS, rngs=rngs)
    self.conv_out = conv(widths[-1], 2 * shape.latent_channels, dtype=jnp.float32, rngs=rngs)

  def __call__(self, image: Float[Array, "B H W C"]) -> Float[Array, "B h w m"]:
    x = self.conv_in(image)
    for block in self.down_blocks:
      x = block(x)
    return self.conv_out(jax.nn.silu(self.norm_out(self.mid_block(x))))


class Decoder(nnx.Module):
  """Latents, after `post_quant_conv`, to images."""

  def __init__(self, shape: VaeShape, *, dtype, rngs: nnx.Rngs):
    widths = (shape.channels[-1], *shape.channels[::-1])
    resample = [Upsample] * (len(shape.channels) - 1) + [None]
    self.conv_in = conv(shape.latent_channels, widths[0], dtype=dtype, rngs=rngs)
    self.mid_block = MidBlock(widths[0], shape, dtype=dtype, rngs=rngs)
    self.up_blocks = nnx.List(
      Level(c_in, c_out, shape.layers + 1, kind, shape, dtype=dtype, rngs=rngs)
      for (c_in, c_out), kind in zip(itertools.pairwise(widths), resample, strict=True)
    )
    self.norm_out = GroupNorm(widths[-1], shape.groups, EPS, rngs=rngs)
    self.conv_out = conv(widths[-1], shape.image_channels, dtype=jnp.float32, rngs=rngs)

  def __call__(self, latents: Float[Array, "B h w c"]) -> Float[Array, "B H W C"]:
    x = self.mid_block(self.conv_in(latents))
    for block in self.up_blocks:
      x = block(x)
    return self.conv_out(jax.nn.silu(self.norm_out(x)))


class Vae(nnx.Module):
  """Images in [-1, 1] to latents and back. `VaeShape.scaling_factor` is not applied here."""

  def __init__(self, shape: VaeShape, *, dtype=jnp.float32, rngs: nnx.Rngs):
    moments, latents = 2 * shape.latent_channels, shape.latent_channels
    self.encoder = Encoder(shape, dtype=dtype, rngs=rngs)
    self.quant = linear(moments, moments, dtype=jnp.float32, rngs=rngs)
    self.post_quant = linear(latents, latents, dtype=dtype, rngs=rngs)
    self.decoder = Decoder(shape, dtype=dtype, rngs=rngs)
    self.shape = shape

  def encode(
    self, image: Float[Array, "B H W C"]
  ) -> tuple[Float[Array, "B h w c"], Float[Array, "B h w c"]]:
    """Mean and log-variance (clipped to [-30, 20]) of the latents, H / h = 2 ** (levels - 1)."""
    mean, logvar = jnp.split(self.quant(self.encoder(image)), 2, axis=-1)
    return mean, jnp.clip(logvar, -30.0, 20.0)

  def decode(self, latents: Float[Array, "B h w c"]) -> Float[Array, "B H W C"]:
    """Images, not clipped to [-1, 1]."""
    return self.decoder(self.post_quant(latents))
