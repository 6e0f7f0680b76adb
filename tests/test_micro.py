"""The bundled models and scenes are whole and small, and fit each other."""

import hashlib
import json
import pathlib

import numpy as np
import pytest

import imx2mx_jax
from imx2mx_jax import scene, tokenizer, weights

MICRO = pathlib.Path(imx2mx_jax.__file__).parent / "micro"
KINDS = sorted(folder.name for folder in (MICRO / "bundled").glob("*/"))
SCENES = sorted((MICRO / "scenes").iterdir())


def test_everything_together_stays_under_40_megabytes():
  assert sum(file.stat().st_size for file in MICRO.rglob("*") if file.is_file()) < 40e6


def test_every_kind_that_a_run_needs_is_there():
  assert set(KINDS) == set(weights.KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_models_load_and_name_their_licence(kind):
  networks = weights.load(MICRO / "bundled" / kind, kind)
  assert all(np.isfinite(x).all() for n in networks.values() for x in n.params.values())
  info = weights.read_info(MICRO / "bundled" / kind, kind)
  assert info.licence == "Apache-2.0"
  assert not pathlib.Path(info.source).is_absolute()
  content = (MICRO / "bundled" / kind / weights.SAFETENSORS).read_bytes()
  assert info.files == {weights.SAFETENSORS: hashlib.sha256(content).hexdigest()}


def test_teacher_and_student_share_one_autoencoder():
  teacher = weights.load(MICRO / "bundled" / "teacher", "teacher")["vae"]
  student = weights.load(MICRO / "bundled" / "student_vae", "student_vae")["vae"]
  assert teacher.graphdef == student.graphdef
  assert teacher.params.keys() == student.params.keys()
  for path, array in teacher.params.items():
    assert np.array_equal(array, student.params[path]), path


@pytest.mark.parametrize("folder", SCENES, ids=lambda folder: folder.name)
def test_scenes_hold_what_their_files_name(folder):
  views = scene.load_scene(folder, size=64)
  assert views.images.shape == (8, 64, 64, 3)
  for frame in json.loads((folder / "transforms.json").read_text())["frames"]:
    for key in ("file_path", "depth_file_path", "mask_path"):
      assert (folder / frame[key]).is_file()


@pytest.mark.parametrize("folder", SCENES, ids=lambda folder: folder.name)
def test_the_teacher_knows_every_word_of_a_scenes_instructions(folder):
  words = tokenizer.load(MICRO / "bundled" / "teacher" / weights.TOKENIZER)
  for edit in json.loads((folder / "edits.json").read_text())["edits"]:
    assert len(words.tokenize(edit["instruction"])) == len(edit["instruction"].split())
