"""Softmax attention behind one function."""

import jax
import jax.numpy as jnp

from imx2mx_jax.shapes import Array, Float


@jax.named_scope("attention")
def attention(
  q: Float[Array, "B L n d"],
  k: Float[Array, "B M n d"],
  v: Float[Array, "B M n d"],
  *,
  causal: bool = False,
) -> Float[Array, "B L n d"]:
  """softmax(q k^T / sqrt(d)) v, softmax in float32."""
  scores = jnp.einsum("blnd,bmnd->bnlm", q, k, preferred_element_type=jnp.float32)
  scores = scores / q.shape[-1] ** 0.5
  if causal:
    scores = jnp.where(jnp.tri(*scores.shape[-2:], dtype=bool), scores, -jnp.inf)
  weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
  return jnp.einsum("bnlm,bmnd->blnd", weights, v)
