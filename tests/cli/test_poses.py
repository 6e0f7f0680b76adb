"""Photographs without cameras get those that took them, or a sentence says why they do not."""

import itertools
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from imx2mx_jax import poses
from imx2mx_jax.scene import load_scene
from tests import textured
from tests.golden.support import scenes_folder

pytest.importorskip("pycolmap", reason="the extra `colmap` is not installed")

ANGLES = (-18, -8, 3, 14)


@pytest.fixture(scope="module")
def renders(tmp_path_factory):
  """A scene whose cameras are known; the folder of its pictures is what the command gets."""
  folder = tmp_path_factory.mktemp("renders")
  textured.write(folder, ANGLES)
  return folder


def found(photos, out) -> int:
  return poses.main([str(photos), f"--out={out}"])


def refused(capsys, photos, out) -> tuple[str, str]:
  """What it printed, and the one sentence; it leaves nothing behind."""
  before = set(out.parent.rglob("*"))
  assert found(photos, out) == 1
  printed = capsys.readouterr()
  assert printed.err.startswith("error: ") and printed.err.count("\n") == 1, printed.err
  assert set(out.parent.rglob("*")) == before
  return printed.out, printed.err


def both(out, truth):
  """Camera-to-world of the views that were placed, [N 4 4]: found, and known."""
  ours, known = load_scene(out, size=64), load_scene(truth, size=64)
  stems = [name.split("/")[-1] for name in known.names]
  order = [stems.index(name.split("/")[-1]) for name in ours.names]
  return ours.c2w, known.c2w[order]


def rotation_errors(c2w, known):
  """Degrees, of the turn from one view to another, for every two: no similarity changes it."""
  turns = [
    np.stack([R[j] @ R[i].T for i, j in itertools.permutations(range(len(R)), 2)])
    for R in (np.swapaxes(c2w[:, :3, :3], 1, 2), np.swapaxes(known[:, :3, :3], 1, 2))
  ]
  return np.degrees(Rotation.from_matrix(turns[0] @ np.swapaxes(turns[1], 1, 2)).magnitude())


def position_error(c2w, known):
  """The largest after the best similarity, in parts of the largest distance of two cameras."""
  here, there = (x[:, :3, 3] - x[:, :3, 3].mean(0) for x in (c2w, known))
  turned = Rotation.align_vectors(there, here)[0].apply(here)
  scaled = turned * (turned * there).sum() / (turned**2).sum()
  apart = max(np.linalg.norm(a - b) for a, b in itertools.combinations(there, 2))
  return np.linalg.norm(scaled - there, axis=1).max() / apart


def test_renders_get_the_cameras_that_took_them(renders, tmp_path, capsys):
  assert found(renders / "images", tmp_path / "new" / "scene") == 0
  c2w, known = both(tmp_path / "new" / "scene", renders)
  assert len(c2w) == len(ANGLES)
  assert rotation_errors(c2w, known).max() < 0.3
  assert position_error(c2w, known) < 0.005
  ours = load_scene(tmp_path / "new" / "scene", size=240)
  assert ours.K[:, 0, 0] * 240 == pytest.approx(300, rel=0.03)
  assert "4 of 4 photographs have cameras that fit" in capsys.readouterr().out


def test_the_model_beside_the_transforms_says_the_same(renders, tmp_path):
  assert found(renders / "images", tmp_path / "scene") == 0
  from_json, model = (load_scene(tmp_path / "scene" / part, size=32) for part in ("", "sparse/0"))
  np.testing.assert_allclose(model.c2w, from_json.c2w, atol=1e-9)
  np.testing.assert_allclose(model.K, from_json.K, atol=1e-6)
  np.testing.assert_array_equal(model.images, from_json.images)


def test_photographs_that_their_exif_tag_turns_are_upright(renders, tmp_path):
  turned = tmp_path / "turned"
  turned.mkdir()
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned by 90 degrees clockwise
  for file in sorted((renders / "images").iterdir()):
    lying = Image.open(file).rotate(90, expand=True)
    lying.save(turned / f"{file.stem}.jpg", quality=97, exif=exif)
  assert found(turned, tmp_path / "scene") == 0
  c2w, known = load_scene(tmp_path / "scene", size=64).c2w, load_scene(renders, size=64).c2w
  assert rotation_errors(c2w, known).max() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["face", "bear"])
def test_real_photographs_get_the_cameras_that_others_found(name, tmp_path):
  """Theirs have a principal point and a lens of their own, ours the middle and one parameter."""
  folder = scenes_folder() / name
  assert found(folder / "images", tmp_path / "scene") == 0
  c2w, known = both(tmp_path / "scene", folder)
  assert len(c2w) >= 3
  assert rotation_errors(c2w, known).max() < 3
  assert position_error(c2w, known) < 0.05


@pytest.mark.slow
def test_a_view_from_behind_is_left_out_and_named(tmp_path, capsys):
  assert found(scenes_folder() / "bear" / "images", tmp_path / "scene") == 0
  assert "frame_00068.jpg: shares fewer than 15 points" in capsys.readouterr().out
  assert not (tmp_path / "scene" / "images" / "frame_00068.jpg").exists()


class TestRefusals:
  @pytest.fixture
  def photos(self, renders, tmp_path):
    """A copy of the pictures that may be spoilt."""
    return shutil.copytree(renders / "images", tmp_path / "photos")

  @pytest.fixture
  def out(self, tmp_path):
    (tmp_path / "here").mkdir()
    return tmp_path / "here" / "new" / "scene"

  def test_no_folder(self, capsys, tmp_path, out):
    assert str(tmp_path / "nowhere") in refused(capsys, tmp_path / "nowhere", out)[1]

  def test_too_few(self, capsys, photos, out):
    for file in sorted(photos.iterdir())[2:]:
      file.unlink()
    assert "has 2 photographs" in refused(capsys, photos, out)[1]

  def test_the_scene_is_there_already(self, capsys, photos, out):
    out.mkdir(parents=True)
    (out / "mine.txt").write_text("kept")
    assert "is there already" in refused(capsys, photos, out)[1]
    assert (out / "mine.txt").read_text() == "kept"

  def test_no_picture(self, capsys, photos, out):
    (photos / "1.png").write_text("no picture")
    assert "1.png: cannot be read" in refused(capsys, photos, out)[1]

  @pytest.mark.parametrize("ending", ["png", "jpg"])
  def test_half_a_picture(self, capsys, photos, out, ending):
    file = photos / f"half.{ending}"
    Image.open(photos / "1.png").save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert f"half.{ending}: cannot be read" in refused(capsys, photos, out)[1]

  def test_different_things(self, capsys, photos, out):
    for seed, file in enumerate(sorted(photos.iterdir())):
      noise = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), np.uint8)
      Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC).save(file)
    told, error = refused(capsys, photos, out)
    assert "0 of 4 photographs have one" in error
    assert told.count("shares fewer than 15 points with any other") == 4

  def test_one_photograph_four_times(self, capsys, photos, out):
    for file in sorted(photos.iterdir())[1:]:
      shutil.copy(photos / "0.png", file)
    told, error = refused(capsys, photos, out)
    assert "0 of 4 photographs have one" in error
    assert told.count("a mere turn or shows a flat thing only; step aside") == 4

  def test_a_place_that_cannot_be_written(self, capsys, photos, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written" in refused(capsys, photos, tmp_path / "file" / "scene")[1]
