"""The reference edit equals InstructPix2Pix's own sampling loop."""

import jax
import numpy as np
import pytest

from imx2mx_jax import teachers
from tests.golden import method, support

pytestmark = pytest.mark.golden


@support.cases("reference_edit")
def test_schedule_of_the_sampler_is_the_released_one(case):
  timesteps, sigmas = teachers.SCHEDULE.euler_steps(case["num_steps"])
  atol, rtol = case.tolerance("timesteps_atol"), case.tolerance("sigmas_rtol")
  support.assert_close(timesteps, case.tensor("timesteps"), atol=atol, what="timesteps")
  support.assert_close(sigmas, case.tensor("sigmas"), rtol=rtol, what="sigmas")
  assert abs(sigmas[0] / case["init_noise_sigma"] - 1) < rtol


@support.cases("reference_edit")
def test_every_latent_on_the_way_equals_the_reference(case):
  teacher = method.teacher(case)
  noise = support.nhwc(np.stack([case.input(name) for name in case["step_noise"]]))
  latents = jax.jit(teachers.edit_views)(teacher, support.nhwc(case.input("init_noise")), noise)
  for i, latent in enumerate(latents):
    error = support.rel_l2(support.nchw(latent), case.tensor(f"latent.{i}"))
    assert error <= case.tolerance("latent_rel_l2"), f"{case.name}: latent.{i}: {error:.1e}"
  error = support.rel_l2(support.nchw(latents[-1]), case.tensor("output"))
  assert error <= case.tolerance("latent_rel_l2"), f"{case.name}: output: {error:.1e}"
