"""The background's equality on pictures whose differences are known."""

import numpy as np
import pytest

from imx2mx_jax.metrics.background import background, changed
from imx2mx_jax.pictures import from_8_bits
from tests.metrics.support import smooth

SOURCES = from_8_bits(smooth(1, (2, 64, 64), 3.0)) * 0.5
REGION = np.zeros((2, 64, 64), bool)
REGION[:, 20:40, 20:40] = True


def edited(step: float = 0.0):
  """The region is repainted, the background brighter by `step`."""
  images = SOURCES + np.float32(step)
  images[REGION] = 1
  return images


def test_an_untouched_background_is_equal():
  found = background(SOURCES, edited(), REGION)
  assert (found.psnr, found.ssim) == (99, pytest.approx(1))
  assert found.share == pytest.approx(400 / 64**2)


def test_the_decibels_are_those_of_the_background_alone():
  found = background(SOURCES, edited(0.02), REGION)  # a hundredth of the range
  assert found.psnr == pytest.approx(40, abs=0.01)
  assert 0.9 < found.ssim < 1


def test_structure_counts_that_brightness_does_not():
  noise = 0.05 * np.random.default_rng(0).standard_normal(SOURCES.shape).astype(np.float32)
  assert background(SOURCES, edited() + noise, REGION).ssim < 0.95


def test_the_changed_region_is_found_with_a_margin():
  found = changed(SOURCES, edited())
  assert found[REGION].all()
  assert found.mean() < 2 * REGION.mean()


def test_a_slight_change_of_all_is_background():
  assert not changed(SOURCES, SOURCES + 0.1).any()


def test_nothing_is_said_where_all_was_edited():
  assert background(SOURCES, edited(), np.ones_like(REGION)) is None
