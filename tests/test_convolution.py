"""Convolution is XLA's, however it is computed: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imx2mx_jax.models.convolution import convolution

SIDES = {"small pictures": (5, 4), "large pictures": (9, 11)}


@pytest.mark.parametrize("sides", SIDES.values(), ids=SIDES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), ((0, 1), (0, 1)), ((0, 0), (2, 1))], ids=str)
@pytest.mark.parametrize("in_loop", [False, True])
def test_values_and_gradients_equal_xlas(sides, stride, padding, in_loop):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((2, *sides, 3)), jnp.float32)
  kernel = jnp.asarray(rng.standard_normal((3, 3, 3, 4)), jnp.float32)

  def reference(x, kernel):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
      x, kernel, (stride, stride), padding, dimension_numbers=layout
    )

  def found(x, kernel):
    def step(carry, _):
      return carry, convolution(x, kernel, stride, padding)

    return jax.lax.scan(step, 0, length=1)[1][0] if in_loop else step(0, None)[1]

  weights = jnp.asarray(rng.standard_normal(reference(x, kernel).shape), jnp.float32)
  judged = lambda f: jax.value_and_grad(lambda x, k: (f(x, k) * weights).sum(), (0, 1))
  with jax.default_matmul_precision("highest"):
    wanted, got = (jax.jit(judged(f))(x, kernel) for f in (reference, found))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, wanted)


def test_a_kernel_of_one_cell_is_a_product():
  x, kernel = jnp.ones((1, 2, 3, 4)), jnp.full((1, 1, 4, 2), 0.5)
  np.testing.assert_array_equal(
    convolution(x, kernel, 1, ((0, 0), (0, 0))), jnp.full((1, 2, 3, 2), 2)
  )
