"""What holds for the arithmetic of diffusion, whatever the numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from imx2mx_jax import diffusion

STUDENT, TEACHER = diffusion.StudentSchedule(), diffusion.TeacherSchedule()


def draw(seed, shape=(3, 4, 5, 2)):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_student_levels_ascend_and_each_is_its_own_nearest():
  assert np.all(np.diff(STUDENT.sigmas) > 0)
  np.testing.assert_array_equal(STUDENT.nearest(jnp.asarray(STUDENT.sigmas)), np.arange(1000))


def test_between_two_levels_the_nearest_is_the_cleaner_one():
  schedule = diffusion.StudentSchedule(steps=3)
  schedule.__dict__["sigmas"] = np.float32([1, 2, 4])
  np.testing.assert_array_equal(schedule.nearest(jnp.float32([0, 1.5, 3, 9])), [0, 0, 1, 2])


def test_teacher_noising_preserves_variance():
  np.testing.assert_allclose(TEACHER.alphas**2 + TEACHER.sigmas**2, 1, atol=2e-7)


def test_tweedie_undoes_noising():
  z0, eps = draw(0), draw(1)
  alpha, sigma = TEACHER.alpha_sigma(jnp.asarray([0, 300, 999]))
  z_t = diffusion.add_noise(z0, eps, alpha, sigma)
  np.testing.assert_allclose(diffusion.predict_z0(z_t, eps, alpha, sigma), z0, atol=2e-5)


def test_v_means_the_noise_that_was_added():
  z0, eps = draw(0), draw(1)
  alpha, sigma = TEACHER.alpha_sigma(700)
  z_t, v = diffusion.add_noise(z0, eps, alpha, sigma), alpha * eps - sigma * z0
  np.testing.assert_allclose(diffusion.eps_from_v(v, z_t, alpha, sigma), eps, atol=1e-6)


def test_a_level_per_row_acts_on_its_row():
  z0, eps = draw(0), draw(1)
  together = diffusion.add_noise(z0, eps, jnp.float32([1, 2, 3]), jnp.float32([4, 5, 6]))
  for row in range(3):
    alone = diffusion.add_noise(z0[row], eps[row], row + 1.0, row + 4.0)
    np.testing.assert_allclose(together[row], alone, rtol=1e-6)


def test_guidance_of_one_is_the_conditional_prediction():
  text, image, none = draw(0), draw(1), draw(2)
  np.testing.assert_allclose(diffusion.guide(text, none, 1.0), text, atol=1e-6)
  np.testing.assert_allclose(diffusion.guide_text_image(text, image, none, 1, 1), text, atol=1e-6)


def test_without_an_image_branch_both_guidances_agree():
  text, none = draw(0), draw(1)
  ours = diffusion.guide_text_image(text, none, none, 7.5, 1.5)
  np.testing.assert_allclose(ours, diffusion.guide(text, none, 7.5), atol=1e-6)


def test_the_gradient_of_the_loss_is_score_distillations():
  z0, eps_hat, eps = draw(0), draw(1), draw(2)
  through_all = jax.grad(diffusion.sds_loss, argnums=(0, 1, 2))(z0, eps_hat, eps)
  np.testing.assert_allclose(through_all[0], (eps_hat - eps) / z0.size, rtol=1e-5)
  assert not np.any(through_all[1]) and not np.any(through_all[2])


def test_a_broken_teacher_shows_unless_the_authors_are_followed():
  z0, eps = draw(0), draw(1)
  broken = draw(2).at[0, 0, 0, 0].set(jnp.nan).at[1, 0, 0, 0].set(jnp.inf)
  assert not np.isfinite(diffusion.sds_loss(z0, broken, eps))
  gradient = jax.grad(lambda z: diffusion.sds_loss(z, broken, eps, authors=True))(z0)
  assert np.all(np.isfinite(gradient)) and gradient[0, 0, 0, 0] == gradient[1, 0, 0, 0] == 0


def test_the_students_first_latents_have_the_variance_of_the_noisiest_level():
  noisy = STUDENT.noised(draw(0, (4, 50, 50, 4)), draw(1, (4, 50, 50, 4)), 999)
  np.testing.assert_allclose(jnp.std(noisy), STUDENT.init_scale(), rtol=0.02)


def test_the_authors_noising_shrinks_with_the_noises_own_scale():
  zeta0, eps = jnp.zeros((2, 8, 8, 4)), draw(1, (2, 8, 8, 4))
  once = STUDENT.noised(zeta0, eps, 300, authors=True)
  np.testing.assert_allclose(STUDENT.noised(zeta0, 2 * eps, 300, authors=True), once / 2, rtol=1e-4)
  np.testing.assert_allclose(STUDENT.noised(zeta0, 2 * eps, 300), 2 * STUDENT.sigma(300) * eps)


def test_a_perfect_student_is_found_in_one_step():
  """With the true clean latents, an Euler step to sigma_next lands on that level's latents."""
  zeta0, eps = draw(0), draw(1)
  sigma, sigma_next = STUDENT.sigma(800), STUDENT.sigma(300)
  ours = diffusion.euler_step(zeta0 + sigma * eps, zeta0, sigma, sigma_next)
  np.testing.assert_allclose(ours, zeta0 + sigma_next * eps, atol=1e-4)


def test_a_network_that_names_the_noise_gives_the_clean_latents():
  zeta0, eps = draw(0), draw(1)
  sigma = jnp.float32([0.1, 3, 80])
  zeta = zeta0 + diffusion.rows(sigma, zeta0) * eps
  np.testing.assert_allclose(diffusion.predict_zeta0(zeta, eps, sigma), zeta0, atol=2e-5)


def test_the_networks_input_has_unit_variance_at_every_level():
  eps, sigma = draw(1, (3, 40, 40, 4)), jnp.float32([0.1, 3, 80])
  zeta = draw(0, (3, 40, 40, 4)) + diffusion.rows(sigma, eps) * eps
  deviation = jnp.std(diffusion.scale_input(zeta, sigma), axis=(1, 2, 3))
  np.testing.assert_allclose(deviation, 1, atol=0.05)


def test_the_accidental_noise_is_nothing_at_large_sigma_and_little_elsewhere():
  scale = diffusion.accidental_noise_scale(STUDENT.sigmas)
  assert np.all(scale[STUDENT.sigmas > 33] == 0) and scale.max() < 0.014 and np.any(scale > 0)


def test_an_ancestral_step_keeps_the_level_of_noise():
  """Down and up again: x0 plus noise of sigma becomes x0 plus noise of sigma_next."""
  shape = (1, 100, 100, 4)
  x0, eps, noise = draw(0, shape), draw(1, shape), draw(2, shape)
  stepped = diffusion.ancestral_step(x0 + 5.0 * eps, eps, noise, 5.0, 2.0)
  np.testing.assert_allclose(jnp.std(stepped - x0), 2.0, rtol=0.02)


def test_the_last_ancestral_step_adds_no_noise():
  x0, eps = draw(0), draw(1)
  stepped = diffusion.ancestral_step(x0 + 0.03 * eps, eps, draw(2), 0.03, 0.0)
  np.testing.assert_allclose(stepped, x0, atol=1e-6)


def test_student_timesteps_run_from_first_to_last():
  assert diffusion.student_timesteps(999, 25, 25)[:2] == (999, 974)
  for t_min, dt in ((0, 50), (25, 25), (500, 7)):
    timesteps = diffusion.student_timesteps(999, t_min, dt)
    assert timesteps[0] == 999 and timesteps[-1] == t_min
    assert np.all(np.diff(timesteps) < 0)


def test_the_first_timestep_gets_its_iterations_wherever_it_starts():
  assert diffusion.iterations_per_timestep((500, 300, 25), 9, 4) == (9, 4, 4)
  assert diffusion.iterations_per_timestep((500, 300, 25), 9, 4, authors=True) == (4, 4, 4)


@pytest.mark.parametrize("lower, shape_factor", [(0, 0.5), (500, 3.0), (949, 1.0)])
def test_quantiles_are_scipys(lower, shape_factor):
  u = np.linspace(0, 1, 33)
  wanted = scipy.stats.truncnorm.ppf(
    u, -shape_factor, 0, loc=950, scale=(950 - lower) / shape_factor
  )
  with jax.enable_x64(True):
    ours = diffusion.truncated_normal_ppf(jnp.asarray(u), lower, 950, shape_factor)
  np.testing.assert_allclose(ours, wanted, atol=1e-9)
  ours = diffusion.truncated_normal_ppf(jnp.asarray(u, jnp.float32), lower, 950, shape_factor)
  np.testing.assert_allclose(ours, wanted, atol=2e-3)


@pytest.mark.parametrize("rule", ["truncated_normal", "uniform"])
@pytest.mark.parametrize("tau", [0, 25, 600, 949])
def test_the_teachers_timestep_stays_within_its_bounds(rule, tau):
  extremes = jnp.asarray([0, 1e-7, 0.5, 1 - 2**-23, 1 - 2**-24], jnp.float32)
  t = jax.vmap(lambda u: diffusion.teacher_timestep(u, tau, rule))(extremes)
  low, high = (tau, 949) if rule == "truncated_normal" else (50, 950)
  assert t.min() == low and t.max() == high and np.all(np.diff(t) >= 0)


@pytest.mark.parametrize("tau", [950, 974, 999])
def test_above_the_bound_the_teachers_timestep_is_the_bound(tau):
  assert diffusion.teacher_timestep(jnp.float32(0.3), tau) == 950


def test_the_matched_timestep_is_the_students():
  assert diffusion.teacher_timestep(jnp.float32(0.3), 974, "matched") == 974


def test_an_unknown_rule_is_an_error():
  with pytest.raises(ValueError, match="'gaussian'"):
    diffusion.teacher_timestep(jnp.float32(0.3), 974, "gaussian")


def test_between_timesteps_the_teacher_has_the_noise_of_its_sampling():
  timesteps, ratios = TEACHER.euler_steps(7)
  for t, ratio in zip(timesteps, ratios, strict=False):
    alpha, sigma = TEACHER.alpha_sigma(jnp.float32(t))
    assert sigma / alpha == pytest.approx(ratio, rel=1e-5)
    assert alpha**2 + sigma**2 == pytest.approx(1, rel=1e-6)
  whole, exact = TEACHER.alpha_sigma(jnp.float32(300)), TEACHER.alpha_sigma(300)
  assert np.asarray(whole) == pytest.approx(np.asarray(exact), rel=1e-6)
