"""python -m benchmarks.gradient."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import gradient
from imx2mx_jax.shapes import Array, Float
from imx2mx_jax.teachers import SCHEDULE


@flax.struct.dataclass
class Wanting:
  """A teacher that takes every picture for a noised `wanted`."""

  wanted: Float[Array, "N h w 4"]

  def predict_noise(self, z_t, t, key_view=None):
    alpha, sigma = SCHEDULE.alpha_sigma(t)
    return (z_t - alpha * self.wanted) / sigma


def test_a_pull_is_the_way_from_the_truth_to_what_the_teacher_would_have():
  z0, wanted = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 4))
  found = gradient.pulls(Wanting(wanted), z0, jnp.int32(700), jax.random.key(1), draws=3)
  np.testing.assert_allclose(found, np.broadcast_to(z0 - wanted, found.shape), atol=1e-4)


def test_the_mean_pull_does_not_count_the_noise_of_few_draws():
  rng = np.random.default_rng(0)
  pull, spread = np.mean(
    [gradient.squares(0.5 + 2 * rng.standard_normal((4, 1, 8, 8, 4))) for _ in range(200)], axis=0
  )
  assert pull == pytest.approx(0.25, rel=0.1) and spread == pytest.approx(4, rel=0.02)


def test_an_answer_that_is_taken_for_the_mean_moves_all_the_way_and_one_that_stays_not_at_all():
  answers = jax.random.normal(jax.random.key(0), (5, 3, 4, 4, 4))
  found = answers - answers.mean(axis=0)
  assert gradient.toward_mean(np.asarray(found)[:, None], answers) == pytest.approx(1, abs=1e-5)
  assert gradient.toward_mean(np.asarray(0 * found)[:, None], answers) == 0


def test_the_table_is_printed_for_true_edits(capsys, monkeypatch):
  monkeypatch.setattr(gradient, "TIMESTEPS", (900,))
  monkeypatch.setattr(gradient, "DRAWS", 4)
  assert gradient.main(["gradient", "--scenes=1"]) == 0
  _, head, _, line = capsys.readouterr().out.splitlines()
  plain, *_, most = [float(cell.split()[0]) for cell in line.strip("| ").split(" | ")[1:]]
  assert head.count("|") == line.count("|") and plain < most


def test_right_answers_move_further_to_their_mean_where_noise_hides_more(capsys, monkeypatch):
  monkeypatch.setattr(gradient, "TIMESTEPS", (950, 200))
  assert gradient.main(["gradient", "--scenes=1", "--ambiguous", "--guidance=1"]) == 0
  *_, high, low = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
  assert float(high[1]) > float(low[1])
