"""CLIP whole (arXiv 2103.00020): pictures and texts in one space, for the metrics."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from imx2mx_jax.models.clip_text import ClipText, ClipTextShape
from imx2mx_jax.models.clip_vision import ClipVision, ClipVisionShape
from imx2mx_jax.models.layers import linear
from imx2mx_jax.shapes import Array, Float, Int

_LEGACY_END = 2
_TEXT_L14 = ClipTextShape()
_VISION_L14 = ClipVisionShape(
  width=1024, layers=24, mlp_width=4096, embed_width=768, activation="quick_gelu"
)


@dataclasses.dataclass(frozen=True)
class ClipShape:
  """Both towers; the defaults are OpenAI's ViT-L/14.

  vision.embed_width is the width of the common space. end_token: the id that closes a text; its
  place holds the text's embedding. Early transformers configs say 2, which is no end mark: it
  stands for "the highest id in the text", and that is where the end mark is.
  """

  text: ClipTextShape = _TEXT_L14
  vision: ClipVisionShape = _VISION_L14
  end_token: int = _LEGACY_END


class Clip(nnx.Module):
  """transformers' `CLIPModel`."""

  def __init__(self, shape: ClipShape, *, dtype=jnp.float32, rngs: nnx.Rngs):
    self.text = ClipText(shape.text, dtype=dtype, rngs=rngs)
    self.text_projection = linear(
      shape.text.width, shape.vision.embed_width, bias=False, dtype=dtype, rngs=rngs
    )
    self.vision = ClipVision(shape.vision, dtype=dtype, rngs=rngs)
    self.logit_scale = nnx.Param(jnp.log(1 / 0.07))
    self.end_token = shape.end_token

  def embed_images(self, pixels: Float[Array, "B S S 3"]) -> Float[Array, "B D"]:
    """Embeddings of unit length. pixels: resized and normalised as the vision tower wants them."""
    return _unit(self.vision(pixels))

  def embed_texts(self, ids: Int[Array, "B L"]) -> Float[Array, "B D"]:
    """Embeddings of unit length."""
    marks = ids if self.end_token == _LEGACY_END else ids == self.end_token
    states = self.text(ids)[jnp.arange(ids.shape[0]), marks.argmax(axis=-1)]
    return _unit(self.text_projection(states))

  def __call__(
    self, pixels: Float[Array, "B S S 3"], ids: Int[Array, "M L"]
  ) -> Float[Array, "B M"]:
    """Scaled cosines of every picture (rows) with every text (columns)."""
    scale = jnp.exp(self.logit_scale[...])
    return scale * self.embed_images(pixels) @ self.embed_texts(ids).T


def _unit(x: Float[Array, "B D"]) -> Float[Array, "B D"]:
  x = x.astype(jnp.float32)
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
