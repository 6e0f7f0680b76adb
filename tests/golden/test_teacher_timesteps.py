"""The distribution of the teacher's timestep given the student's (golden section 8)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imx2mx_jax import diffusion
from tests.golden.support import assert_close, single

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def case():
  return single("teacher_timesteps")


def settings(case, *, degenerate: bool):
  found = [
    (index, item) for index, item in enumerate(case["cases"]) if item["degenerate"] == degenerate
  ]
  assert found
  return found


def test_quantiles(case):
  for index, setting in settings(case, degenerate=False):
    wanted, integers = case.tensor(f"case{index}.ppf"), case.tensor(f"case{index}.int")
    with jax.enable_x64(True):
      u = jnp.asarray(case.tensor("uniforms"))
      arguments = setting["lower"], setting["upper"], setting["shape_factor"]
      ours = np.asarray(diffusion.truncated_normal_ppf(u, *arguments))
    assert_close(ours, wanted, rtol=case.tolerance("ppf_rtol"), what=f"case {index}")
    clear = np.abs(wanted - np.round(wanted)) > 1e-6
    assert np.array_equal(np.trunc(ours)[clear], integers[clear]), f"case {index}"


def test_a_student_above_the_bound_gets_the_bound(case):
  for index, setting in settings(case, degenerate=True):
    draws = {int(t) for t in draw(jnp.linspace(0, 0.999, 7), setting)}
    assert draws == set(setting["values"]), f"case {index}"


def test_draws_follow_the_distribution(case):
  """Two samples, ours in float32, by chi-square; bins with hardly a count are left out."""
  key = jax.random.key(0)
  for index, setting in settings(case, degenerate=False):
    wanted = case.tensor(f"case{index}.histogram").astype(np.float64)
    u = jax.random.uniform(jax.random.fold_in(key, index), [int(wanted.sum())])
    ours = np.bincount(draw(u, setting), minlength=len(wanted)).astype(np.float64)
    assert len(ours) == len(wanted) and ours.sum() == wanted.sum()
    used = ours + wanted > 20
    chi = np.sum((ours - wanted)[used] ** 2 / (ours + wanted)[used]) / max(used.sum() - 1, 1)
    assert chi < 1.6, f"case {index}: chi-square {chi:.2f} per degree of freedom"


@functools.partial(jax.jit, static_argnames=["highest", "shape_factor"])
def compiled(u, tau, highest, shape_factor):
  one = functools.partial(diffusion.teacher_timestep, highest=highest, shape_factor=shape_factor)
  return jax.vmap(one, in_axes=(0, None))(u, tau)


def draw(u, setting):
  return compiled(u, setting["lower"], setting["upper"], setting["shape_factor"])
