"""CLIP's vision tower, and how SEVA prepares pictures for it.

One class serves OpenCLIP's `encode_image` (SEVA's image encoder) and transformers' CLIP: the two
differ in their spelling and, between releases, in the activation.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from imx2mx_jax.models.clip_layers import Block
from imx2mx_jax.models.layers import LayerNorm, linear
from imx2mx_jax.shapes import Array, Float


@dataclasses.dataclass(frozen=True)
class ClipVisionShape:
  """The tower's dimensions; the defaults are OpenCLIP ViT-H/14's.

  image_size, patch_size: pixels. embed_width: width of the projected embedding. activation: a key
  of clip_layers.ACTIVATIONS. eps: of every layer norm. mean, std: of red, green and blue in [0, 1],
  for `preprocess`.
  """

  image_size: int = 224
  patch_size: int = 14
  width: int = 1280
  layers: int = 32
  heads: int = 16
  mlp_width: int = 5120
  embed_width: int = 1024
  activation: str = "gelu"
  eps: float = 1e-5
  mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
  std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)


class ClipVision(nnx.Module):
  """Preprocessed pictures -> projected embeddings of the class token, not normalised."""

  def __init__(self, shape: ClipVisionShape, *, dtype=jnp.float32, rngs: nnx.Rngs):
    patch = (shape.patch_size, shape.patch_size)
    self.patches = nnx.Conv(
      3, shape.width, patch, patch, padding="VALID", use_bias=False, dtype=dtype, rngs=rngs
    )
    token = nnx.initializers.normal(shape.width**-0.5)
    count = 1 + (shape.image_size // shape.patch_size) ** 2
    self.class_token = nnx.Param(token(rngs.params(), (shape.width,)))
    self.positions = nnx.Param(token(rngs.params(), (count, shape.width)))
    self.norm_in = LayerNorm(shape.width, shape.eps, rngs=rngs)
    self.blocks = nnx.List(
      Block(
        shape.width,
        shape.heads,
        shape.mlp_width,
        shape.activation,
        shape.eps,
        causal=False,
        dtype=dtype,
        rngs=rngs,
      )
      for _ in range(shape.layers)
    )
    self.norm_out = LayerNorm(shape.width, shape.eps, rngs=rngs)
    self.projection = linear(shape.width, shape.embed_width, bias=False, dtype=dtype, rngs=rngs)
    self.shape = shape

  @jax.named_scope("clip_vision")
  def __call__(self, pixels: Float[Array, "B S S 3"]) -> Float[Array, "B D"]:
    """pixels: of the tower's own size, as `preprocess` returns them."""
    x = self.patches(pixels)
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    first = jnp.broadcast_to(self.class_token.astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
    x = jnp.concatenate([first, x], axis=1) + self.positions.astype(x.dtype)
    x = self.norm_in(x)
    for block in self.blocks:
      x = block(x)
    return self.projection(self.norm_out(x[:, 0]))


def preprocess(
  images: Float[Array, "B H W 3"], size: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "B S S 3"]:
  """Pictures in [-1, 1] -> what the tower reads: resized to size x size, then (x - mean) / std.

  The resize is the one that SEVA was trained with (kornia's): bicubic with aligned corners and,
  where a side shrinks, a short Gaussian blur before it. Nothing is clipped.
  """
  rows, columns = (_resize_matrix(side, size) for side in images.shape[1:3])
  resized = jnp.einsum(
    "rh,bhwc,sw->brsc", rows, images, columns, precision=jax.lax.Precision.HIGHEST
  )
  return ((resized + 1) / 2 - jnp.array(mean)) / jnp.array(std)


def _resize_matrix(source: int, size: int) -> Float[np.ndarray, "size source"]:
  """One axis of the resize: bicubic weights (a = -0.75), borders repeated, after the blur."""
  positions = np.linspace(0, source - 1, size)
  left = np.floor(positions).astype(int)
  matrix = np.zeros((size, source))
  for pixel in (left - 1, left, left + 1, left + 2):
    matrix[np.arange(size), np.clip(pixel, 0, source - 1)] += _cubic(np.abs(positions - pixel))
  return (matrix @ _blur_matrix(source, source / size)).astype(np.float32)


def _cubic(x: Float[np.ndarray, " n"], a: float = -0.75) -> Float[np.ndarray, " n"]:
  """Keys' kernel at the distances x in [0, 2]."""
  near = (a + 2) * x**3 - (a + 3) * x**2 + 1
  far = a * (x**3 - 5 * x**2 + 8 * x - 4)
  return np.where(x <= 1, near, far)


def _blur_matrix(source: int, factor: float) -> Float[np.ndarray, "source source"]:
  """The blur of one axis that shrinks by `factor`: sigma (factor - 1) / 2, borders reflected."""
  if factor <= 1:
    return np.eye(source)
  sigma = (factor - 1) / 2
  reach = int(max(4 * sigma, 3)) // 2
  weights = np.exp(-((np.arange(-reach, reach + 1) / sigma) ** 2) / 2)
  pixels = np.pad(np.arange(source), reach, mode="reflect")
  matrix = np.zeros((source, source))
  for offset, weight in enumerate(weights / weights.sum()):
    matrix[np.arange(source), pixels[offset : offset + source]] += weight
  return matrix
