"""An edit in the photographs' own ratio: 32 x 48 pixels, which the teacher sees at 16 x 24."""

import json

import numpy as np
import pytest
from PIL import Image

from imx2mx_jax.evaluate.__main__ import main as evaluate
from imx2mx_jax.main import main
from imx2mx_jax.scene import load_scene
from tests.cli import support

WIDE = {"student__size": 32, "student__width": 48, "teacher__size": 16, "teacher__width": 24}


@pytest.fixture(scope="module")
def wide(models, tmp_path_factory):
  folder = tmp_path_factory.mktemp("wide") / "run"
  assert main(["", *support.arguments(folder, **models, **WIDE)]) == 0
  return folder


def test_the_edited_views_have_it(wide):
  assert len(list((wide / "edited").glob("*.png"))) == 2
  for file in (wide / "edited").glob("*.png"):
    with Image.open(file) as picture:
      assert picture.size == (48, 32)
  assert (wide / "report.html").exists()


def test_their_cameras_are_those_of_the_photographs_cut_so(wide):
  photographs = load_scene(support.SMALL["scene.path"], (2, 0), size=(32, 48))
  edited = load_scene(wide, size=(32, 48))
  np.testing.assert_allclose(edited.c2w, photographs.c2w, atol=1e-9)
  np.testing.assert_allclose(edited.K, photographs.K, atol=1e-6)
  frame = json.loads((wide / "transforms.json").read_text())["frames"][0]
  assert (frame["w"], frame["h"]) == (48, 32)


def test_they_are_measured_against_them(wide):
  assert evaluate(["", str(wide)]) == 0
  found = json.loads((wide / "metrics.json").read_text())
  assert np.isfinite(found["warp"]["mean"])


def test_a_teacher_of_another_ratio_is_refused(tmp_path, capsys):
  error = support.refused(capsys, tmp_path / "run", **WIDE | {"teacher__width": 0})
  assert "--config.teacher.width=0" in error and "another ratio" in error


def test_the_authors_program_sees_squares(tmp_path, capsys):
  error = support.refused(capsys, tmp_path / "run", **WIDE, compat="authors")
  assert "--config.student.width=48" in error and "squares" in error


def test_a_width_that_does_not_divide_is_refused_with_one_that_does(tmp_path, capsys):
  sides = {"student__width": 42, "student__size": 28, "teacher__size": 16}
  error = support.refused(capsys, tmp_path / "run", **WIDE | sides)
  assert "--config.student.size=28" in error and "multiple of" in error
