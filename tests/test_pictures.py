"""What the default way of resizing pictures keeps, and the authors' way loses."""

import numpy as np
import pytest

from imx2mx_jax import pictures


def smooth(size: int) -> np.ndarray:
  """[size size 3] a picture whose value at any point is known."""
  x, y = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 2)
  waves = [np.sin(3 * x + 2 * y), np.cos(4 * y), x * y]
  return (0.9 * np.stack(waves, axis=-1)).astype(np.float32)


@pytest.mark.parametrize(
  "resize",
  [
    lambda image, size: pictures.teacher_source(image[None], size)[0],
    pictures.edit_source,
    pictures.enlarge_reference,
  ],
  ids=["teacher_source", "edit_source", "enlarge_reference"],
)
@pytest.mark.parametrize("size", [48, 64, 90])
def test_smooth_pictures_come_out_right_at_any_size(resize, size):
  inner = (slice(3, -3), slice(3, -3))
  np.testing.assert_allclose(resize(smooth(64), size)[inner], smooth(size)[inner], atol=2e-3)


def test_a_reduction_does_not_alias():
  stripes = np.ones((64, 64, 3), np.float32)
  stripes[::2] = -1
  ours = np.asarray(pictures.edit_source(stripes, 40))[4:-4]
  theirs = pictures.edit_source(stripes, 40, authors=True)[4:-4]
  assert np.abs(ours).max() < 0.3 < np.abs(theirs).max()


def test_nothing_leaves_the_range_of_pictures():
  noise = np.random.default_rng(0).choice([-1.0, 1.0], size=(1, 32, 32, 3)).astype(np.float32)
  for size in (20, 50):
    assert np.abs(pictures.teacher_source(noise, size)).max() <= 1


def test_the_authors_darken_a_picture_by_cutting_it_to_8_bits():
  image = smooth(64)
  level = 2 / 255
  cut = pictures.from_8_bits(pictures.truncate_to_8_bits(image))
  assert -0.6 * level < np.mean(cut - image) < -0.4 * level
  ours = pictures.teacher_source(image[None], 64)[0]
  np.testing.assert_allclose(ours, image, atol=1e-6)
