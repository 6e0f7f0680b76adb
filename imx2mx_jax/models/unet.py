"""The UNet of Stable Diffusion 1.x and 2.x (diffusers' UNet2DConditionModel) with RCVAttn.

Random cross-view attention, InstructMix2Mix's change to the teacher: within each guidance branch
the self-attention of every view takes its keys and values from one key view.
"""

import dataclasses
from collections.abc import Sequence

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
  ResBlock,
  TimeEmbedding,
  Upsample,
  conv,
  linear,
)
from imx2mx_jax.models.network import KEPT
from imx2mx_jax.shapes import Array, Float, Int, Num


@dataclasses.dataclass(frozen=True)
class TrunkShape:
  """The dimensions that the UNet and its ControlNet share; the defaults are Stable Diffusion 1.5's.

  channels, down_attention, heads: one entry for each level, the finest first; down_attention says
  which levels have transformers on the way down, heads is the number of heads of each.
  layers: residual blocks in a level. depth: blocks in a transformer.
  """

  in_channels: int = 4
  channels: tuple[int, ...] = (320, 640, 1280, 1280)
  layers: int = 2
  down_attention: tuple[bool, ...] = (True, True, True, False)
  heads: tuple[int, ...] = (8, 8, 8, 8)
  depth: int = 1
  context_width: int = 768
  groups: int = 32
  eps: float = 1e-5

  @property
  def time_width(self) -> int:
    """The width of the time embedding."""
    return 4 * self.channels[0]

  @property
  def skip_channels(self) -> tuple[int, ...]:
    """The channels of every map on the way down, in order; the last level is not downsampled."""
    maps = [width for width in self.channels for _ in range(self.layers + 1)]
    return (self.channels[0], *maps[:-1])


@dataclasses.dataclass(frozen=True)
class UNetShape(TrunkShape):
  """The UNet's dimensions; the defaults are InstructPix2Pix's.

  up_attention: which levels have transformers on the way up, the coarsest first.
  """

  in_channels: int = 8
  out_channels: int = 4
  up_attention: tuple[bool, ...] = (False, True, True, True)


@dataclasses.dataclass(frozen=True)
class CrossView:
  """Whose keys and values self-attention takes; rows are branch x views + view.

  key: None: those of all views.
  """

  key: Int[Array, ""] | None
  views: int


@dataclasses.dataclass(frozen=True)
class Conditioning:
  """What all blocks of one forward pass share. time: the embedding after SiLU.

  context: texts, each of equally many rows that lie together.
  """

  time: Float[Array, "B E"]
  context: Float[Array, "R M D"]
  cross_view: CrossView | None


def cross_view_attention(
  attend: Attention, x: Float[Array, "B L D"], cross_view: CrossView | None
) -> Float[Array, "B L D"]:
  """Self-attention in which all views of a branch query the key view, or all of them.

  cross_view: None: each itself.

  The views of a branch are one long row of queries, so that the key view's keys and values are
  computed once and nothing is copied.
  """
  if cross_view is None:
    return attend(x)
  if sharding.is_part():
    return attend(x, _keys_of_other_chips(x, cross_view))
  rows, tokens, width = x.shape
  by_view = x.reshape(rows // cross_view.views, cross_view.views, tokens, width)
  if cross_view.key is None:
    return attend(by_view.reshape(len(by_view), -1, width)).reshape(x.shape)
  key = jax.lax.dynamic_index_in_dim(by_view, cross_view.key, axis=1, keepdims=False)
  return attend(by_view.reshape(len(by_view), -1, width), key).reshape(x.shape)


def _keys_of_other_chips(x: Float[Array, "B L D"], cross_view: CrossView) -> Float[Array, "B M D"]:
  """What each row takes keys and values from, where x are a chip's rows of all of them."""
  count, views = len(x), cross_view.views
  rows = jax.lax.axis_index(sharding.CHIPS) * count + jnp.arange(count)
  branch, view = rows // views, rows % views
  branches = -(-count * jax.lax.axis_size(sharding.CHIPS) // views)
  if cross_view.key is None:
    everything = sharding.gather(x, axis=0)
    fill = ((0, branches * views - len(everything)), (0, 0), (0, 0))
    by_branch = jnp.pad(everything, fill).reshape(branches, -1, x.shape[2])
  else:
    keys = jnp.where((view == cross_view.key)[:, None, None], x, 0)
    by_branch = jax.lax.psum(jax.ops.segment_sum(keys, branch, branches), sharding.CHIPS)
  return by_branch[branch]


class TransformerBlock(nnx.Module):
  """Self-attention, attention to the context, feed-forward; each with a residual."""

  def __init__(self, width: int, heads: int, context_width: int, *, dtype, rngs: nnx.Rngs):
    head_width = width // heads
    self.norm1, self.norm2, self.norm3 = (LayerNorm(width, rngs=rngs) for _ in range(3))
    self.attn1 = Attention(width, width, heads, head_width, dtype=dtype, rngs=rngs)
    self.attn2 = Attention(width, context_width, heads, head_width, dtype=dtype, rngs=rngs)
    self.ff = FeedForward(width, dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, "B L C"], cond: Conditioning) -> Float[Array, "B L C"]:
    x = x + cross_view_attention(self.attn1, self.norm1(x), cond.cross_view)
    # The rows of one text are one long row of queries: its keys and values are computed once.
    queries = self.norm2(x).reshape(len(cond.context), -1, x.shape[-1])
    x = x + self.attn2(queries, cond.context).reshape(x.shape)
    return x + self.ff(self.norm3(x))


class Transformer(nnx.Module):
  """Transformer blocks over the cells of a map, between two linear layers, with a residual."""

  def __init__(self, width: int, heads: int, shape: TrunkShape, *, dtype, rngs: nnx.Rngs):
    self.norm = GroupNorm(width, shape.groups, 1e-6, rngs=rngs)
    self.proj_in = linear(width, width, dtype=dtype, rngs=rngs)
    self.transformer_blocks = nnx.List(
      TransformerBlock(width, heads, shape.context_width, dtype=dtype, rngs=rngs)
      for _ in range(shape.depth)
    )
    self.proj_out = linear(width, width, dtype=dtype, rngs=rngs)

  @jax.named_scope("transformer")
  def __call__(self, x: Float[Array, "B h w C"], cond: Conditioning) -> Float[Array, "B h w C"]:
    tokens = self.proj_in(self.norm(x).reshape(x.shape[0], -1, x.shape[-1]))
    for block in self.transformer_blocks:
      tokens = block(tokens, cond)
    return x + self.proj_out(tokens).reshape(x.shape)


class Level(nnx.Module):
  """Residual blocks at one resolution, the first ones followed by a transformer each.

  c_ins: the input channels of each residual block. heads: of each transformer.
  """

  def __init__(
    self,
    c_ins: Sequence[int],
    c_out: int,
    heads: Sequence[int],
    shape: TrunkShape,
    *,
    dtype,
    rngs: nnx.Rngs,
  ):
    self.resnets = nnx.List(
      ResBlock(
        c_in,
        c_out,
        groups=shape.groups,
        eps=shape.eps,
        time_width=shape.time_width,
        dtype=dtype,
        rngs=rngs,
      )
      for c_in in c_ins
    )
    self.attentions = nnx.List(Transformer(c_out, n, shape, dtype=dtype, rngs=rngs) for n in heads)

  def layer(self, index: int, x: Float[Array, "B h w _"], cond: Conditioning):
    """A residual block and the transformer after it, if there is one."""
    x = checkpoint_name(self.resnets[index](x, cond.time), KEPT)
    if index < len(self.attentions):
      x = checkpoint_name(self.attentions[index](x, cond), KEPT)
    return x


class DownBlock(Level):
  """A level on the way down, and the way to the next where `downsample`."""

  def __init__(self, c_ins, c_out, heads, shape, *, downsample: bool, dtype, rngs):
    super().__init__(c_ins, c_out, heads, shape, dtype=dtype, rngs=rngs)
    self.downsample = Downsample(c_out, dtype=dtype, rngs=rngs) if downsample else None

  def __call__(self, x: Float[Array, "B h w _"], cond: Conditioning) -> list[Float[Array, "B ..."]]:
    """Every map on the way, the block's output last."""
    maps = [x]
    for index in range(len(self.resnets)):
      maps.append(self.layer(index, maps[-1], cond))
    if self.downsample is not None:
      maps.append(self.downsample(maps[-1]))
    return maps[1:]


class MidBlock(Level):
  """The coarsest level: a transformer between two residual blocks."""

  def __call__(self, x: Float[Array, "B h w C"], cond: Conditioning) -> Float[Array, "B h w C"]:
    return self.layer(1, self.layer(0, x, cond), cond)


class UpBlock(Level):
  """A level on the way up, and the way to the next where `upsample`."""

  def __init__(self, c_ins, c_out, heads, shape, *, upsample: bool, dtype, rngs):
    super().__init__(c_ins, c_out, heads, shape, dtype=dtype, rngs=rngs)
    self.upsample = Upsample(c_out, dtype=dtype, rngs=rngs) if upsample else None

  def __call__(
    self, x: Float[Array, "B h w _"], skips: list[Float[Array, "B ..."]], cond: Conditioning
  ) -> Float[Array, "B H W C"]:
    """Takes its own maps off the end of `skips`; what is left begins with the next level's."""
    for index in range(len(self.resnets)):
      x = self.layer(index, jnp.concatenate([x, skips.pop()], axis=-1), cond)
    return x if self.upsample is None else self.upsample(x, skips[-1].shape[1:3])


class Trunk(nnx.Module):
  """What the UNet and its ControlNet share: the way down and the middle."""

  def __init__(self, shape: TrunkShape, *, dtype, rngs: nnx.Rngs):
    first, last = shape.channels[0], shape.channels[-1]
    self.conv_in = conv(shape.in_channels, first, dtype=dtype, rngs=rngs)
    self.time_embedding = TimeEmbedding(first, shape.time_width, dtype=dtype, rngs=rngs)
    c_ins = (first, *shape.channels[:-1])
    levels = zip(c_ins, shape.channels, shape.heads, shape.down_attention, strict=True)
    self.down_blocks = nnx.List(
      DownBlock(
        [c_in] + [c_out] * (shape.layers - 1),
        c_out,
        [heads] * shape.layers if attention else [],
        shape,
        downsample=level < len(shape.channels) - 1,
        dtype=dtype,
        rngs=rngs,
      )
      for level, (c_in, c_out, heads, attention) in enumerate(levels)
    )
    self.mid_block = MidBlock([last] * 2, last, shape.heads[-1:], shape, dtype=dtype, rngs=rngs)

  def condition(
    self,
    sample: Float[Array, "B h w _"],
    timestep: Num[Array, "..."],
    context: Float[Array, "R M D"],
    cross_view: CrossView | None = None,
  ) -> Conditioning:
    """timestep: one for all rows, or one for each."""
    time = self.time_embedding(jnp.broadcast_to(timestep, sample.shape[:1]))
    return Conditioning(jax.nn.silu(time), context, cross_view)

  def descend(
    self, x: Float[Array, "B h w C"], cond: Conditioning
  ) -> tuple[list[Float[Array, "B ..."]], Float[Array, "B ..."]]:
    """Every map on the way down from the first convolution's output x, and the middle's output."""
    maps = [x]
    for block in self.down_blocks:
      maps += block(maps[-1], cond)
    return maps, self.mid_block(maps[-1], cond)


class UNet(Trunk):
  """The noise (or velocity) in noisy latents, given the time and a text."""

  def __init__(self, shape: UNetShape, *, dtype=jnp.float32, rngs: nnx.Rngs):
    super().__init__(shape, dtype=dtype, rngs=rngs)
    skips, width, up_blocks = list(shape.skip_channels), shape.channels[-1], []
    levels = zip(shape.channels[::-1], shape.heads[::-1], shape.up_attention, strict=True)
    for c_out, heads, attention in levels:
      c_ins = [c + skips.pop() for c in (width, *[c_out] * shape.layers)]
      width = c_out
      up_blocks.append(
        UpBlock(
          c_ins,
          c_out,
          [heads] * len(c_ins) if attention else [],
          shape,
          upsample=bool(skips),
          dtype=dtype,
          rngs=rngs,
        )
      )
    self.up_blocks = nnx.List(up_blocks)
    self.norm_out = GroupNorm(width, shape.groups, shape.eps, rngs=rngs)
    # In float32 at any compute dtype: guidance and Tweedie's formula magnify an error here.
    self.conv_out = conv(width, shape.out_channels, dtype=jnp.float32, rngs=rngs)

  def __call__(
    self,
    sample: Float[Array, "B h w _"],
    timestep: Num[Array, "..."],
    context: Float[Array, "R M D"],
    *,
    key_view: Int[Array, ""] | None = None,
    views: int = 1,
    all_views: bool = False,
    residuals: tuple[list[Float[Array, "B ..."]], Float[Array, "B ..."]] | None = None,
  ) -> Float[Array, "B h w c"]:
    """The network's prediction for B = branches x views rows, the views of a branch adjacent.

    sample: noisy latents (for InstructPix2Pix followed by the source latents). timestep: 0..999,
    may be fractional, one for all rows or one for each. context: texts' embeddings, one for each
    row or for as many adjacent rows as there are to a text. key_view: the view whose keys and
    values every view takes in self-attention; None: each its own. all_views: every view takes those
    of all views instead. residuals: a ControlNet's output, added to the maps on the way down and to
    the middle's.
    """
    cross_view = None if key_view is None else CrossView(key_view, views)
    if all_views:
      cross_view = CrossView(None, views)
    cond = self.condition(sample, timestep, context, cross_view)
    skips, x = self.descend(self.conv_in(sample), cond)
    if residuals is not None:
      down, middle = residuals
      skips = [skip + residual for skip, residual in zip(skips, down, strict=True)]
      x = x + middle
    for block in self.up_blocks:
      x = block(x, skips, cond)
    return self.conv_out(jax.nn.silu(self.norm_out(x)))
