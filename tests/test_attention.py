"""Attention in blocks is attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from imx2mx_jax.models import attention as module
from imx2mx_jax.models import layers
from tests.golden import support


def plain(q, k, v, causal):
  scores = jnp.einsum("blnd,bmnd->bnlm", q, k) / q.shape[-1] ** 0.5
  if causal:
    scores = jnp.where(jnp.tri(*scores.shape[-2:], dtype=bool), scores, -jnp.inf)
  return jnp.einsum("bnlm,bmnd->blnd", jax.nn.softmax(scores), v)


def example(queries, keys, scale=1.0):
  sizes = {"q": (2, queries, 3, 5), "k": (2, keys, 3, 5), "v": (2, keys, 3, 5)}
  q, k, v = (jnp.asarray(support.normal("attention", name, size)) for name, size in sizes.items())
  return scale * q, k, v


def both(function, inputs):
  """The output, and the gradient of a function of it, in which every element counts."""
  value, pull_back = jax.vjp(function, *inputs)
  return [value, *pull_back(jnp.cos(value))]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
  ("queries", "keys", "most"),
  [
    (11, 6, 1000),  # all together
    (11, 6, 4 * 66),  # four of the six heads, then two
    (11, 6, 4 * 6),  # four of a head's eleven queries, then four, then three
    (6, 11, 5),  # fewer scores than one query has
  ],
)
def test_blocks_of_any_length_equal_the_formula(monkeypatch, queries, keys, most, causal):
  monkeypatch.setattr(module, "SCORES_IN_CACHE", most)
  monkeypatch.setattr(module, "SCORES_IN_MEMORY", most)
  inputs = example(queries, keys)
  found = both(jax.jit(lambda *x: module.attention(*x, causal=causal)), inputs)
  wanted = both(lambda *x: plain(*x, causal), inputs)
  for ours, theirs in zip(found, wanted, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


def test_attention_to_one_key_is_its_value_whatever_the_queries_and_keys():
  layer = layers.Attention(6, 7, 2, 3, dtype=jnp.float32, rngs=nnx.Rngs(0))
  x = jnp.asarray(support.normal("attention", "x", (2, 5, 6)))
  context = jnp.asarray(support.normal("attention", "context", (2, 1, 7)))
  constant = both(layer, (x, context))
  # Of two equal keys each counts a half: the same sum, by way of queries, keys and a softmax.
  computed = both(lambda x, context: layer(x, context.repeat(2, axis=1)), (x, context))
  for ours, theirs in zip(constant, computed, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
  assert not constant[1].any()  # no gradient reaches the queries


def test_large_scores_do_not_overflow():
  inputs = example(4, 6, scale=1e4)
  for ours in both(module.attention, inputs):
    assert np.isfinite(ours).all()


@pytest.mark.parametrize("gradient", [False, True])
def test_long_sequences_never_hold_all_scores(gradient):
  inputs = [jax.ShapeDtypeStruct((1, 8192, 2, 8), jnp.float32)] * 3
  function = module.attention
  if gradient:
    function = jax.grad(lambda *x: jnp.square(module.attention(*x)).sum(), argnums=(0, 1, 2))
  memory = jax.jit(function).lower(*inputs).compile().memory_analysis()
  all_scores = 4 * 2 * 8192**2
  assert memory.temp_size_in_bytes < all_scores / 20
