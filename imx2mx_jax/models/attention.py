"""Softmax attention behind one function.

Long sequences are computed by the platform's kernel (flash.py), where it has one for them, else a
block of queries at a time. That is exact, as a query's softmax needs its own scores only, and
neither the result nor the gradient ever holds more than a block's scores.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from imx2mx_jax import sharding
from imx2mx_jax.models import flash
from imx2mx_jax.shapes import Array, Float, Int

SCORES_IN_CACHE = 2**19
"""A block's scores on CPUs: two megabytes, which stay in the cache between their uses."""

FEW_QUERIES = 64
"""For each chip, below which all of them answer all queries: sharing costs more than it saves."""

SCORES_IN_MEMORY = 2**28
"""A block's scores elsewhere: a gigabyte, which keeps any device busy."""


def shared_attention(
  q: Float[Array, "B L D"],
  k: Float[Array, "B M D"],
  v: Float[Array, "B M D"],
  heads: int,
  *,
  causal: bool = False,
) -> Float[Array, "B L D"]:
  """`attention` of heads that lie side by side, shared by the chips of an edit or of a training.

  They share the heads, else the rows, else the queries, whichever they divide.
  """
  chips = sharding.chips()
  apart = lambda x: x.reshape(*x.shape[:2], heads, -1)
  if chips == 1:
    attend = functools.partial(attention, causal=causal)
    return sharding.of_rows(attend, apart(q), apart(k), apart(v)).reshape(q.shape)
  of_queries, of_keys = _layouts(q.shape[0], q.shape[1], heads, chips, causal)
  missing = -q.shape[1] % chips if of_queries == "tokens" else 0
  padded = jnp.pad(q, ((0, 0), (0, missing), (0, 0)))

  # Laid out before heads are told apart: so it is done in one step, in the gradient too.
  laid = [sharding.lay(x, how) for x, how in ((padded, of_queries), (k, of_keys), (v, of_keys))]
  split = [apart(x) for x in laid]
  if of_queries == "whole":
    y = attention(*split, causal=causal)
  else:
    named = {"channels": "heads"}
    specs = [sharding.spec(named.get(how, how), 4) for how in (of_queries, of_keys, of_keys)]
    on_a_chip = functools.partial(attention, causal=causal)
    y = sharding.on_chips(on_a_chip, tuple(specs), specs[0])(*split)
  return sharding.lay(y.reshape(padded.shape), of_queries)[:, : q.shape[1]]


def _layouts(rows: int, queries: int, heads: int, chips: int, causal: bool) -> tuple[str, str]:
  """How queries and how keys and values are laid out."""
  if heads % chips == 0:
    return "channels", "channels"
  if rows % chips == 0:
    return "rows", "rows"
  if causal or queries < FEW_QUERIES * chips:
    return "whole", "whole"
  return "tokens", "whole"


@jax.named_scope("attention")
def attention(
  q: Float[Array, "B L n d"],
  k: Float[Array, "B M n d"],
  v: Float[Array, "B M n d"],
  *,
  causal: bool = False,
) -> Float[Array, "B L n d"]:
  """softmax(q k^T / sqrt(d)) v, softmax in float32. causal: query i sees the keys up to i."""
  if q.shape[0] * q.shape[2] * q.shape[1] * k.shape[1] <= SCORES_IN_CACHE:
    return _in_blocks(q, k, v, look_up=_look_up, most=SCORES_IN_CACHE, causal=causal)
  # The gradient makes the scores again.
  blocks = functools.partial(_in_blocks, look_up=jax.checkpoint(_look_up), causal=causal)
  platforms = {"cpu": functools.partial(blocks, most=SCORES_IN_CACHE)}
  if not causal:
    platforms |= flash.kernels(q, k)
  elsewhere = functools.partial(blocks, most=SCORES_IN_MEMORY)
  return jax.lax.platform_dependent(q, k, v, default=elsewhere, **platforms)


def _in_blocks(
  q: Float[Array, "B L n d"], k: Float[Array, "B M n d"], v: Float[Array, "B M n d"], **how: Any
) -> Float[Array, "B L n d"]:
  """`_heads` of the heads of all rows."""
  y = _heads(*[x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3]) for x in (q, k, v)], **how)
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
