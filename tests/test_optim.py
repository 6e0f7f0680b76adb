"""What holds for the optimizer and its learning rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imx2mx_jax import optim

RATE = optim.LearningRate.over(2150, peak=1e-4, final=5e-5, warmup=200)
PARAMS = {"a/kernel": jnp.ones((2, 3)), "a/bias": jnp.ones(3)}


def constant(rate):
  return optim.LearningRate(peak=rate, final=rate, warmup=0, decay=0, start=rate)


def test_the_rate_warms_up_and_ends_with_the_run():
  rates = RATE(jnp.arange(2150))
  assert np.argmax(rates) in (199, 200) and rates[0] == pytest.approx(1e-4 / 200)
  np.testing.assert_allclose(rates[199], 1e-4, rtol=1e-6)
  np.testing.assert_allclose(rates[-1], 5e-5, rtol=1e-6)
  assert np.all(np.diff(rates[:200]) > 0) and np.all(np.diff(rates[200:]) <= 0)
  assert rates[-2] > rates[-1]


def test_the_authors_rate_is_constant_for_the_last_150_iterations():
  rate = optim.LearningRate.authors(25, 50, peak=1e-4, final=5e-5, warmup=200)
  rates = rate(jnp.arange(2150))
  assert rates[0] == pytest.approx(1e-9) and rates[1999] > 5e-5
  np.testing.assert_allclose(rates[2000:], 5e-5, rtol=1e-6)


@pytest.mark.parametrize("total, warmup", [(1, 0), (1, 1), (5, 0), (5, 1), (5, 4), (5, 5), (5, 9)])
def test_short_runs_have_positive_rates_too(total, warmup):
  rate = optim.LearningRate.over(total, peak=1.0, final=0.5, warmup=warmup)
  rates = rate(jnp.arange(total))
  assert np.all(np.isfinite(rates)) and np.all(rates > 0) and np.all(rates <= 1)


def test_the_rate_is_the_same_traced_or_not():
  steps = (0, 1, 199, 200, 2149, 5000)
  compiled = jax.jit(RATE)
  for step in steps:
    np.testing.assert_allclose(compiled(step), RATE(step), rtol=1e-6)


def test_clipping_keeps_the_direction_and_reports_the_norm_before_it():
  clip = optim.clip_by_global_norm(0.5)
  gradients = {"a": jnp.float32([3.0]), "b": jnp.float32([[0.0, 4.0]])}
  clipped, state = clip.update(gradients, clip.init(gradients))
  assert state.norm == 5
  np.testing.assert_allclose(clipped["a"], [0.3], rtol=1e-6)
  np.testing.assert_allclose(clipped["b"], [[0.0, 0.4]], rtol=1e-6)


def test_small_gradients_are_not_clipped():
  clip = optim.clip_by_global_norm(0.5)
  gradients = {"a": jnp.float32([0.3]), "b": jnp.zeros(2)}
  clipped, state = clip.update(gradients, clip.init(gradients))
  assert state.norm == pytest.approx(0.3)
  np.testing.assert_array_equal(clipped["a"], gradients["a"])
  nothing, state = clip.update(jax.tree.map(jnp.zeros_like, gradients), state)
  assert state.norm == 0 and not np.any(nothing["a"])


def test_the_optimizer_reports_the_norm_of_the_last_gradient():
  tx = optim.optimizer(RATE)
  state = tx.init(PARAMS)
  for factor in (1.0, 7.0):
    gradients = jax.tree.map(lambda p, f=factor: f * p, PARAMS)
    _, state = tx.update(gradients, state, PARAMS)
    np.testing.assert_allclose(optim.gradient_norm(state), factor * 3, rtol=1e-6)


@pytest.mark.parametrize("authors", [False, True])
def test_only_the_authors_decay_biases(authors):
  tx = optim.optimizer(constant(0.1), weight_decay=0.5, authors=authors)
  nothing = jax.tree.map(jnp.zeros_like, PARAMS)
  updates, _ = tx.update(nothing, tx.init(PARAMS), PARAMS)
  np.testing.assert_allclose(updates["a/kernel"], -0.05, rtol=1e-6)
  np.testing.assert_allclose(updates["a/bias"], -0.05 if authors else 0, rtol=1e-6)


def test_updates_are_adamws_of_the_clipped_gradient():
  """Against the formulas: moments, bias correction, decoupled decay."""
  rate, decay = 0.01, 0.1
  tx = optim.optimizer(constant(rate), weight_decay=decay, authors=True)
  p = m = v = np.float64(2.0)
  m = v = np.float64(0.0)
  params = {"p": jnp.float32(p)}
  state = tx.init(params)
  for step, g in enumerate((3.0, -0.2, 0.4), start=1):
    updates, state = tx.update({"p": jnp.float32(g)}, state, params)
    params = optax.apply_updates(params, updates)
    g *= min(1, 0.5 / abs(g))
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    p = p * (1 - rate * decay) - rate * (m / (1 - 0.9**step)) / (
      np.sqrt(v / (1 - 0.999**step)) + 1e-8
    )
    np.testing.assert_allclose(params["p"], p, rtol=2e-6)


def test_muon_levels_a_kernels_singular_values_and_leaves_vectors_to_adam():
  draw = np.random.default_rng(0).standard_normal
  params = {"conv/kernel": jnp.zeros((3, 3, 4, 8)), "norm/scale": jnp.zeros(8)}
  gradient = {name: jnp.float32(draw(leaf.shape)) for name, leaf in params.items()}
  spread, steps = {}, {}
  for muon in (True, False):
    rule = optim.optimizer(constant(0.1), clip_norm=1e9, weight_decay=0.0, muon=muon)
    steps[muon] = rule.update(gradient, rule.init(params), params)[0]
    singular = np.linalg.svd(steps[muon]["conv/kernel"].reshape(36, 8), compute_uv=False)
    spread[muon] = singular.max() / singular.min()
  assert spread[True] < 1.7 < 2 < spread[False]
  assert np.sqrt(np.mean(steps[True]["conv/kernel"] ** 2)) == pytest.approx(0.2 * 0.1, rel=0.1)
  np.testing.assert_allclose(np.abs(steps[True]["norm/scale"]), 0.147, rtol=0.01)  # by Nesterov


def test_muons_steps_are_the_same_for_kernels_of_one_shape_and_of_several():
  draw = np.random.default_rng(0).standard_normal
  shapes = {"a/kernel": (3, 3, 4, 8), "b/kernel": (3, 3, 4, 8), "c/kernel": (4, 8), "d/bias": (8,)}
  params = {path: jnp.float32(draw(shape)) for path, shape in shapes.items()}
  gradient = {path: jnp.float32(draw(shape)) for path, shape in shapes.items()}
  rule = optim.optimizer(constant(0.1), clip_norm=1e9, muon=True)
  together, _ = rule.update(gradient, rule.init(params), params)
  assert together.keys() == params.keys()
  for path in params:
    alone = {path: params[path]}
    step, _ = rule.update({path: gradient[path]}, rule.init(alone), alone)
    np.testing.assert_allclose(together[path], step[path], rtol=1e-3, atol=1e-6)
