"""Matches of two pictures, and their errors under cameras whose geometry is known."""

import cv2
import numpy as np
import pytest

from imx2mx_jax import matches
from tests import textured

K = np.array([[500.0, 0, 160], [0, 480, 120], [0, 0, 1]])


def pose(x=0.0, y=0.0, z=0.0, turn=0.0):
  """Camera-to-world, OpenCV axes, turned about y."""
  c2w = np.eye(4)
  c2w[:3, :3] = cv2.Rodrigues(np.array([0, turn, 0]))[0]
  c2w[:3, 3] = x, y, z
  return c2w


def project(c2w, points):
  seen = np.c_[points, np.ones(len(points))] @ np.linalg.inv(c2w).T[:, :3] @ K.T
  return seen[:, :2] / seen[:, 2:]


def texture(seed=0, hw=(240, 320)):
  noise = np.random.default_rng(seed).random(hw, np.float32)
  smooth = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
  return np.repeat(smooth.astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def pair():
  """Two cameras and 60 points that both see exactly."""
  points = np.random.default_rng(1).uniform([-1, -1, 4], [1, 1, 8], (60, 3))
  cameras = np.stack([pose(), pose(0.5, 0.2, 0.1, -0.1)])
  return np.stack([project(c2w, points) for c2w in cameras]), cameras


def test_points_of_a_scene_have_no_error_under_its_cameras(pair):
  points, cameras = pair
  assert matches.epipolar_errors(points, cameras, np.stack([K, K])).max() < 1e-9


def test_a_shifted_camera_and_a_wrong_focal_length_are_noticed(pair):
  points, cameras = pair
  shifted = np.stack([cameras[0], cameras[1] @ pose(y=0.1)])
  assert np.median(matches.epipolar_errors(points, shifted, np.stack([K, K]))) > 5
  wrong = np.stack([K, K]) * np.array([1, 1.1, 1])[:, None]
  assert np.median(matches.epipolar_errors(points, cameras, wrong)) > 1


def test_the_error_is_in_pixels():
  """Cameras side by side: the epipolar lines are the rows."""
  points = np.array([[[100.0, 50], [20, 30]], [[90, 53], [10, 30]]])
  errors = matches.epipolar_errors(points, np.stack([pose(), pose(x=1)]), np.stack([K, K]))
  np.testing.assert_allclose(errors, [3, 0], atol=1e-9)


def test_cameras_in_one_place_have_no_epipolar_lines(pair):
  turned = np.stack([pose(), pose(turn=0.1)])
  assert np.isnan(matches.epipolar_errors(pair[0], turned, np.stack([K, K]))).all()


def test_a_picture_matches_itself_moved():
  picture = texture()
  first, second = matches.sift_matches(picture[:, :300], picture[:, 7:307])
  assert len(first) > 50
  np.testing.assert_allclose(np.median(first - second, axis=0), [7, 0], atol=0.05)


def test_matches_that_opencv_ends_in_an_assertion_on_have_a_geometry():
  angles = np.linspace(-24, 24, 22)[:2]
  features = [
    matches.sift_features(textured.photograph(textured.pose(angle)), 400) for angle in angles
  ]
  points = matches.match(*features)
  assert matches.consistent(points).mean() > 0.9


def test_an_even_picture_has_no_features():
  grey = np.full((64, 64, 3), 128, np.uint8)
  assert matches.sift_matches(grey, texture()).shape == (2, 0, 2)


def test_points_are_given_by_their_place_in_the_picture():
  """A dot around the centre of pixel 20 of row 30 lies at 20.5, 30.5."""
  dot = np.zeros((64, 64), np.float32)
  dot[30, 20] = 1
  dot = cv2.normalize(cv2.GaussianBlur(dot, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
  found = matches.sift_features(np.repeat(dot.astype(np.uint8)[..., None], 3, axis=2))
  assert np.abs(found.points - [20.5, 30.5]).max(axis=1).min() < 0.3


def test_mistaken_matches_are_set_aside(pair):
  points, _ = pair
  mistakes = np.random.default_rng(2).uniform(0, 240, (2, 20, 2))
  kept = matches.consistent(np.concatenate([points, mistakes], axis=1))
  assert kept[:60].mean() > 0.9
  assert kept[60:].mean() < 0.3
  assert not matches.consistent(mistakes[:, :10]).any()
