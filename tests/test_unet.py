"""What random cross-view attention computes, and what it does not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from imx2mx_jax.models import unet
from imx2mx_jax.models.network import initialise
from tests.golden import support

BRANCHES, VIEWS = 3, 4
SHAPE = unet.UNetShape(
  in_channels=4,
  channels=(8, 16),
  layers=1,
  down_attention=(False, True),
  up_attention=(True, False),
  heads=(2, 2),
  context_width=6,
  groups=4,
)


@functools.cache
def example():
  network = initialise(unet.UNet, SHAPE, seed=0)
  sample, context = (
    jnp.asarray(support.normal("unet", name, (BRANCHES * VIEWS, *size)))
    for name, size in (("sample", (4, 4, 4)), ("context", (5, 6)))
  )
  return network, sample, context


@jax.jit
def predict(network, sample, context, key_view):
  y = network(sample, jnp.asarray(500), context, key_view=key_view, views=VIEWS)
  return y.reshape(BRANCHES, VIEWS, *y.shape[1:])


def test_the_key_view_reaches_every_view_of_its_own_branch_only():
  network, sample, context = example()
  key_view, branch = 2, 1
  row = branch * VIEWS + key_view
  before = predict(network, sample, context, key_view)
  after = predict(network, sample.at[row].add(1), context, key_view)
  changed = np.abs(after - before).max(axis=(2, 3, 4)) > 1e-4
  assert changed[branch].all()
  assert not np.delete(changed, branch, axis=0).any()


def test_any_other_view_changes_itself_only():
  network, sample, context = example()
  before = predict(network, sample, context, 2)
  after = predict(network, sample.at[0].add(1), context, 2)
  changed = np.abs(after - before).max(axis=(2, 3, 4)) > 1e-4
  assert changed[0, 0] and changed.sum() == 1


def test_keys_and_values_are_computed_once_for_each_branch():
  network, sample, context = example()
  module = network.module
  with support.record(module, ".*/attn1/[qkv]") as projected:
    jax.eval_shape(
      lambda: module(sample, jnp.asarray(5), context, key_view=jnp.asarray(0), views=VIEWS)
    )
  rows = {path[-1]: y.shape[0] * y.shape[1] for path, y in projected.items() if "mid" in path}
  assert rows["k"] == rows["v"] == BRANCHES * 4
  assert rows["q"] == VIEWS * rows["k"]


def test_a_branch_answers_to_one_text_as_if_each_of_its_rows_had_it():
  network, sample, context = example()
  texts = context[::VIEWS]
  shared = predict(network, sample, texts, 2)
  repeated = predict(network, sample, texts.repeat(VIEWS, axis=0), 2)
  np.testing.assert_allclose(shared, repeated, atol=1e-6)
  module = network.module
  with support.record(module, ".*/attn2/[kv]") as projected:
    jax.eval_shape(lambda: module(sample, jnp.asarray(5), texts))
  assert {y.shape[0] for y in projected.values()} == {BRANCHES}


def test_with_extended_attention_every_view_of_a_branch_looks_at_all_of_them():
  network, sample, context = example()

  @jax.jit
  def predict(sample):
    y = network(sample, jnp.asarray(500), context, views=VIEWS, all_views=True)
    return y.reshape(BRANCHES, VIEWS, *y.shape[1:])

  before, branch = predict(sample), 1
  for view in (0, 3):
    after = predict(sample.at[branch * VIEWS + view].add(1))
    changed = np.abs(after - before).max(axis=(2, 3, 4)) > 1e-5
    assert changed[branch].all() and changed.sum() == VIEWS
