"""Folders to learn from: what they hold, in what order it comes, what is wrong with them."""

import dataclasses

import jax
import numpy as np
import pytest

from imx2mx_jax.errors import SceneError
from imx2mx_jax.train import data, folders, settings
from tests.train import support


def opened(model, path):
  tree = settings.default(model)
  for name in tree.frozen:
    tree.frozen[name] = "somewhere"
  run = settings.resolve(tree)
  kept = dataclasses.replace(run.data, source=str(path), size=16, frames=3)
  run = dataclasses.replace(run, batch=2, data=kept)
  return folders.open_folder(run, support.TOKENIZER if model in ("clip", "teacher") else None)


@pytest.fixture
def pictures(tmp_path):
  return support.pictures(tmp_path / "pictures")


def test_a_steps_rows_do_not_depend_on_where_a_call_begins(pictures):
  source = opened("teacher", pictures)
  whole = [rows for _, rows in data.prefetched(source, range(0, 5), 5)]
  parts = [rows for _, rows in data.prefetched(source, range(2, 5), 2)]
  assert [len(rows["ids"]) for rows in parts] == [2, 1]
  for name, rows in whole[0].items():
    assert rows.shape[:2] == (5, 2)
    assert np.array_equal(rows[2:], np.concatenate([part[name] for part in parts]))


def test_pictures_without_a_list_are_enough_for_an_autoencoder(pictures):
  (pictures / "metadata.jsonl").unlink()
  rows = opened("vae", pictures).rows(0, 1)
  assert rows["image"].shape == (1, 2, 16, 16, 3) and rows["image"].dtype == np.uint8


def test_sets_come_from_all_scenes_with_their_cameras(tmp_path):
  source = opened("student", support.scenes(tmp_path / "scenes"))
  rows = source.rows(0, 4)
  assert rows["images"].shape == (4, 2, 3, 16, 16, 3)
  again = (rows["c2w"][:, :, 1:] == rows["c2w"][:, :, :1]).all(axis=(-2, -1)).any(axis=-1)
  assert again.any() and not again.all()
  batch = source.batch((), {name: x[0] for name, x in rows.items()}, jax.random.key(0))
  assert batch["images"].min() >= -1 and batch["images"].max() <= 1


@pytest.mark.parametrize(
  ("line", "says"),
  [
    ("not json", "metadata.jsonl, line 2: wanted an object with source, instruction, edited"),
    ('{"source": "0.png"}', "line 2"),
  ],
)
def test_a_broken_line_is_named(pictures, line, says):
  file = pictures / "metadata.jsonl"
  first = file.read_text().splitlines()[0]
  file.write_text(f"{first}\n{line}\n")
  with pytest.raises(SceneError, match=says):
    opened("teacher", pictures)


def test_a_picture_that_is_missing_is_named(pictures):
  for name in range(4):
    (pictures / f"{name}.png").unlink()
  with pytest.raises(SceneError, match=r"\.png cannot be read"):
    opened("vae", pictures).rows(0, 1)


def test_a_folder_that_does_not_fit_is_refused(pictures, tmp_path):
  with pytest.raises(SceneError, match=r"no transforms\.json"):
    opened("student", pictures)
  (tmp_path / "empty").mkdir()
  with pytest.raises(SceneError, match=r"no metadata\.jsonl with source, instruction, edited"):
    opened("teacher", tmp_path / "empty")
