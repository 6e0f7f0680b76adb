"""One attention layer with random cross-view attention equals the authors' processor."""

import functools

import jax
import jax.numpy as jnp
import pytest

from convert_weights.names import Table
from convert_weights.tables import unet as table
from imx2mx_jax.models.layers import Attention
from imx2mx_jax.models.unet import CrossView, cross_view_attention
from tests.golden import support

pytestmark = pytest.mark.golden


class Layer(Attention):
  def __init__(self, shape: tuple[int, ...], *, rngs):
    super().__init__(*shape, dtype=jnp.float32, rngs=rngs)


def build(case: support.Case) -> Layer:
  width, context = case["query_dim"], case["context"]
  shape = (width, context["dim"] if context else width, case["heads"], case["dim_head"])
  return case.network(Layer, shape, [Table(table.attention("", ""))]).module


@functools.partial(jax.jit, static_argnames="views")
def run(layer: Layer, x, context, cotangent, *, key_view=None, views: int) -> dict:
  """Self-attention across views; attention to a separate context knows nothing of views."""
  cross_view = None if key_view is None else CrossView(key_view, views)

  def attend(x):
    return cross_view_attention(layer, x, cross_view) if context is None else layer(x, context)

  output, pull_back = jax.vjp(attend, x)
  return {"output": output, "grad_x": pull_back(cotangent)[0]}


@support.cases("rcvattn")
def test_outputs_and_gradients_equal_the_reference(case):
  layer = build(case)
  for spec in case["cases"]:
    x, cotangent = (jnp.asarray(case.input(spec[key])) for key in ("input", "cotangent"))
    context = spec["context"] and jnp.asarray(case.input(spec["context"]))
    for key_view in (None, *spec["key_frames"]):
      views, tag = spec["N"], "absent" if key_view is None else key_view
      results = run(layer, x, context, cotangent, key_view=key_view, views=views)
      for quantity, ours in results.items():
        key = f"{quantity}.{views}.{tag}"
        if key not in case["tensors"]:  # ordinary attention comes without its gradient
          continue
        support.assert_close(
          ours,
          case.tensor(key),
          atol=case.tolerance("atol"),
          rtol=case.tolerance("rtol"),
          what=f"{case.name}: {key}",
        )
