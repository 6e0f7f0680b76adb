"""Layers that several networks share. Channels last; norms in float32; matmuls in `dtype`."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from imx2mx_jax import sharding
from imx2mx_jax.models.attention import shared_attention
from imx2mx_jax.models.convolution import Padding, convolution
from imx2mx_jax.shapes import Array, Float, Num


class Conv(nnx.Module):
  """A square convolution with bias."""

  def __init__(
    self,
    c_in: int,
    c_out: int,
    size: int,
    *,
    stride: int,
    padding: Padding,
    dtype,
    rngs: nnx.Rngs,
  ):
    initial = nnx.initializers.lecun_normal()(rngs.params(), (size, size, c_in, c_out))
    self.kernel = nnx.Param(initial)
    self.bias = nnx.Param(jnp.zeros(c_out))
    self.stride, self.padding, self.dtype = stride, padding, jnp.dtype(dtype)

  def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h2 w2 D"]:
    x, kernel, bias = (y.astype(self.dtype) for y in (x, self.kernel[...], self.bias[...]))
    return convolution(x, kernel, self.stride, self.padding) + bias


def conv(c_in: int, c_out: int, size: int = 3, *, stride: int = 1, dtype, rngs: nnx.Rngs) -> Conv:
  """A square convolution padded by size // 2 on every side, as PyTorch's `padding=1` does at 3."""
  pad = (size // 2, size // 2)
  return Conv(c_in, c_out, size, stride=stride, padding=(pad, pad), dtype=dtype, rngs=rngs)


def linear(d_in: int, d_out: int, *, bias: bool = True, dtype, rngs: nnx.Rngs) -> nnx.Linear:
  """A linear layer; the width is that of the last axis."""
  return nnx.Linear(d_in, d_out, use_bias=bias, dtype=dtype, rngs=rngs)


def _read_anew(x: Array) -> Array:
  """x as it is stored; else TPUs store it in float32 besides, for those that read it."""
  same = lambda x: x
  return jax.lax.platform_dependent(x, tpu=jax.lax.optimization_barrier, default=same)


class GroupNorm(nnx.Module):
  """Group normalisation over space and channels of a group, in float32; keeps the input's dtype."""

  def __init__(self, channels: int, groups: int, eps: float, *, rngs: nnx.Rngs):
    self.scale = nnx.Param(jnp.ones(channels))
    self.bias = nnx.Param(jnp.zeros(channels))
    self.groups, self.eps = groups, eps

  @jax.named_scope("group_norm")
  def __call__(self, x: Float[Array, "B *space C"]) -> Float[Array, "B *space C"]:
    x = _read_anew(x)
    y = x.astype(jnp.float32).reshape(x.shape[0], -1, x.shape[-1])
    y = y - self._group_means(y)
    scale = jax.lax.rsqrt(self._group_means(jnp.square(y)) + self.eps) * self.scale
    return (y * scale + self.bias).reshape(x.shape).astype(x.dtype)

  def _group_means(self, y: Float[Array, "B L C"]) -> Float[Array, "B 1 C"]:
    """Each group's mean at each of its channels. Space first: twice as fast as both at once."""
    means = y.mean(axis=1).reshape(y.shape[0], self.groups, -1).mean(axis=-1)
    return means.repeat(y.shape[-1] // self.groups, axis=-1)[:, None]


class LayerNorm(nnx.Module):
  """Layer normalisation in float32; returns the input's dtype."""

  def __init__(self, width: int, eps: float = 1e-5, *, rngs: nnx.Rngs):
    self.scale = nnx.Param(jnp.ones(width))
    self.bias = nnx.Param(jnp.zeros(width))
    self.eps = eps

  @jax.named_scope("layer_norm")
  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    y = _read_anew(x).astype(jnp.float32)
    mean = y.mean(axis=-1, keepdims=True)
    variance = jnp.square(y - mean).mean(axis=-1, keepdims=True)
    y = (y - mean) * jax.lax.rsqrt(variance + self.eps)
    return (y * self.scale + self.bias).astype(x.dtype)


class Attention(nnx.Module):
  """Multi-head attention of x to a context, or to itself. diffusers' `Attention`."""

  def __init__(
    self,
    width: int,
    context_width: int,
    heads: int,
    head_width: int,
    *,
    bias: bool = False,
    dtype,
    rngs: nnx.Rngs,
  ):
    inner = heads * head_width
    self.q = linear(width, inner, bias=bias, dtype=dtype, rngs=rngs)
    self.k = linear(context_width, inner, bias=bias, dtype=dtype, rngs=rngs)
    self.v = linear(context_width, inner, bias=bias, dtype=dtype, rngs=rngs)
    self.out = linear(inner, width, dtype=dtype, rngs=rngs)
    self.heads = heads

  def __call__(
    self,
    x: Float[Array, "B L D"],
    context: Float[Array, "B M E"] | None = None,
    *,
    causal: bool = False,
    keys_of_all_chips: bool = False,
  ) -> Float[Array, "B L D"]:
    """keys_of_all_chips: and values, where x is a chip's part of the tokens."""
    context = x if context is None else context
    if context.shape[1] == 1:  # softmax over one key is one: queries and keys do no work
      return jnp.broadcast_to(self.out(self.v(context)), x.shape)
    q, k, v = self.q(x), self.k(context), self.v(context)
    if keys_of_all_chips and sharding.is_part():  # at once: half the copies, and beside computation
      k, v = jnp.split(sharding.gather(jnp.concatenate([k, v], axis=-1), axis=1), 2, axis=-1)
    y = sharding.lay(shared_attention(q, k, v, self.heads, causal=causal), "channels")
    return sharding.lay(self.out(y), "whole")


class FeedForward(nnx.Module):
  """GEGLU feed-forward: value * GELU(gate), exact erf; inner width 4 D."""

  def __init__(self, width: int, *, dtype, rngs: nnx.Rngs):
    self.proj = linear(width, 8 * width, dtype=dtype, rngs=rngs)
    self.out = linear(4 * width, width, dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    value, gate = self._halves(x)
    y = sharding.lay(value * jax.nn.gelu(gate, approximate=False), "channels")
    return sharding.lay(self.out(y), "whole")

  def _halves(self, x: Float[Array, "B L D"]) -> tuple[Float[Array, "B L _"], ...]:
    """Value and gate; as two products where chips share them, so that each has a part of both."""
    if sharding.chips() == 1:
      return tuple(jnp.split(self.proj(x), 2, axis=-1))
    dtype = self.proj.dtype
    x, kernel, bias = (y.astype(dtype) for y in (x, self.proj.kernel[...], self.proj.bias[...]))
    kernels, biases = jnp.split(kernel, 2, axis=-1), jnp.split(bias, 2)
    kernels = [sharding.lay(half, "channels") for half in kernels]
    return tuple(x @ half + bias for half, bias in zip(kernels, biases, strict=True))


class TimeEmbedding(nnx.Module):
  """Timesteps -> sinusoids (cosines first) -> Linear, SiLU, Linear."""

  def __init__(self, channels: int, width: int, *, dtype, rngs: nnx.Rngs):
    self.linear1 = linear(channels, width, dtype=dtype, rngs=rngs)
    self.linear2 = linear(width, width, dtype=dtype, rngs=rngs)
    self.channels = channels

  def __call__(self, timesteps: Num[Array, " B"]) -> Float[Array, "B D"]:
    half = self.channels // 2
    frequencies = jnp.exp(-math.log(10000) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies
    waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return self.linear2(jax.nn.silu(self.linear1(waves)))


class ResBlock(nnx.Module):
  """diffusers' `ResnetBlock2D`: norm, SiLU, convolution, twice, the time added between; a skip.

  time_width: width of the time embedding, to which SiLU has been applied; None: there is none.
  """

  def __init__(
    self,
    c_in: int,
    c_out: int,
    *,
    groups: int,
    eps: float,
    time_width: int | None = None,
    dtype,
    rngs: nnx.Rngs,
  ):
    self.norm1 = GroupNorm(c_in, groups, eps, rngs=rngs)
    self.conv1 = conv(c_in, c_out, dtype=dtype, rngs=rngs)
    self.time = linear(time_width, c_out, dtype=dtype, rngs=rngs) if time_width else None
    self.norm2 = GroupNorm(c_out, groups, eps, rngs=rngs)
    self.conv2 = conv(c_out, c_out, dtype=dtype, rngs=rngs)
    self.skip = linear(c_in, c_out, dtype=dtype, rngs=rngs) if c_in != c_out else None

  @jax.named_scope("res_block")
  def __call__(
    self, x: Float[Array, "B h w C"], time: Float[Array, "B E"] | None = None
  ) -> Float[Array, "B h w D"]:
    h = sharding.lay(self.conv1(jax.nn.silu(self.norm1(x))), "channels")
    if self.time is not None:
      h = h + self.time(time)[:, None, None]
    h = self.conv2(sharding.lay(jax.nn.silu(self.norm2(h)), "channels"))
    return sharding.lay(h + (x if self.skip is None else self.skip(x)), "whole")


class Downsample(nnx.Module):
  """Convolution of stride 2, padded by one on every side."""

  def __init__(self, channels: int, *, dtype, rngs: nnx.Rngs):
    self.conv = conv(channels, channels, stride=2, dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h2 w2 C"]:
    return sharding.lay(self.conv(x), "whole")


class Upsample(nnx.Module):
  """Nearest-neighbour doubling, cropped to `size` where that is given, then a convolution."""

  def __init__(self, channels: int, *, dtype, rngs: nnx.Rngs):
    self.conv = conv(channels, channels, dtype=dtype, rngs=rngs)

  def __call__(
    self, x: Float[Array, "B h w C"], size: tuple[int, int] | None = None
  ) -> Float[Array, "B h2 w2 C"]:
    height, width = size or (None, None)
    return sharding.lay(
      self.conv(x.repeat(2, axis=1).repeat(2, axis=2)[:, :height, :width]), "whole"
    )
