"""python -m imx2mx_jax.micro.scenes: folders as the shared ones, that every command reads."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from imx2mx_jax import scene
from imx2mx_jax.errors import SceneError
from imx2mx_jax.micro import scenes, world
from tests.micro import support

REPOSITORY = pathlib.Path(__file__).parents[2]


def run(*arguments):
  command = [sys.executable, "-W", "error", "-m", "imx2mx_jax.micro.scenes", *arguments]
  return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """Two scenes, by the command line."""
  folder = tmp_path_factory.mktemp("written") / "out"
  done = run(str(folder), "--count=2", "--seed=40", "--patterns")
  assert done.returncode == 0, done.stderr
  assert done.stdout.split() == [str(folder / "scene_00"), str(folder / "scene_01")]
  return folder


@support.every_scene
def test_the_shared_files_are_reproduced_word_for_word(folder):
  support.require(folder)
  drawn, c2w = support.read_world(folder), support.read_cameras(folder)
  told = support.read_json(folder / "edits.json")
  edits = []
  for one in told["edits"]:
    plausible = support.follow(drawn, one["instruction"])
    instruction, kind, definite = one["instruction"], one["kind"], one["definite"]
    edits.append(world.Edit(instruction, kind, definite, plausible[0], plausible))
  again = scenes.description(scenes.MicroScene(drawn, c2w, edits))
  assert again == told
  assert json.dumps(again) == json.dumps(told), "in another order"
  cameras = support.read_json(folder / "transforms.json")
  assert scenes.transforms(c2w) == cameras
  assert list(scenes.transforms(c2w)) == list(cameras)


def test_a_folder_has_the_files_of_a_shared_one(written):
  ours, theirs = written / "scene_00", support.BUNDLED
  for name in ("images", "depth", "ids"):
    pictures, shared = (support.read_pictures(folder / name) for folder in (ours, theirs))
    assert pictures.shape == shared.shape
    assert pictures.dtype == shared.dtype
  told = support.read_json(ours / "edits.json")
  kinds = [edit["kind"] for edit in told["edits"]]
  assert kinds == ["color", "shape", "floor", "sky", "ambiguous", "pattern"]
  for edit in told["edits"][:4]:
    edited = support.read_pictures(ours / edit["edited_dir"])
    source = support.read_pictures(ours / "images")
    assert (edited != source).any(axis=(1, 2, 3)).all()
  assert told["edits"][-1].keys() == told["edits"][-2].keys(), "both are ambiguous"


def test_instructions_are_in_the_words_of_the_shared_scenes(written):
  for folder in written.iterdir():
    drawn = support.read_world(folder)
    for edit in support.read_json(folder / "edits.json")["edits"][:5]:
      captions = [world.caption(one) for one in support.follow(drawn, edit["instruction"])]
      assert edit["edited_caption"] == captions[0]
      assert edit.get("plausible_captions", captions) == captions


def test_a_written_scene_is_what_its_seed_draws(written):
  assert support.read_world(written / "scene_01") == world.sample(41)
  np.testing.assert_array_equal(support.read_cameras(written / "scene_01"), world.cameras(41))


def test_every_command_reads_them(written):
  views = scene.load_scene(written / "scene_00", size=32)
  np.testing.assert_allclose(views.c2w, world.cameras(40))
  np.testing.assert_allclose(views.K, np.tile(world.K, (8, 1, 1)), rtol=1e-6)


def test_a_scene_is_never_written_over(written):
  with pytest.raises(SceneError, match="scene_00: is there already"):
    scenes.write(written / "scene_00", scenes.draw(0))


def test_the_command_line_asks_for_a_folder():
  done = run("--count=1")
  assert done.returncode == 1
  assert done.stderr.startswith("error: no folder was named; write OUT")
