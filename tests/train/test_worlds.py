"""The micro world as a source: drawn by the key, rendered exactly, nothing held out."""

import dataclasses

import jax
import numpy as np
import pytest

from imx2mx_jax.micro import render, world
from imx2mx_jax.train import settings, worlds
from tests.train import support

HELD_OUT = 3
SEED = 10**9  # of the first world of a training with seed 0


@pytest.fixture(autouse=True)
def few(monkeypatch):
  monkeypatch.setattr(worlds, "HELD_OUT", HELD_OUT)


def source(model, batch=16):
  run = settings.resolve(_tree(model))
  data = dataclasses.replace(run.data, size=8, worlds=4, samples=1, rendered=0)
  run = dataclasses.replace(run, batch=batch, data=data)
  return worlds.MicroWorld(run, support.TOKENIZER if model in ("clip", "teacher") else None)


def _tree(model):
  tree = settings.default(model)
  for name in tree.frozen:
    tree.frozen[name] = "somewhere"
  return tree


def drawn(made, seed=0):
  return jax.jit(made.batch)(made.table, None, jax.random.key(seed))


@jax.jit
def _render(row, c2w):
  return render.render(row, c2w, world.K, 8)[0]


def pictures(number):
  """All views of the training's world of that number."""
  row = jax.tree.map(lambda x: x[0], render.arrays([world.sample(SEED + number)]))
  return np.asarray(_render(row, world.cameras(SEED + number)))


def test_pictures_are_views_of_the_worlds_that_are_not_held_out():
  made = source("vae")
  images = np.asarray(drawn(made)["image"])
  known = np.concatenate([pictures(number) for number in range(HELD_OUT, HELD_OUT + 4)])
  distance = np.abs(images[:, None] - known).max(axis=(2, 3, 4)).min(axis=1)
  assert distance.max() < 1e-3
  shown = np.asarray(jax.jit(made.sample, static_argnums=1)(made.table, 2)["image"])
  held_out = np.concatenate([pictures(number) for number in range(2)])
  assert np.abs(shown[:, None] - held_out).max(axis=(2, 3, 4)).min(axis=1).max() < 1e-3


def test_the_same_key_gives_the_same_batch_and_another_key_another():
  made = source("clip")
  one, same, other = drawn(made), drawn(made), drawn(made, seed=1)
  assert all(np.array_equal(one[name], same[name]) for name in one)
  assert not np.array_equal(one["image"], other["image"])


def test_sets_have_different_views_and_half_of_them_the_input_again():
  made = source("student", batch=64)
  sets = np.asarray(made._sets(jax.random.key(0), 400, 0.5))
  again = (sets[:, 1:] == sets[:, :1]).sum(axis=1)
  assert set(again) == {0, 1}
  assert np.mean(again) == pytest.approx(0.5, abs=0.08)
  assert all(len({*row}) == 5 - twice for row, twice in zip(sets, again, strict=True))
  batch = drawn(made)
  assert batch["images"].shape == (64, 5, 8, 8, 3)
  assert np.array_equal(batch["K"][3, 2], world.K.astype(np.float32))


def test_pairs_show_one_view_before_and_after_an_edit():
  made = source("teacher")
  batch = {name: np.asarray(x) for name, x in drawn(made).items()}
  assert batch["ids"].shape == batch["no_text"].shape == (16, 32)
  known = np.concatenate([pictures(number) for number in range(HELD_OUT, HELD_OUT + 4)])
  of = lambda images: np.abs(images[:, None] - known).max(axis=(2, 3, 4)).min(axis=1)
  assert of(batch["source"]).max() < 1e-3
  changed = np.abs(batch["source"] - batch["edited"]).max(axis=(1, 2, 3))
  assert np.mean(changed > 0.05) > 0.9  # of 8 pixels a side, some edits are hard to see
