"""Softmax attention behind one function.

Long sequences are computed a block of queries at a time. That is exact, as a query's softmax needs
its own scores only, and neither the result nor the gradient ever holds more than a block's scores.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from imx2mx_jax import sharding
from imx2mx_jax.shapes import Array, Float, Int

SCORES_IN_CACHE = 2**19
"""A block's scores on CPUs: two megabytes, which stay in the cache between their uses."""

FEW_QUERIES = 64
"""For each chip, below which all of them answer all queries: sharing costs more than it saves."""

SCORES_IN_MEMORY = 2**28
"""A block's scores elsewhere: a gigabyte, which keeps any device busy."""


@jax.named_scope("attention")
def attention(
  q: Float[Array, "B L n d"],
  k: Float[Array, "B M n d"],
  v: Float[Array, "B M n d"],
  *,
  causal: bool = False,
) -> Float[Array, "B L n d"]:
  """softmax(q k^T / sqrt(d)) v, softmax in float32. causal: query i sees the keys up to i.

  Chips that share an edit share the heads, else the rows, else the queries, whichever they divide.
  """
  chips = sharding.chips()
  if chips == 1 or causal:
    return _on_a_chip(q, k, v, causal=causal)
  if q.shape[2] % chips == 0:
    return _shared(q, k, v, "heads", "heads")
  if q.shape[0] % chips == 0:
    return _shared(q, k, v, "rows", "rows")
  if q.shape[1] < FEW_QUERIES * chips:
    return _on_a_chip(*(sharding.lay(x, "whole") for x in (q, k, v)))
  missing = -q.shape[1] % chips
  padded = jnp.pad(q, ((0, 0), (0, missing), (0, 0), (0, 0)))
  return _shared(padded, k, v, "tokens", "whole")[:, : q.shape[1]]


def _shared(q: Array, k: Array, v: Array, of_queries: str, of_keys: str) -> Array:
  """Every chip's part by itself."""
  q, k, v = (sharding.lay(x, y) for x, y in ((q, of_queries), (k, of_keys), (v, of_keys)))
  specs = [P(*sharding.ACTIVATIONS[name](q)) for name in (of_queries, of_keys, of_keys)]
  return jax.shard_map(
    _on_a_chip, in_specs=tuple(specs), out_specs=specs[0], axis_names={sharding.CHIPS}
  )(q, k, v)


def _on_a_chip(
  q: Float[Array, "B L n d"],
  k: Float[Array, "B M n d"],
  v: Float[Array, "B M n d"],
  *,
  causal: bool = False,
) -> Float[Array, "B L n d"]:
  heads = [x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3]) for x in (q, k, v)]
  if len(heads[0]) * q.shape[1] * k.shape[1] <= SCORES_IN_CACHE:
    y = _heads(*heads, look_up=_look_up, most=SCORES_IN_CACHE, causal=causal)
  else:
    # The gradient makes the scores again.
    blocks = functools.partial(_heads, look_up=jax.checkpoint(_look_up), causal=causal)
    y = jax.lax.platform_dependent(
      *heads,
      cpu=functools.partial(blocks, most=SCORES_IN_CACHE),
      default=functools.partial(blocks, most=SCORES_IN_MEMORY),
    )
  return y.reshape(q.shape[0], q.shape[2], *y.shape[1:]).swapaxes(1, 2)


def _heads(
  q: Float[Array, "Bn L d"],
  k: Float[Array, "Bn M d"],
  v: Float[Array, "Bn M d"],
  *,
  look_up: Callable,
  most: int,
  causal: bool,
) -> Float[Array, "Bn L d"]:
  """As many heads at once as have `most` scores together, or as many queries of one head."""
  queries, keys = q.shape[1], k.shape[1]

  def head(q: Float[Array, "L d"], k: Float[Array, "M d"], v: Float[Array, "M d"]):
    one = lambda q, place: look_up(q, k, v, place if causal else None)
    return _map(one, (q, jnp.arange(queries)), most // keys)

  return _map(head, (q, k, v), most // (queries * keys))


def _look_up(
  q: Float[Array, " d"],
  k: Float[Array, "M d"],
  v: Float[Array, "M d"],
  last: Int[Array, ""] | None,
) -> Float[Array, " d"]:
  """One query's answer from the keys up to the last one that it sees; None: from all."""
  scores = jnp.dot(q, k.T, preferred_element_type=jnp.float32) / q.shape[-1] ** 0.5
  if last is not None:
    scores = jnp.where(jnp.arange(len(k)) <= last, scores, -jnp.inf)
  weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max()))
  y = jnp.dot(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
  return (y / weights.sum()).astype(v.dtype)


def _map(f: Callable, xs: tuple[Array, ...], at_once: int) -> Array:
  """f of every row of the arrays, `at_once` of them (but at least one) together."""
  if at_once >= len(xs[0]):
    return jax.vmap(f)(*xs)
  return jax.lax.map(lambda x: f(*x), xs, batch_size=max(1, at_once))
