"""An edit of a part: outside it the pictures are the photographs', pixel by pixel."""

import json

import numpy as np
from PIL import Image

from imx2mx_jax import pictures
from imx2mx_jax.scene import load_scene
from tests.cli import support


def test_nothing_outside_the_mask_changes(models, tmp_path, cache):
  file, folder = tmp_path / "boxes.json", tmp_path / "run"
  file.write_text(json.dumps({"002.png": [0, 0, 64, 128], "000.png": [0, 0, 128, 64]}))
  changes = models | {"mask": file, "output__decoder": "teacher"}
  with support.started(cache, folder, **changes) as process:
    _, error = process.communicate()
    assert (process.returncode, error) == (0, "")
  photographs = load_scene(support.SMALL["scene.path"], (2, 0), size=32)
  size = support.SMALL["teacher.size"]
  own = pictures.to_uint8(pictures.teacher_source(photographs.images, size))
  # On the way there it is the same; the pictures are the student's, side by side.
  snapshot = np.asarray(Image.open(folder / "snapshots" / "000006.png"))
  np.testing.assert_array_equal(
    snapshot[:, 16:32], pictures.to_uint8(photographs.images)[0, :, 16:]
  )
  first, second = (np.asarray(Image.open(folder / "edited" / name)) for name in photographs.names)
  half = own.shape[1] // 2
  np.testing.assert_array_equal(first[:, half:], own[0, :, half:])
  np.testing.assert_array_equal(second[half:], own[1, half:])
  assert (first[:, : half - 1] != own[0, :, : half - 1]).mean() > 0.5
  assert (second[: half - 1] != own[1, : half - 1]).mean() > 0.5
