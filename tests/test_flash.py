"""Attention by kernels is attention; they are used where they can be and pay."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from imx2mx_jax import flops, sharding
from imx2mx_jax.models import attention as module
from imx2mx_jax.models import flash
from tests.test_attention import both, example, plain

by_formula = functools.partial(plain, causal=False)


def blank(queries, keys, width=64, dtype=jnp.bfloat16):
  lengths = queries, keys, keys
  return [jax.ShapeDtypeStruct((1, length, 2, width), dtype) for length in lengths]


def kernels_in(function, inputs, platform):
  """How many TPU kernels a function comes to on a platform, which need not be there."""
  lowered = jax.jit(function).trace(*inputs).lower(lowering_platforms=(platform,))
  return lowered.as_text().count("@tpu_custom_call")


def with_gradients(q, k, v):
  return both(module.attention, (q, k, v))


# Neither a multiple of any block; one query block and two of keys; nothing to pad.
@pytest.mark.parametrize(("queries", "keys"), [(130, 300), (700, 600), (256, 384)])
@pytest.mark.parametrize("most", [2816, 384])
def test_splash_equals_the_formula_at_any_length(queries, keys, most, monkeypatch):
  monkeypatch.setattr(flash, "MOST_KEYS", most)  # with fewer, q's gradient is a sum of parts
  inputs = example(queries, keys, scale=2.0)
  found = both(functools.partial(flash.splash, interpret=True), inputs)
  for ours, theirs in zip(found, both(by_formula, inputs), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("length", [5184, 6480, 1620])
def test_long_attention_becomes_a_kernel_on_tpus_and_so_does_its_gradient(length):
  assert kernels_in(module.attention, blank(length, length), "tpu") == 1
  assert kernels_in(with_gradients, blank(length, length), "tpu") == 2
  assert kernels_in(module.attention, blank(length, length), "cpu") == 0


@pytest.mark.parametrize(
  ("inputs", "causal"),
  [
    (blank(16384, 77), False),
    (blank(2048, 405), False),
    (blank(4096, 4096, width=160), False),
    (blank(2048, 2048), True),
  ],
)
def test_texts_few_cells_wide_heads_and_causal_attention_take_no_kernel(inputs, causal):
  attend = functools.partial(module.attention, causal=causal)
  assert kernels_in(attend, inputs, "tpu") == 0


@pytest.mark.parametrize(
  ("dtype", "platforms"), [(jnp.bfloat16, {"tpu", "cuda"}), (jnp.float32, {"tpu"})]
)
def test_gpus_with_cudnn_take_its_kernel_in_half_precision(monkeypatch, dtype, platforms):
  x = jnp.zeros((1, 1024, 2, 64), dtype)
  assert set(flash.kernels(x, x)) == {"tpu"}
  monkeypatch.setattr(flash, "_has_cudnn", lambda: True)
  assert set(flash.kernels(x, x)) == platforms


@pytest.mark.parametrize("width", [5, 8, 40])
def test_heads_are_padded_for_cudnn_and_scaled_by_their_own_width(width):
  inputs = [jnp.asarray(x) for x in np.random.default_rng(0).normal(size=(3, 2, 6, 3, width))]
  widths = []

  def kernel(q, k, v, scale):
    widths.append(q.shape[-1])
    return jax.nn.dot_product_attention(q, k, v, scale=scale, implementation="xla")

  found = both(functools.partial(flash.cudnn, kernel=kernel), inputs)
  for ours, theirs in zip(found, both(by_formula, inputs), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-5)
  assert widths == [-(-width // 8) * 8]


def test_a_kernel_under_a_mesh_equals_the_formula(monkeypatch):
  monkeypatch.setattr(module, "SCORES_IN_CACHE", 1)
  interpreted = functools.partial(flash.splash, interpret=True)
  kernels = lambda q, k: {"cpu": sharding.by_itself(interpreted)}
  monkeypatch.setattr(flash, "kernels", kernels)
  inputs = example(20, 30)
  with jax.set_mesh(sharding.make_mesh(1, 1)):
    found = jax.jit(with_gradients)(*inputs)
  for ours, theirs in zip(found, both(by_formula, inputs), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-5)


def test_an_axis_of_one_chip_that_is_left_to_the_compiler_hinders_no_kernel():
  mesh = sharding.make_mesh(1, 1)
  of_an_edit = jax.shard_map(
    module.attention,
    mesh=mesh,
    in_specs=P(),
    out_specs=P(),
    axis_names={sharding.EDIT},
    check_vma=False,
  )
  with jax.set_mesh(mesh):
    assert kernels_in(of_an_edit, blank(1024, 1024), "tpu") == 1


def test_chips_of_a_mesh_take_kernels_for_their_parts_only():
  mesh = jax.sharding.AbstractMesh((1, 4), (sharding.EDIT, sharding.CHIPS))
  found = []

  def look(q, k):
    found.append(set(flash.kernels(q, k)))
    return q

  q, k, _ = blank(4096, 4096)
  part = jax.shard_map(
    look, mesh=mesh, in_specs=P(), out_specs=P(), axis_names={sharding.CHIPS}, check_vma=False
  )
  with jax.sharding.use_abstract_mesh(mesh):
    jax.eval_shape(look, q, k)
    jax.eval_shape(part, q, k)
  assert found == [set(), {"tpu"}]


def test_devices_of_a_training_take_kernels_for_rows_that_they_divide():
  found = []

  def look(q, k):
    found.append(set(flash.kernels(q, k)))
    return q

  with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((8,), (sharding.DATA,))):
    for rows in (16, 3):
      x = jax.ShapeDtypeStruct((rows, 1024, 2, 64), jnp.bfloat16)
      jax.eval_shape(functools.partial(sharding.of_rows, look), x, x)
  assert found == [{"tpu"}, set()]


def test_operations_are_counted_as_if_there_were_no_kernel():
  assert flops.count(module.attention, *blank(2048, 1024)) == 2 * 2 * 2048 * 1024 * 2 * 64
