"""The student's conditioning, denoiser and Euler step equal the reference's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imx2mx_jax import diffusion, students
from imx2mx_jax.models.network import Network
from tests.golden import method, support

pytestmark = pytest.mark.golden


@support.cases("denoiser_euler")
def test_conditioning_is_laid_out_as_the_reference_s(case):
  cond = method.conditioning(case)
  method.check_layout(case, "c", cond)
  method.check_layout(case, "uc", cond.without_input())


@support.cases("denoiser_euler")
def test_initial_latents_and_noising_equal_the_reference(case):
  schedule = diffusion.StudentSchedule()
  init = case.input("init_noise") * schedule.init_scale()
  rtol = case.tolerance("init_latent_rtol")
  support.assert_close(init, case.tensor("init_latent"), rtol=rtol, what="init_latent")
  noised = schedule.noised(case.input("student_z0"), case.input("student_eps"), 300, authors=True)
  atol = case.tolerance("student_noised_atol")
  support.assert_close(noised, case.tensor("student_noised"), atol=atol, what="student_noised")


@support.cases("denoiser_euler")
def test_denoiser_equals_the_reference_at_levels_off_the_grid(case):
  student, network = method.student(case)
  zeta = jnp.asarray(support.nhwc(case.input("x")))
  index = student.schedule.nearest(case.input("sigma"))
  np.testing.assert_array_equal(index, case.tensor("denoiser.index"))
  sigma = np.asarray(student.schedule.sigma(index))
  rtol = case.tolerance("quantised_sigma_rel")
  support.assert_close(sigma, case.tensor("denoiser.quantised_sigma"), rtol=rtol, what="sigma")

  @jax.jit
  def run(network, cond):
    replaced = students.replace_clean(zeta, cond)
    inputs = student.inputs(cond, replaced, index)
    output = network(*inputs, frames=len(zeta))
    return inputs[0][..., :4], output, student.predict(network.params, cond, zeta, index)

  cond = method.conditioning(case)
  seen, output, denoised = run(network, cond)
  atol = case.tolerance("network_atol")
  check(case, "denoiser.network_input", seen, atol)
  check(case, "denoiser.network_output", output, atol)
  check(case, "denoiser.denoised", denoised, by_level(case, "denoised", sigma))
  # With the mask in the network's input but nothing to replace the latents by.
  inputs = student.inputs(cond, zeta, index)
  output = jax.jit(Network.__call__, static_argnames="frames")(network, *inputs, frames=len(zeta))
  free = diffusion.predict_zeta0(zeta, output, sigma)
  atol = by_level(case, "denoised_without_replace", sigma)
  check(case, "denoiser.denoised_without_replace", free, atol)


@support.cases("denoiser_euler")
def test_prediction_and_euler_step_equal_the_reference(case):
  student, network = method.student(case)
  cond = method.conditioning(case)

  @jax.jit
  def run(params, zeta, noise, tau, tau_next):
    sigma, sigma_next = student.schedule.sigma(tau), student.schedule.sigma(tau_next)
    zeta0 = student.predict(params, cond, zeta, tau)
    eps = (students.replace_clean(zeta, cond) - zeta0) / sigma
    noised = zeta + noise
    noised0 = student.predict(params, cond, noised, tau)
    return eps, zeta0, noised0, diffusion.euler_step(noised, noised0, sigma, sigma_next)

  for step in case["steps"]:
    i, tau, tau_next = step["index"], step["t"], step["t_next"]
    sigma = student.schedule.sigmas[tau]
    scale = diffusion.accidental_noise_scale(sigma)
    assert abs(scale - step["noise_scale_float32"]) <= 1e-9
    zeta = support.nhwc(case.input(f"latent.{i}"))
    noise = support.nhwc(case.input(step["noise"])) * scale
    eps, zeta0, noised0, after = run(network.params, zeta, noise, tau, tau_next)
    check(case, f"pred_eps.{i}", eps, case.tolerance("pred_eps_atol"))
    check(case, f"pred_z0.{i}", zeta0, by_level(case, "pred_z0", sigma))
    check(case, f"output_frames.{i}", zeta0[1:], by_level(case, "output_frames", sigma))
    check(case, f"euler_z0.{i}", noised0, by_level(case, "euler_z0", sigma))
    check(case, f"euler_latent.{i}", after, by_level(case, "euler_latent", sigma))


def by_level(case, quantity: str, sigma) -> float:
  return case.tolerance(f"{quantity}_atol_times_1_plus_sigma") * (1 + float(np.max(sigma)))


def check(case, key: str, ours, atol: float):
  wanted = case.tensor(key)
  support.assert_close(support.nchw(ours), wanted, atol=atol, what=f"{case.name}: {key}")
