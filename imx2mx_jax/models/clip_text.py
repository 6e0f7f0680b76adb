"""CLIP's text tower (arXiv 2103.00020), the text encoder of Stable Diffusion 1.x."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from imx2mx_jax.models.clip_layers import Block
from imx2mx_jax.models.layers import LayerNorm
from imx2mx_jax.shapes import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class ClipTextShape:
  """The tower's dimensions; the defaults are ViT-L/14's.

  positions: the longest text in tokens, both end marks included. activation: a key of
  clip_layers.ACTIVATIONS. eps: of every layer norm.
  """

  vocabulary: int = 49408
  positions: int = 77
  width: int = 768
  layers: int = 12
  heads: int = 12
  mlp_width: int = 3072
  activation: str = "quick_gelu"
  eps: float = 1e-5


class ClipText(nnx.Module):
  """Token ids -> hidden states. transformers' `CLIPTextModel`."""

  def __init__(self, shape: ClipTextShape, *, dtype=jnp.float32, rngs: nnx.Rngs):
    self.tokens = nnx.Embed(shape.vocabulary, shape.width, dtype=dtype, rngs=rngs)
    position = nnx.initializers.normal(0.01)
    self.positions = nnx.Param(position(rngs.params(), (shape.positions, shape.width)))
    self.blocks = nnx.List(
      Block(
        shape.width,
        shape.heads,
        shape.mlp_width,
        shape.activation,
        shape.eps,
        causal=True,
        dtype=dtype,
        rngs=rngs,
      )
      for _ in range(shape.layers)
    )
    self.norm = LayerNorm(shape.width, shape.eps, rngs=rngs)
    self.dtype = dtype

  @jax.named_scope("clip_text")
  def __call__(self, ids: Int[Array, "B L"]) -> Float[Array, "B L D"]:
    """The last hidden states after the final norm; every token sees itself and those before it."""
    x = self.tokens(ids) + self.positions[: ids.shape[1]].astype(self.dtype)
    for block in self.blocks:
      x = block(x)
    return self.norm(x)
