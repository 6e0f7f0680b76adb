"""COLMAP models and transforms.json, read and written: the same cameras."""

import numpy as np
import pytest
from etils import epath
from PIL import Image

from imx2mx_jax import colmap
from imx2mx_jax.errors import SceneError
from imx2mx_jax.scene import load_scene, transforms_of
from tests import textured

SIZE = 48


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
  folder = tmp_path_factory.mktemp("scene")
  textured.write(folder, angles=(-10, 5), cx=150.0, fl_y=280.0)
  return load_scene(folder, size=SIZE)


def same_cameras(found, wanted):
  np.testing.assert_allclose(found.c2w, wanted.c2w, atol=1e-6)
  np.testing.assert_allclose(found.K, wanted.K, atol=1e-5)


def write_pictures(folder):
  """{name: picture} of what it writes."""
  folder.mkdir(parents=True)
  images = {f"{index}.png": np.full((SIZE, SIZE, 3), 9 * index, np.uint8) for index in range(2)}
  for name, image in images.items():
    Image.fromarray(image).save(folder / name)
  return images


def test_what_is_written_as_transforms_is_read_again(scene, tmp_path):
  write_pictures(tmp_path / "edited")
  paths = [f"edited/{index}.png" for index in range(2)]
  textured.save(tmp_path, transforms_of(scene, paths, (SIZE, SIZE)))
  found = load_scene(tmp_path, size=SIZE)
  same_cameras(found, scene)
  assert found.images[1].max() == pytest.approx(9 / 127.5 - 1)


@pytest.mark.parametrize("place", ["sparse/0", "sparse", ""])
@pytest.mark.parametrize("binary", [False, True])
def test_a_written_model_is_read_again(scene, tmp_path, place, binary):
  pycolmap = pytest.importorskip("pycolmap", reason="the extra `colmap` is not installed")
  images = write_pictures(tmp_path / "images")
  pixels = scene.K * np.array([SIZE, SIZE, 1])[:, None]
  colmap.write(epath.Path(tmp_path / place), images, scene.c2w, pixels)
  if binary:
    pycolmap.Reconstruction(str(tmp_path / place)).write_binary(str(tmp_path / place))
    for file in (tmp_path / place).glob("*.txt"):
      file.unlink()
  found = load_scene(tmp_path, size=SIZE)
  same_cameras(found, scene)
  assert found.names == ("0.png", "1.png")
  same_cameras(load_scene(found.path, (1, 0), size=SIZE), load_scene(tmp_path, (1, 0), size=SIZE))


def test_a_written_model_has_the_points_that_the_pictures_share(tmp_path):
  pycolmap = pytest.importorskip("pycolmap", reason="the extra `colmap` is not installed")
  poses = {f"{angle}.png": textured.pose(angle) for angle in (4, -4, -12)}
  images = {name: textured.photograph(pose) for name, pose in poses.items()}
  c2w = np.stack(list(poses.values())) * [1, -1, -1, 1]
  colmap.write(epath.Path(tmp_path), images, c2w, np.stack([textured.K] * 3))
  model = pycolmap.Reconstruction(str(tmp_path))
  for image in model.images.values():  # the cameras stay
    expected = np.linalg.inv(poses[image.name] * [1, -1, -1, 1])[:3]
    np.testing.assert_allclose(image.cam_from_world().matrix(), expected, atol=1e-9)
    np.testing.assert_allclose(image.camera.calibration_matrix(), textured.K)
  points = model.points3D.values()
  assert len(points) > 100
  off = [min(abs(point.xyz[2] - wall) for wall in textured.WALLS) for point in points]
  assert np.median(off) < 0.01  # the walls are about 3 away
  assert np.mean(np.array(off) < 0.05) > 0.95


def test_lens_models_keep_their_meaning(tmp_path):
  pycolmap = pytest.importorskip("pycolmap", reason="the extra `colmap` is not installed")
  model = pycolmap.Reconstruction()
  params = {"SIMPLE_RADIAL": [50, 24, 20, 0.1], "FULL_OPENCV": [50, 51, 24, 20, *range(1, 9)]}
  for number, (name, numbers) in enumerate(params.items(), start=1):
    camera = pycolmap.Camera(model=name, width=48, height=40, params=numbers, camera_id=number)
    model.add_camera_with_trivial_rig(camera)
    image = pycolmap.Image(name=f"{number}.png", camera_id=number, image_id=number)
    model.add_image_with_trivial_frame(image, pycolmap.Rigid3d())
  model.write_text(str(tmp_path))
  first, second = colmap.read(colmap.find(epath.Path(tmp_path)))
  assert (first["fl_x"], first["fl_y"], first["k1"]) == (50, 50, 0.1)
  assert [second[key] for key in ("k1", "k2", "p1", "p2", "k3", "k6")] == [1, 2, 3, 4, 5, 8]


def test_a_model_that_cannot_be_read_is_one_sentence(tmp_path):
  pytest.importorskip("pycolmap", reason="the extra `colmap` is not installed")
  for name in ("images.txt", "cameras.txt", "points3D.txt"):
    (tmp_path / name).write_text("1 2 nonsense\n\n")
  with pytest.raises(SceneError, match="export it again"):
    load_scene(tmp_path, size=SIZE)
