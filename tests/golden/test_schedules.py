"""Noise schedules, student timesteps, learning rate (golden section 7)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imx2mx_jax import diffusion, optim
from tests.golden.support import assert_close, single

pytestmark = pytest.mark.golden

STUDENT, TEACHER = diffusion.StudentSchedule(), diffusion.TeacherSchedule()


@pytest.fixture(scope="module")
def case():
  return single("schedules")


def test_student_sigmas(case):
  rtol = case.tolerance("sigmas_rtol")
  assert_close(STUDENT.sigmas, case.tensor("seva_sigmas"), rtol=rtol)
  assert_close(STUDENT.init_scale(), np.float64(case["init_latent"]["scale"]), rtol=rtol)
  indices = case.tensor("idx_to_sigma.index")
  assert_close(STUDENT.sigma(jnp.asarray(indices)), case.tensor("idx_to_sigma.sigma"), rtol=rtol)


def test_student_sampling_sigmas(case):
  names = [name for name in case.stored if name.startswith("seva_sigmas_sampling_")]
  assert names
  for name in names:
    timesteps = diffusion.sampling_timesteps(int(name.rpartition("_")[2]))
    ours = np.append(STUDENT.sigmas[list(timesteps)], 0)
    assert_close(ours, case.tensor(name), rtol=case.tolerance("sigmas_rtol"), what=name)


def test_nearest_index_of_a_sigma(case):
  """A query within 1e-6 (relative) of the middle of two levels may go either way."""
  query, wanted = case.tensor("sigma_to_idx.query"), case.tensor("sigma_to_idx.index")
  ours = np.asarray(STUDENT.nearest(jnp.asarray(query)))
  distance = lambda index: np.abs(STUDENT.sigmas[index].astype(np.float64) - query)
  tie = np.abs(distance(ours) - distance(wanted)) <= 2e-6 * query
  assert np.all((ours == wanted) | (tie & (np.abs(ours - wanted) == 1)))


def test_teacher_schedule(case):
  rtol = case.tolerance("alphas_rtol")
  assert_close(TEACHER.alphas_cumprod, case.tensor("sd15_alphas_cumprod"), rtol=rtol)
  assert_close(TEACHER.alphas, case.tensor("sd15_alpha"), rtol=rtol)
  assert_close(TEACHER.sigmas, case.tensor("sd15_sigma"), rtol=rtol)


def test_student_timesteps(case):
  for setting in case["timesteps"]:
    asked = setting["t_max"], setting["t_min"], setting["distill_dt"]
    timesteps = diffusion.student_timesteps(*asked)
    assert list(timesteps) == setting["timesteps"], asked
    iterations = diffusion.iterations_per_timestep(
      timesteps, setting["n_initial"], setting["n_per"], authors=True
    )
    assert list(iterations) == setting["iterations"], asked
    assert sum(iterations) == setting["total"], asked


def test_learning_rate(case):
  for index, setting in enumerate(case["lr"]):
    config = setting["config"]
    given = {"start": config["min_lr"]} if "min_lr" in config else {}
    rate = optim.LearningRate.authors(
      config["distill_dt"],
      config["n_distill_per_timestep"],
      peak=config["lr"],
      final=config["final_lr"],
      warmup=config["n_warmup_steps"],
      **given,
    )
    assert rate.decay == setting["decay_steps"]
    wanted = case.tensor(f"lr.{index}.lr")
    with jax.enable_x64(True):
      ours = np.asarray(rate(jnp.arange(len(wanted))))
    assert_close(ours, wanted, rtol=case.tolerance("lr_rtol"), what=f"lr.{index}")
    multiplier = case.tensor(f"lr.{index}.multiplier")
    assert_close(ours / rate.peak, multiplier, rtol=case.tolerance("lr_rtol"), what=f"lr.{index}")
