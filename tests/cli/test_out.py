"""A run folder is a scene again: the edited views and the cameras after cropping."""

import numpy as np
import pytest
from PIL import Image

from imx2mx_jax.main import main
from imx2mx_jax.scene import load_scene
from tests.cli import support

SIZE = support.SMALL["teacher.size"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  pytest.importorskip("pycolmap", reason="the extra `colmap` is not installed")
  folder = tmp_path_factory.mktemp("out") / "run"
  changes = {"method": "teacher_only", "output__colmap": "true", "teacher__steps": 1}
  assert main(["", *support.arguments(folder, **changes)]) == 0
  return folder


def test_it_is_read_back_with_the_cameras_of_the_photographs(folder):
  photographs = load_scene(support.SMALL["scene.path"], (2, 0), size=32)
  edited = load_scene(folder, size=SIZE)
  np.testing.assert_allclose(edited.c2w, photographs.c2w, atol=1e-9)
  np.testing.assert_allclose(edited.K, photographs.K, atol=1e-6)
  picture = np.asarray(Image.open(folder / edited.file_paths[0]), np.float32)
  np.testing.assert_allclose(edited.images[0], picture / 127.5 - 1, atol=1e-6)


def test_the_colmap_model_says_the_same(folder):
  from_json, model = (load_scene(path, size=SIZE) for path in (folder, folder / "sparse" / "0"))
  order = [model.names.index(name) for name in from_json.names]
  np.testing.assert_allclose(model.c2w[order], from_json.c2w, atol=1e-9)
  np.testing.assert_allclose(model.K[order], from_json.K, atol=1e-6)
  np.testing.assert_array_equal(model.images[order], from_json.images)


def test_the_models_pictures_lie_where_colmaps_readers_look(folder):
  names = [image.name for image in (folder / "images").iterdir()]
  assert sorted(names) == sorted(path.name for path in (folder / "edited").iterdir())
  for name in names:
    assert (folder / "images" / name).read_bytes() == (folder / "edited" / name).read_bytes()
