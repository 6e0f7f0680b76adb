"""Properties of crops, intrinsics, poses and Pluecker maps that hold for any camera."""

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from imx2mx_jax import cameras

HW = (5, 7)


def random_cameras(count: int, seed: int = 0):
  """The student's frames: the reference (the second view) first, then all views."""
  random = np.random.default_rng(seed)
  c2w = np.tile(np.eye(4), (count, 1, 1))
  c2w[:, :3, :3] = Rotation.random(count, random).as_matrix()
  c2w[:, :3, 3] = random.normal(size=(count, 3)) * 3 + [20, -5, 1]
  K = np.array([[1.1, 0, 0.45], [0, 1.3, 0.6], [0, 0, 1]]) + np.zeros((count, 1, 1))
  K[:, 0, 0] += 0.1 * np.arange(count)
  order = list(cameras.student_order(count, reference=1))
  return c2w[order], K[order]


def at(positions) -> np.ndarray:
  c2w = np.tile(np.eye(4), (len(positions), 1, 1))
  c2w[:, :3, 3] = positions
  return c2w


def transformed(c2w, scale=1.0, rotation=None, shift=(0, 0, 0)):
  moved = c2w.copy()
  rotation = np.eye(3) if rotation is None else rotation
  moved[:, :3, :3] = rotation @ c2w[:, :3, :3]
  moved[:, :3, 3] = scale * c2w[:, :3, 3] @ rotation.T + shift
  return moved


class TestPluecker:
  def test_directions_are_unit_and_orthogonal_to_moments(self):
    rays, moments = np.split(cameras.plucker(*random_cameras(3), HW).astype(np.float64), 2, axis=-1)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(np.sum(rays * moments, axis=-1), 0, atol=1e-4)

  def test_a_point_on_a_pixels_ray_projects_back_to_the_pixel(self):
    c2w, K = random_cameras(3)
    rays, moments = np.split(cameras.plucker(c2w, K, HW).astype(np.float64), 2, axis=-1)
    points = np.cross(rays, moments) + 70 * rays  # the line's point nearest the origin, then along
    camera = np.linalg.inv(c2w) @ c2w[0]
    seen = np.einsum("tij,thwj->thwi", camera[:, :3, :3], points) + camera[:, None, None, :3, 3]
    seen = np.einsum("tij,thwj->thwi", K, seen)
    assert (seen[..., 2] > 0).all()
    wanted = np.broadcast_to(cameras.pixel_centres(HW), seen[..., :2].shape)
    np.testing.assert_allclose(seen[..., :2] / seen[..., 2:], wanted, atol=1e-5)

  def test_the_reference_camera_is_the_origin(self):
    c2w, _ = random_cameras(2)
    maps = cameras.plucker(c2w, np.tile(np.diag([2.0, 2.0, 1.0]), (3, 1, 1)), (1, 1))
    np.testing.assert_allclose(maps[0, ..., 3:], 0, atol=1e-12)
    ray = np.array([0.25, 0.25, 1]) / np.linalg.norm([0.25, 0.25, 1])
    np.testing.assert_allclose(maps[0, 0, 0, :3], ray, atol=1e-6)

  @pytest.mark.parametrize("quarters", [-1, 0, 1, 2, 3])
  def test_turning_a_picture_and_its_camera_keeps_every_pixels_ray(self, quarters):
    c2w, K = random_cameras(2)
    c2w[2], K[2] = c2w[1], K[1]
    c2w[2], K[2] = cameras.turn(c2w[1], K[1], quarters)
    maps = cameras.plucker(c2w, K, (6, 6))
    np.testing.assert_allclose(maps[2], np.rot90(maps[1], quarters), atol=1e-5)

  def test_the_authors_divide_all_intrinsics_again_if_one_principal_point_is_outside(self):
    _, K = random_cameras(2)
    np.testing.assert_array_equal(cameras.divided_again(K, 576), K)
    K[1, 0, 2] = 1.01
    again = cameras.divided_again(K, 576)
    np.testing.assert_allclose(again[:, :2] * 576, K[:, :2])
    np.testing.assert_array_equal(again[:, 2], K[:, 2])


class TestNormalisation:
  def test_the_maps_do_not_depend_on_the_worlds_origin_axes_and_unit(self):
    c2w, K = random_cameras(4)
    rotation = Rotation.random(rng=np.random.default_rng(5)).as_matrix()
    elsewhere = transformed(c2w, scale=250.0, rotation=rotation, shift=(3e3, -1e3, 10))
    here, there = (
      cameras.plucker(cameras.normalise_cameras(poses), K, HW) for poses in (c2w, elsewhere)
    )
    np.testing.assert_allclose(there, here, atol=1e-5)

  def test_views_are_centred_and_the_reference_lies_at_the_scale(self):
    c2w = cameras.normalise_cameras(random_cameras(5)[0], scale=3.0)
    np.testing.assert_allclose(c2w[1:, :3, 3].mean(axis=0), 0, atol=1e-6)
    assert np.linalg.norm(c2w[0, :3, 3]) == pytest.approx(3.0, abs=1e-6)

  def test_rotations_and_the_input_stay_as_they_are(self):
    c2w, _ = random_cameras(3)
    before = c2w.copy()
    np.testing.assert_array_equal(
      cameras.normalise_cameras(c2w)[:, :3, :3], c2w[:, :3, :3].astype(np.float32)
    )
    np.testing.assert_array_equal(c2w, before)

  def test_the_authors_count_the_reference_twice(self):
    c2w = at([[3, 0, 0], [0, 0, 0], [3, 0, 0]])
    ours, theirs = (cameras.normalise_cameras(c2w, authors=authors) for authors in (False, True))
    np.testing.assert_allclose(ours[1:, 0, 3], [-2, 2], atol=1e-6)
    np.testing.assert_allclose(theirs[1:, 0, 3], [-4, 2], atol=1e-6)

  def test_a_reference_near_the_centre_does_not_blow_the_scene_up(self):
    ring = [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1e-4]]
    c2w = at([ring[-1], *ring])
    ours, theirs = (cameras.normalise_cameras(c2w, authors=authors) for authors in (False, True))
    radius = np.linalg.norm(ours[1:, :3, 3], axis=1)
    assert radius.mean() == pytest.approx(8, rel=1e-3)
    assert np.abs(theirs).max() > 1e4

  def test_cameras_at_one_place_stay_at_one_place(self):
    c2w = at(np.tile([0.1, 0.2, 0.3], (4, 1)))
    for authors in (False, True):
      normalised = cameras.normalise_cameras(c2w, authors=authors)
      np.testing.assert_array_equal(normalised[:, :3, 3], 0)

  def test_a_stray_camera_does_not_move_the_centre(self):
    ring = [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [1e5, 0, 0]]
    c2w = at([ring[0], *ring])
    ours, theirs = (cameras.normalise_cameras(c2w, authors=authors) for authors in (False, True))
    np.testing.assert_allclose(ours[1:5, :3, 3].mean(axis=0), 0, atol=1e-6)
    assert np.linalg.norm(ours[1, :3, 3]) == pytest.approx(2)
    assert np.linalg.norm(theirs[1:5, :3, 3].mean(axis=0)) > 1


class TestCrops:
  def test_the_square_lies_within_the_resized_picture(self):
    sides = (1, 7, 33, 64, 100, 577)
    for height, width, size, authors in itertools.product(
      sides, sides, (5, 64, 576), (False, True)
    ):
      hw = height, width
      ours, theirs = cameras.covering_crop(hw, (size, size)), cameras.authors_crop(hw, size)
      crop = theirs if authors else ours
      for start, resized in zip(crop.top_left, crop.resize_hw, strict=True):
        assert 0 <= start <= resized - size
      assert authors or min(crop.resize_hw) == size

  @pytest.mark.parametrize("size", [16, (16, 24), (27, 12)])
  @pytest.mark.parametrize("hw", [(48, 96), (50, 33), (16, 16), (9, 13)])
  def test_intrinsics_follow_the_pictures_pixels(self, hw, size):
    height, width = hw
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    image = np.stack([x, y, 0 * x], axis=-1).astype(np.float32)  # every pixel says where it is
    K = np.array([[40.0, 0, 20], [0, 50.0, 11], [0, 0, 1]])
    square, crop = cameras.resize_and_crop(image, size)
    rays = np.linalg.inv(cameras.crop_intrinsics(K, crop).astype(np.float64))
    centres = cameras.pixel_centres(crop.cut_hw)
    centres = np.pad(centres, ((0, 0), (0, 0), (0, 1)), constant_values=1)
    wanted = np.einsum("ij,jk,hwk->hwi", K, rays, centres)
    inner = (slice(2, -2), slice(2, -2))  # at the border an enlargement repeats the last pixel
    atol = 0.02 if size == 16 else 0.1  # areas of pixels that are flat, not a ramp's
    np.testing.assert_allclose(square[inner][..., :2], wanted[inner][..., :2], atol=atol)

  def test_a_reduction_keeps_the_mean_and_an_enlargement_does_not_repeat_pixels(self):
    image = np.random.default_rng(0).normal(size=(60, 60, 3)).astype(np.float32)
    small, _ = cameras.resize_and_crop(image, 25)
    np.testing.assert_allclose(small.mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=1e-6)
    ours, theirs = (cameras.resize_and_crop(image, 150, authors=a)[0] for a in (False, True))
    repeated = lambda picture: np.mean(picture[:, 1:] == picture[:, :-1])
    assert repeated(ours) < 0.05
    assert repeated(theirs) > 0.3

  def test_a_picture_of_the_right_size_passes_unchanged(self):
    image = np.random.default_rng(0).normal(size=(16, 16, 3)).astype(np.float32)
    for authors in (False, True):
      square, _ = cameras.resize_and_crop(image, 16, authors=authors)
      np.testing.assert_array_equal(square, image)


class TestIntrinsics:
  def test_normalised_ones_are_recognised_by_principal_point_and_focal_length(self):
    normalised = np.array([[0.9, 0, 0.5], [0, 1.1, 0.48], [0, 0, 1]])
    wanted = [[90, 0, 50], [0, 88, 38.4], [0, 0, 1]]
    np.testing.assert_allclose(cameras.pixel_intrinsics(normalised, (80, 100)), wanted)
    pixels = np.array([[100.0, 0, 1], [0, 100, 1], [0, 0, 1]])
    np.testing.assert_array_equal(cameras.pixel_intrinsics(pixels, (80, 100)), pixels)
    theirs = cameras.pixel_intrinsics(pixels, (80, 100), authors=True)
    assert theirs[0, 0] == 100 * 100

  def test_a_lens_displaces_the_corners_most(self):
    K = np.array([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]])
    r = np.hypot(0.5, 0.4)
    radial = lambda **lens: cameras.lens_displacement(K, (80, 100), lens)
    assert radial() == 0
    assert radial(k1=0.1) == pytest.approx(100 * 0.1 * r**3)
    assert radial(k2=-0.1) == pytest.approx(100 * 0.1 * r**5)
    assert radial(k4=0.1) == pytest.approx(100 * r * (1 - 1 / (1 + 0.1 * r**2)))
    assert radial(p2=0.01) == pytest.approx(100 * 0.01 * np.hypot(r**2 + 2 * 0.25, 2 * 0.2))


def test_the_reference_comes_first_and_again_in_its_place():
  assert cameras.student_order(4, 2) == (2, 0, 1, 2, 3)
