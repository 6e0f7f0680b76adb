"""The operations that are counted are those that one counts by hand."""

import types

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from imx2mx_jax import flops, sharding
from imx2mx_jax.models.layers import Attention, FeedForward, conv


def blank(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def of(make, *shapes):
  called = lambda *x: make(dtype=jnp.float32, rngs=nnx.Rngs(0))(*x)
  return flops.count(called, *[blank(*shape) for shape in shapes])


def test_a_convolution_counts_its_kernel_at_every_cell():
  found = of(lambda **k: conv(16, 24, stride=2, **k), (3, 20, 14, 16))
  assert found == 2 * 3 * 10 * 7 * 9 * 16 * 24


def test_attention_counts_four_layers_and_two_products():
  found = of(lambda **k: Attention(32, 20, 4, 8, **k), (2, 50, 32), (2, 7, 20))
  layers = 2 * 2 * (50 * 32 * 32 + 2 * 7 * 20 * 32 + 50 * 32 * 32)
  assert found == layers + 2 * 2 * 2 * 50 * 7 * 32


def test_feed_forward_counts_a_gate_as_wide_as_the_value():
  found = of(lambda **k: FeedForward(16, **k), (2, 5, 16))
  assert found == 2 * 2 * 5 * (16 * 128 + 64 * 16)


def test_a_loop_counts_as_often_as_it_runs():
  body = lambda carry, _: (carry @ carry, None)
  loop = lambda x: jax.lax.scan(body, x, length=7)[0]
  assert flops.count(loop, blank(8, 8)) == 7 * 2 * 8**3


def test_of_branches_the_dearest_counts():
  choose = lambda i, x: jax.lax.cond(i > 0, lambda: x @ x @ x, lambda: x @ x)
  assert flops.count(choose, jnp.int32(1), blank(8, 8)) == 2 * 2 * 8**3


def test_a_loop_of_unknown_length_counts_once():
  loop = lambda x: jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: x @ x, x)
  assert flops.count(loop, blank(8, 8)) == 2 * 8**3


def test_what_each_chip_does_counts_for_all():
  mesh = sharding.make_mesh(1, 1)
  part = jax.shard_map(lambda x: x @ x, mesh=mesh, in_specs=P(), out_specs=P())
  assert flops.count(part, blank(8, 8)) == 2 * 8**3
  wider = jax.sharding.AbstractMesh((1, 4), mesh.axis_names)
  part = jax.shard_map(
    lambda x: x @ x.T, mesh=wider, in_specs=P(None, "fsdp"), out_specs=P(), check_vma=False
  )
  assert flops.count(part, blank(8, 8)) == 2 * 8**3


@pytest.mark.parametrize(
  ("kind", "rate"), [("TPU v5 lite", 197), ("TPU v5p", 459), ("NVIDIA H100 80GB HBM3", 989)]
)
def test_devices_are_known_by_how_their_kind_begins(kind, rate):
  device = types.SimpleNamespace(device_kind=kind)
  assert flops.peak([device] * 3) == 3 * rate


def test_other_devices_have_no_known_peak():
  assert flops.peak([types.SimpleNamespace(device_kind="cpu")]) is None
