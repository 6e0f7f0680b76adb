"""What CLIP's towers share: pre-norm blocks of self-attention and a two-layer perceptron."""

import functools

import jax
from flax import nnx

from imx2mx_jax.models.layers import Attention, LayerNorm, linear
from imx2mx_jax.shapes import Array, Float


def quick_gelu(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
  """OpenAI's approximation of GELU: x sigmoid(1.702 x)."""
  return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {
  "gelu": functools.partial(jax.nn.gelu, approximate=False),
  "quick_gelu": quick_gelu,
}


class Block(nnx.Module):
  """x += attention(norm(x)); x += perceptron(norm(x)). transformers' `CLIPEncoderLayer`."""

  def __init__(
    self,
    width: int,
    heads: int,
    mlp_width: int,
    activation: str,
    eps: float,
    *,
    causal: bool,
    dtype,
    rngs: nnx.Rngs,
  ):
    self.norm1 = LayerNorm(width, eps, rngs=rngs)
    self.attention = Attention(
      width, width, heads, width // heads, bias=True, dtype=dtype, rngs=rngs
    )
    self.norm2 = LayerNorm(width, eps, rngs=rngs)
    self.fc1 = linear(width, mlp_width, dtype=dtype, rngs=rngs)
    self.fc2 = linear(mlp_width, width, dtype=dtype, rngs=rngs)
    self.activation, self.causal = activation, causal

  @jax.named_scope("block")
  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    """A token sees all tokens; in a causal block, itself and those before it."""
    x = x + self.attention(self.norm1(x), causal=self.causal)
    return x + self.fc2(ACTIVATIONS[self.activation](self.fc1(self.norm2(x))))
