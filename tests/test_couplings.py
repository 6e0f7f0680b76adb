"""Combining the two models without training, and what is changed about distilling them."""

import dataclasses
import itertools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imx2mx_jax import couplings, diffusion, distill, optim
from imx2mx_jax.teachers import SCHEDULE

KEY = jax.random.key(0)
TAUS = diffusion.student_timesteps(999, 99, 100)


@dataclasses.dataclass(frozen=True)
class Follows:
  """A student that knows its pictures to be of unit size, and nothing else of them."""

  schedule: diffusion.StudentSchedule = diffusion.StudentSchedule()

  def predict(self, params, cond, zeta, tau):
    return zeta / (1 + self.schedule.sigma(tau) ** 2)


@dataclasses.dataclass(frozen=True)
class Picture:
  """A student whose parameters are the latents that it predicts."""

  schedule: diffusion.StudentSchedule = diffusion.StudentSchedule()

  def predict(self, params, cond, zeta, tau):
    return params["zeta0"]


@flax.struct.dataclass
class Wants:
  """A teacher that wants each view to have one value."""

  values: jax.Array
  text_scale: jax.Array

  def predict_noise(self, z_t, t, key_view):
    alpha, sigma = SCHEDULE.alpha_sigma(t)
    return (z_t - alpha * self.text_scale * self.values[:, None, None, None]) / sigma


RATE = optim.LearningRate.over(10, peak=0.1, final=0.1, warmup=1)
METHOD = distill.Method(Follows(), RATE, optim.optimizer(RATE, clip_norm=1e9), (4, 4))


def coupled(teacher, pull):
  zeta = 85 * jax.random.normal(KEY, (3, 8, 8, 4))
  found = couplings.coupled(METHOD, {}, teacher, None, zeta, KEY, taus=TAUS, pull=pull)
  return zeta, np.asarray(found)


def test_without_a_pull_the_student_samples_alone():
  zeta, found = coupled(Wants(jnp.array([3.0, -3.0]), jnp.float32(1)), 0.0)
  sigmas = Follows().schedule.sigmas
  for tau, after in itertools.pairwise(TAUS):
    zeta0 = zeta / (1 + sigmas[tau] ** 2)
    zeta = zeta + (sigmas[after] - sigmas[tau]) / sigmas[tau] * (zeta - zeta0)
  np.testing.assert_allclose(found, zeta / (1 + sigmas[TAUS[-1]] ** 2), rtol=1e-3, atol=1e-4)


def test_the_pull_brings_each_view_to_what_the_teacher_wants_and_leaves_the_reference():
  teacher = Wants(jnp.array([3.0, -3.0]), jnp.float32(1))
  (_, alone), (_, pulled) = (coupled(teacher, pull) for pull in (0.0, 0.5))
  assert pulled[1].mean() > alone[1].mean() + 0.5
  assert pulled[2].mean() < alone[2].mean() - 0.5
  np.testing.assert_allclose(pulled[0], alone[0], rtol=1e-4)


def test_all_of_the_way_the_views_are_what_the_teacher_wants_on_its_grid():
  teacher = Wants(jnp.array([3.0, -3.0]), jnp.float32(1))
  _, pulled = coupled(teacher, 1.0)
  shrunk = distill.align(METHOD, {}, jnp.asarray(pulled))
  wanted = jnp.broadcast_to(teacher.values[:, None, None, None], shrunk.shape)
  np.testing.assert_allclose(shrunk, wanted, atol=0.35)


def test_a_teacher_that_goes_over_the_views_leads_them_to_what_it_wants():
  teacher, z0 = Wants(jnp.array([3.0, -3.0]), jnp.float32(1)), jnp.zeros((2, 4, 4, 4))
  found = couplings.polished(teacher, z0, KEY, ts=diffusion.teacher_timesteps(0.4, 5))
  wanted = jnp.broadcast_to(teacher.values[:, None, None, None], z0.shape)
  np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_it_begins_at_its_share_of_the_timesteps():
  assert diffusion.teacher_timesteps(0.4, 4) == (400, 300, 200, 100)
  assert diffusion.teacher_timesteps(0.002, 5) == (2, 1)
  assert diffusion.teacher_timesteps(0.0, 5) == ()


@pytest.mark.parametrize("cross_view", [True, False])
def test_the_key_view_is_told_only_where_views_look_at_one(cross_view):
  told = []

  @flax.struct.dataclass
  class Listens:
    def predict_noise(self, z_t, t, key_view):
      told.append(key_view is not None)
      return jnp.zeros_like(z_t)

  z0 = jnp.ones((2, 2, 2, 4))
  couplings.polished(Listens(), z0, KEY, ts=(9, 5), cross_view=cross_view)
  assert told and set(told) == {cross_view}


def test_shared_scores_are_steins_variational_gradient():
  rng = np.random.default_rng(0)
  z0, scores = (rng.normal(size=(3, 2, 2, 4)).astype(np.float32) for _ in range(2))
  squares = np.square(z0[:, None] - z0[None]).sum(axis=(2, 3, 4))
  bandwidth = np.median(squares[~np.eye(3, dtype=bool)]) / np.log(3)
  wanted = np.zeros_like(z0)
  for i in range(3):
    for j in range(3):
      kernel = np.exp(-squares[i, j] / bandwidth)
      gradient = -2 / bandwidth * (z0[j] - z0[i]) * kernel  # of the kernel, by z0[j]
      wanted[i] += (kernel * scores[j] - gradient) / 3
  np.testing.assert_allclose(couplings.shared(z0, scores), wanted, rtol=1e-4, atol=1e-5)


def test_a_view_alone_keeps_its_own_score():
  scores = np.ones((1, 2, 2, 4), np.float32)
  np.testing.assert_allclose(couplings.shared(0 * scores, scores), scores)


def test_collaborative_views_move_to_what_the_text_adds():
  teacher = Wants(jnp.array([1.0, 1.0, 1.0]), jnp.float32(1))
  z0 = 0.1 * jax.random.normal(KEY, (3, 2, 2, 4))
  steps = {"iterations": 20, "rate": 0.05, "lowest": 50, "highest": 950}
  moved = couplings.collaborative(teacher, z0, KEY, **steps) - z0
  assert moved.mean() > 0.5 and (moved > 0).all()


def step(**changes):
  """One iteration from zero latents, whose teacher wants -2."""
  method = dataclasses.replace(METHOD, student=Picture(), **changes)
  zeros = jnp.zeros((3, 4, 4, 4))
  state = distill.init(method, {"zeta0": zeros}, {}, zeros, 500)
  drawn = distill.Draws(jnp.int32(500), jnp.int32(0), jnp.zeros((2, 4, 4, 4)))
  teacher = Wants(jnp.array([-2.0, -2.0]), jnp.float32(1))
  return method, *distill.distill_step(method, state, teacher, None, drawn)


def test_a_unit_difference_has_the_same_gradient_whatever_the_teachers_size():
  *_, plain = step()
  *_, unit = step(unit=True)
  size = 2 * 4 * 4 * 4
  assert float(unit.grad_norm) == pytest.approx(size**-0.5, rel=1e-4)
  assert float(plain.grad_norm) != pytest.approx(size**-0.5, rel=0.1)


def test_averaged_weights_lag_behind_and_take_the_students_steps():
  method, state, _ = step(average=0.75)
  own, average = (params["zeta0"] for params in (state.params["student"], state.average))
  assert np.abs(own[1:]).min() > 0
  np.testing.assert_allclose(average, 0.25 * own, rtol=1e-5)
  wanted = np.asarray(average)
  np.testing.assert_array_equal(
    distill.student_step(method, state, None, jnp.int32(400)).prediction, wanted
  )
  assert distill.sampling_weights(state) is state.average
  _, plain, _ = step()
  assert plain.average == {} and distill.sampling_weights(plain) is plain.params["student"]


@pytest.mark.parametrize(("tau", "highest"), [(999, 950), (500, 726), (0, 500), (940, 941)])
def test_the_upper_bound_falls_with_the_students_timestep_but_not_below_it(tau, highest):
  fall = 450 if tau != 940 else 900
  method = dataclasses.replace(METHOD, teacher_t_fall=fall)
  drawn = jax.vmap(lambda i: distill.draws(method, KEY, i, jnp.int32(tau), 2).t)(jnp.arange(400))
  assert min(tau, 950) <= drawn.min() and drawn.max() <= highest
  assert drawn.max() >= highest - 0.1 * max(highest - tau, 10)


def test_rescaled_guidance_is_no_wider_than_what_it_guides():
  rng = np.random.default_rng(0)
  guided, text = (rng.normal(size=(2, 4, 4, 4), scale=s).astype(np.float32) for s in (5, 1))
  found = diffusion.rescale(guided, text, 1.0)
  np.testing.assert_allclose(found.std((1, 2, 3)), text.std((1, 2, 3)), rtol=1e-4)
  half = diffusion.rescale(guided, text, 0.5)
  np.testing.assert_allclose(half, (found + guided) / 2, rtol=1e-4, atol=1e-5)
