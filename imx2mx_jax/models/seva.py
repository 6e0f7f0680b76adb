"""SEVA (Stable Virtual Camera 1.1, arXiv 2503.14489): a multi-view diffusion model.

The UNet of Stable Diffusion 2.1 with three additions: residual blocks are modulated by each frame's
Pluecker map, some transformers attend over all frames jointly, and each transformer is followed
by attention across the frames at every pixel. Lists of layers mirror the released state dict.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from imx2mx_jax import sharding
from imx2mx_jax.models.layers import (
  Attention,
  Downsample,
  FeedForward,
  GroupNorm,
  LayerNorm,
  TimeEmbedding,
  Upsample,
  conv,
  linear,
)
from imx2mx_jax.models.network import KEPT, Network
from imx2mx_jax.shapes import Array, Float, Num, Params

CELLS_PER_CHANNEL = 8
"""From which on chips divide a block's cells, else its channels.

Forward and backward, a transformer divided by channels adds up 18 maps more of [cells, channels];
divided by cells it gathers or scatters its weights three times, which are 46 channels^2. Residual
blocks take the same bound.
"""


@dataclasses.dataclass(frozen=True)
class SevaShape:
  """The network's dimensions; the defaults are modelv1.1's.

  attention_downsamples: resolutions (as divisors of the latent's) with a transformer after each
  residual block; the middle always has one. joint: names of transformers whose spatial attention
  runs over all frames together.
  """

  in_channels: int = 11
  out_channels: int = 4
  channels: int = 320
  channel_mult: tuple[int, ...] = (1, 2, 4, 4)
  blocks_per_level: int = 2
  attention_downsamples: tuple[int, ...] = (1, 2, 4)
  depths: tuple[int, ...] = (1, 1, 1, 1)
  head_width: int = 64
  context_width: int = 1024
  dense_channels: int = 6
  joint: tuple[str, ...] = ("middle_ds8", "output_ds4", "output_ds2")
  groups: int = 32


@dataclasses.dataclass(frozen=True)
class Conditioning:
  """What the blocks of one forward pass share; rows are frames, the frames of a scene adjacent."""

  time: Float[Array, "B D"]
  dense: Float[Array, "B h w 6"]
  context: Float[Array, "B M E"]
  frames: int


class ResBlock(nnx.Module):
  """Residual block modulated by time (added) and by the Pluecker map (scale and shift)."""

  def __init__(self, shape: SevaShape, c_in: int, c_out: int, *, dtype, rngs: nnx.Rngs):
    self.norm1 = GroupNorm(c_in, shape.groups, 1e-5, rngs=rngs)
    self.dense = conv(shape.dense_channels, 2 * c_in, 1, dtype=dtype, rngs=rngs)
    self.conv1 = conv(c_in, c_out, dtype=dtype, rngs=rngs)
    self.time = linear(4 * shape.channels, c_out, dtype=dtype, rngs=rngs)
    self.norm2 = GroupNorm(c_out, shape.groups, 1e-5, rngs=rngs)
    self.conv2 = conv(c_out, c_out, dtype=dtype, rngs=rngs)
    self.skip = conv(c_in, c_out, 1, dtype=dtype, rngs=rngs) if c_in != c_out else None

  @jax.named_scope("res_block")
  def __call__(self, x: Float[Array, "B h w C"], cond: Conditioning) -> Float[Array, "B h w D"]:
    rows, height, width, _ = x.shape
    inside, outside = _layouts(rows, height, width, self.time.out_features)
    block = _with_whole_weights(self, self.conv1.dtype) if inside == "lines" else self
    return block.in_layouts(x, cond, inside, outside)

  def in_layouts(
    self, x: Float[Array, "B h w C"], cond: Conditioning, inside: str, outside: str
  ) -> Float[Array, "B h w D"]:
    """The block, its maps laid out so by the chips that share it."""
    scale, shift = jnp.split(self.dense(resize_aligned(cond.dense, x.shape[1:3])), 2, axis=-1)
    h = jax.nn.silu(self.norm1(x)) * (1 + scale) + shift
    h = sharding.lay(self.conv1(h) + self.time(jax.nn.silu(cond.time))[:, None, None], inside)
    h = self.conv2(sharding.lay(jax.nn.silu(self.norm2(h)), inside))
    return sharding.lay(h + (x if self.skip is None else self.skip(x)), outside)


class SpatialBlock(nnx.Module):
  """Self-attention, cross-attention, feed-forward; each with a residual."""

  def __init__(self, width: int, shape: SevaShape, *, dtype, rngs: nnx.Rngs):
    self.norm1, self.norm2, self.norm3 = (LayerNorm(width, rngs=rngs) for _ in range(3))
    self.attn1 = _attention(width, width, shape, dtype=dtype, rngs=rngs)
    self.attn2 = _attention(width, shape.context_width, shape, dtype=dtype, rngs=rngs)
    self.ff = FeedForward(width, dtype=dtype, rngs=rngs)

  def __call__(
    self, x: Float[Array, "B L C"], context: Float[Array, "B M E"]
  ) -> Float[Array, "B L C"]:
    x = x + self.attn1(self.norm1(x), keys_of_all_chips=True)
    x = x + self.attn2(self.norm2(x), context)
    return x + self.ff(self.norm3(x))


class TimeBlock(nnx.Module):
  """Attention across the frames at every pixel. The last feed-forward has no residual."""

  def __init__(self, width: int, shape: SevaShape, *, dtype, rngs: nnx.Rngs):
    self.norm_in, self.norm1, self.norm2, self.norm3 = (
      LayerNorm(width, rngs=rngs) for _ in range(4)
    )
    self.ff_in = FeedForward(width, dtype=dtype, rngs=rngs)
    self.attn1 = _attention(width, width, shape, dtype=dtype, rngs=rngs)
    self.attn2 = _attention(width, shape.context_width, shape, dtype=dtype, rngs=rngs)
    self.ff = FeedForward(width, dtype=dtype, rngs=rngs)

  def __call__(
    self, x: Float[Array, "S T L C"], context: Float[Array, "S M E"]
  ) -> Float[Array, "S T L C"]:
    scenes, frames, cells, width = x.shape
    tokens = x.reshape(scenes, frames * cells, width)
    tokens = tokens + self.ff_in(self.norm_in(tokens))
    across = tokens.reshape(x.shape).swapaxes(1, 2).reshape(scenes * cells, frames, width)
    across = self.attn1(self.norm1(across)).reshape(scenes, cells, frames, width)
    tokens = tokens + across.swapaxes(1, 2).reshape(tokens.shape)
    # Every pixel and frame has the same context, so all of them are queries of one attention.
    tokens = tokens + self.attn2(self.norm2(tokens), context)
    return self.ff(self.norm3(tokens)).reshape(x.shape)


class MultiviewTransformer(nnx.Module):
  """`depth` pairs of a spatial and a time block between two linear layers, with a residual."""

  def __init__(
    self, width: int, depth: int, joint: bool, shape: SevaShape, *, dtype, rngs: nnx.Rngs
  ):
    self.norm = GroupNorm(width, shape.groups, 1e-6, rngs=rngs)
    self.proj_in = linear(width, width, dtype=dtype, rngs=rngs)
    self.transformer_blocks = nnx.List(
      SpatialBlock(width, shape, dtype=dtype, rngs=rngs) for _ in range(depth)
    )
    self.time_mix_blocks = nnx.List(
      TimeBlock(width, shape, dtype=dtype, rngs=rngs) for _ in range(depth)
    )
    self.proj_out = linear(width, width, dtype=dtype, rngs=rngs)
    self.joint = joint

  @jax.named_scope("multiview_transformer")
  def __call__(self, x: Float[Array, "B h w C"], cond: Conditioning) -> Float[Array, "B h w C"]:
    rows, height, width, channels = x.shape
    normed = self.norm(x).reshape(-1, cond.frames, height * width, channels)
    cells = height * width
    if _has_large_maps(rows * cells, channels) and cells % sharding.chips() == 0:
      tokens = self._in_parts(normed, cond.context)
    else:
      tokens = self.tokens(normed, cond.context)
    return sharding.lay(x + tokens.reshape(x.shape), _layouts(*x.shape)[1])

  def _in_parts(
    self, x: Float[Array, "S T L C"], context: Float[Array, "B M E"]
  ) -> Float[Array, "S T L C"]:
    network = _in_compute_dtype(self, self.proj_in.dtype)

    def part(params: Params, context: Array, x: Array) -> Array:
      return Network(network.graphdef, params).module.tokens(x, context)

    return sharding.in_parts(part, network.params, context, x, axis=2)

  def tokens(
    self, x: Float[Array, "S T L C"], context: Float[Array, "B M E"]
  ) -> Float[Array, "S T L C"]:
    """Between norm and residual. L: the cells of a frame, or a chip's part of them."""
    by_frame = (-1, *x.shape[2:])
    tokens = sharding.lay(self.proj_in(x.reshape(by_frame)), "whole")
    first_context = context[:: x.shape[1]]
    for spatial, temporal in zip(self.transformer_blocks, self.time_mix_blocks, strict=True):
      if self.joint:
        tokens = spatial(tokens.reshape(len(x), -1, x.shape[3]), first_context)
      else:
        tokens = spatial(tokens.reshape(by_frame), context)
      tokens = tokens.reshape(x.shape)
      tokens = tokens + temporal(tokens, first_context)
    tokens = sharding.lay(tokens.reshape(by_frame), "channels")
    return self.proj_out(tokens).reshape(x.shape)


class Seva(nnx.Module):
  """SEVA's network F; its preconditioning is in students.py (specification: NETWORKS.md, A)."""

  def __init__(self, shape: SevaShape, *, dtype=jnp.float32, rngs: nnx.Rngs):
    def res_block(c_in: int, c_out: int) -> ResBlock:
      return ResBlock(shape, c_in, c_out, dtype=dtype, rngs=rngs)

    def transformer(where: str, downsample: int, width: int, depth: int) -> MultiviewTransformer:
      joint = f"{where}_ds{downsample}" in shape.joint
      return MultiviewTransformer(width, depth, joint, shape, dtype=dtype, rngs=rngs)

    self.time_embed = TimeEmbedding(shape.channels, 4 * shape.channels, dtype=dtype, rngs=rngs)

    levels = range(len(shape.channel_mult))
    channels, downsample = shape.channels, 1
    blocks = [[conv(shape.in_channels, channels, dtype=dtype, rngs=rngs)]]
    skips = [channels]
    for level in levels:
      for _ in range(shape.blocks_per_level):
        layers = [res_block(channels, shape.channels * shape.channel_mult[level])]
        channels = shape.channels * shape.channel_mult[level]
        if downsample in shape.attention_downsamples:
          layers.append(transformer("input", downsample, channels, shape.depths[level]))
        blocks.append(layers)
        skips.append(channels)
      if level != levels[-1]:
        blocks.append([Downsample(channels, dtype=dtype, rngs=rngs)])
        skips.append(channels)
        downsample *= 2
    self.input_blocks = _nested(blocks)

    self.middle_block = nnx.List(
      [
        res_block(channels, channels),
        transformer("middle", downsample, channels, shape.depths[-1]),
        res_block(channels, channels),
      ]
    )

    blocks = []
    for level in reversed(levels):
      for index in range(shape.blocks_per_level + 1):
        layers = [res_block(channels + skips.pop(), shape.channels * shape.channel_mult[level])]
        channels = shape.channels * shape.channel_mult[level]
        if downsample in shape.attention_downsamples:
          layers.append(transformer("output", downsample, channels, shape.depths[level]))
        if level != 0 and index == shape.blocks_per_level:
          layers.append(Upsample(channels, dtype=dtype, rngs=rngs))
          downsample //= 2
        blocks.append(layers)
    self.output_blocks = _nested(blocks)

    self.norm_out = GroupNorm(channels, shape.groups, 1e-5, rngs=rngs)
    # In float32 at any compute dtype: at sigma 85 an error of .01 here is .85 of the clean latents.
    self.conv_out = conv(channels, shape.out_channels, dtype=jnp.float32, rngs=rngs)

  def __call__(
    self,
    x: Float[Array, "B h w C"],
    timesteps: Num[Array, " B"],
    context: Float[Array, "B M E"],
    dense: Float[Array, "B h w 6"],
    *,
    frames: int,
  ) -> Float[Array, "B h w 4"]:
    """Noise prediction for B = scenes x frames rows, the frames of a scene adjacent.

    x: scaled noisy latents, clean mask and Pluecker map. timesteps: indices 0..999 of sigma.
    context: CLIP image embedding. dense: Pluecker map. frames: T.
    """
    cond = Conditioning(self.time_embed(timesteps), dense, context, frames)
    skips = []
    for layers in self.input_blocks:
      x = _apply(layers, x, cond)
      skips.append(x)
    x = _apply(self.middle_block, x, cond)
    for layers in self.output_blocks:
      x = _apply(layers, jnp.concatenate([x, skips.pop()], axis=-1), cond)
    return self.conv_out(jax.nn.silu(self.norm_out(x)))


def resize_aligned(x: Float[Array, "B h w C"], size: tuple[int, int]) -> Float[Array, "B H W C"]:
  """Bilinear resize whose corner samples coincide (PyTorch's align_corners=True)."""
  rows, columns = (_aligned_weights(n, m) for n, m in zip(x.shape[1:3], size, strict=True))
  return jnp.einsum("Hh,Ww,bhwc->bHWc", rows, columns, x)


def _aligned_weights(source: int, target: int) -> Float[Array, "m n"]:
  positions = jnp.linspace(0, source - 1, target) if target > 1 else jnp.zeros(1)
  return jnp.maximum(0, 1 - jnp.abs(positions[:, None] - jnp.arange(source)))


def _attention(
  width: int, context_width: int, shape: SevaShape, *, dtype, rngs: nnx.Rngs
) -> Attention:
  heads = width // shape.head_width
  return Attention(width, context_width, heads, shape.head_width, dtype=dtype, rngs=rngs)


def _has_large_maps(cells: int, channels: int) -> bool:
  return sharding.chips() > 1 and cells >= CELLS_PER_CHANNEL * channels


def _layouts(rows: int, height: int, width: int, channels: int) -> tuple[str, str]:
  """How chips lay out maps inside a residual block, and between blocks."""
  large = _has_large_maps(rows * height * width, channels)
  return ("lines", "lines") if large and height % sharding.chips() == 0 else ("channels", "whole")


def _in_compute_dtype(module: nnx.Module, dtype: jnp.dtype) -> Network:
  """A module taken apart, its kernels as they are multiplied, and chips' gradients added up."""
  network = Network.of(module)
  params = {k: v.astype(dtype) if v.ndim > 1 else v for k, v in network.params.items()}
  return Network(network.graphdef, params)


def _with_whole_weights(module: nnx.Module, dtype: jnp.dtype) -> nnx.Module:
  network = _in_compute_dtype(module, dtype)
  whole = {path: sharding.lay(x, "whole") for path, x in network.params.items()}
  return Network(network.graphdef, whole).module


def _nested(blocks: list[list[nnx.Module]]) -> nnx.List:
  return nnx.List(nnx.List(layers) for layers in blocks)


def _apply(layers: nnx.List, x: Float[Array, "B h w C"], cond: Conditioning):
  for layer in layers:
    conditioned = isinstance(layer, ResBlock | MultiviewTransformer)
    x = checkpoint_name(layer(x, cond) if conditioned else layer(x), KEPT)
  return x
