"""docs/new_teacher.md is true."""

import re

import numpy as np
import pytest
from PIL import Image

from imx2mx_jax.main import main
from tests import tiny
from tests.cli import support

TOY = support.REPOSITORY / "tests" / "toy_teacher.py"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


def test_the_page_shows_the_file_that_is_tested():
  page = (support.REPOSITORY / "docs" / "new_teacher.md").read_text()
  (shown,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
  assert shown == TOY.read_text()
  assert len(shown.splitlines()) <= 40


def redness(picture) -> float:
  """How much more red than green and blue a picture is, of 255."""
  pixels = np.asarray(Image.open(picture).convert("RGB"), float)
  return float((pixels[..., 0] - pixels[..., 1:].mean(-1)).mean())


def test_it_edits_every_view_by_itself(cache, tmp_path):
  support.ran(cache, tmp_path / "run", teacher__kind=TOY, method="teacher_only")
  edited = sorted((tmp_path / "run" / "edited").glob("*.png"))
  assert len(edited) == 2
  for picture in edited:
    source = support.MICRO / "scenes" / "scene_05" / "images" / picture.name
    assert redness(picture) > redness(source) + 30, picture.name


def test_a_student_is_distilled_from_it(cache, tmp_path):
  few = {"distill.t_min": 599, "distill.iterations_first": 4, "log_every": 4}
  models = tiny.models(tmp_path / "models")
  del models["teacher.weights"]  # its autoencoder shows colours as they are
  support.ran(cache, tmp_path / "run", teacher__kind=TOY, **models | few)
  (tmp_path / "run" / "finished.json").read_bytes()
  rows = support.journal(tmp_path / "run")
  assert len(rows) == 6
  assert all(np.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)
  source = support.MICRO / "scenes" / "scene_05" / "images" / "002.png"
  assert redness(tmp_path / "run" / "reference.png") > redness(source) + 30


@pytest.mark.parametrize(
  "body, told", [("raise ValueError('no luck')", "ValueError: no luck"), ("pass", "a NoneType")]
)
def test_a_teacher_that_is_none_is_told_in_a_sentence(body, told, tmp_path, capsys):
  (tmp_path / "broken.py").write_text(f"def make_teacher(run, models, images):\n  {body}\n")
  changes = {"teacher__kind": tmp_path / "broken.py", "method": "teacher_only"}
  assert main(["main", *support.arguments(tmp_path / "run", **changes)]) == 1
  error = capsys.readouterr().err
  assert told in error and "docs/new_teacher.md" in error and error.count("\n") == 1
