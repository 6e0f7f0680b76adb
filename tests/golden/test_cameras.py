"""Scene files, crops, intrinsics, poses and Pluecker maps, equal to the authors' (section 9)."""

import numpy as np
import pytest

from imx2mx_jax import cameras
from imx2mx_jax.scene import camera_to_world, intrinsics, load_scene, read_transforms
from tests.golden import support

pytestmark = pytest.mark.golden

SIZE, CELLS = 576, (72, 72)


def folder_of(case, tmp_path):
  if case["scene"]:
    return support.scenes_folder() / case["scene"]
  return support.write_scene(case, tmp_path / "scene")


def load(case, tmp_path):
  """The scene as the authors load it, and the student's frames as positions in it."""
  indices = case["frame_indices"]
  scene = load_scene(folder_of(case, tmp_path), indices, size=SIZE, authors=True)
  reference = sorted(indices).index(case["reference_frame"])
  return scene, np.array(cameras.student_order(len(indices), reference))


@support.cases("cameras")
def test_poses_and_intrinsics_are_read_like_the_parsers(case, tmp_path):
  transforms = read_transforms(folder_of(case, tmp_path))
  for index in range(len(transforms.frames)):
    relative = case.tolerance("parser_rel")
    c2w = camera_to_world(transforms, index)
    support.assert_close(c2w, case.tensor("parser_c2w")[index], atol=relative, rtol=relative)
    K = intrinsics(transforms, index, (1, 1), authors=True)
    support.assert_close(K, case.tensor("parser_K")[index], rtol=relative, what=f"K of {index}")


@support.cases("cameras")
def test_frames_come_out_in_the_authors_order(case, tmp_path):
  scene, order = load(case, tmp_path)
  indices = sorted(case["frame_indices"])
  assert [indices[i] for i in order] == case["frames_in_order"]
  names = [path.rsplit("/", 1)[-1] for path in case["image_files_in_order"]]
  assert [scene.names[i] for i in order] == names


@support.cases("cameras")
def test_pictures_are_resized_and_cropped_like_the_authors(case, tmp_path):
  scene, order = load(case, tmp_path)
  for geometry in case["geometry"]:
    crop = cameras.authors_crop(tuple(geometry["original_hw"]), SIZE)
    assert [*crop.resize_hw] == geometry["resize_hw"]
    assert [*crop.top_left] == geometry["crop_top_left"]

  images = support.nchw(scene.images[order])
  atol = case.tolerance("image_atol")
  patch = case.tensor("image_patch")
  rows, columns = (
    slice(start, start + length)
    for start, length in zip(case["patch_top_left"], patch.shape[2:], strict=True)
  )
  support.assert_close(images[: len(patch), :, rows, columns], patch, atol=atol, what="patch")
  support.assert_close(images[:, :, ::16, ::16], case.tensor("image_strided"), atol=atol)
  fingerprinted = {f"image:{i}": image for i, image in enumerate(images)}
  tau = case.tolerance("image_fp_rel_l2")
  case.check_fingerprints("images", fingerprinted, tau, leave_out=("plucker",))


@support.cases("cameras")
def test_cameras_and_pluecker_maps_equal_the_authors(case, tmp_path):
  scene, order = load(case, tmp_path)
  K = scene.K[order]
  support.assert_close(K, case.tensor("K"), atol=case.tolerance("K_atol"), what="K")
  pixels = K * np.array([SIZE, SIZE, 1])[:, None]
  support.assert_close(pixels, case.tensor("K_pixels"), atol=case.tolerance("K_pixels_atol"))

  scale = case["normalisation"]["camera_scale"]
  c2w = cameras.normalise_cameras(scene.c2w[order], scale=scale, authors=True)
  w2c = np.linalg.inv(c2w.astype(np.float64))
  support.assert_close(c2w, case.tensor("c2w"), atol=case.tolerance("c2w_atol"), what="c2w")
  support.assert_close(w2c, case.tensor("w2c"), atol=case.tolerance("w2c_atol"), what="w2c")

  plucker = support.nchw(cameras.plucker(c2w, cameras.divided_again(K, SIZE), CELLS))
  stride = case["plucker_stride"]
  atol = case.tolerance("plucker_atol")
  support.assert_close(plucker[..., ::stride, ::stride], case.tensor("plucker"), atol=atol)
  tau = case.tolerance("image_fp_rel_l2")
  images = [name for name in case["fingerprints"]["images"]["names"] if name != "plucker"]
  case.check_fingerprints("images", {"plucker": plucker}, tau, leave_out=images)
