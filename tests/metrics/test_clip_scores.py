"""The paper's scores on embeddings and pictures whose answers are known."""

import numpy as np
import pytest
from PIL import Image

from imx2mx_jax import tokenizer, weights
from imx2mx_jax.metrics import clip_scores
from imx2mx_jax.scene import load_scene
from tests.metrics.support import BUNDLED, MICRO

SCENE = MICRO / "scenes" / "scene_05"
SOURCE, EDITED = "a white cylinder on clay at night", "a white cylinder on clay at sunset"


def unit(*rows):
  rows = np.array(rows, np.float64)
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


BEFORE = unit([3, 1, 0], [3, 0, 1], [3, 1, 1])
TEXTS = unit([1, 0, 0], [1, 1, 0])


def test_the_scores_follow_their_definitions():
  after = unit([1, 3, 0], [0, 3, 1], [1, 3, 2])
  cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)
  pairs = [(0, 1), (0, 2), (1, 2)]
  found = clip_scores.trio(BEFORE, after, TEXTS)
  assert found["sim"] == pytest.approx(np.mean([cosine(x, TEXTS[1]) for x in after]))
  way = TEXTS[1] - TEXTS[0]
  assert found["dir"] == pytest.approx(
    np.mean([cosine(y - x, way) for x, y in zip(BEFORE, after, strict=True)])
  )
  ways = [cosine(BEFORE[i] - BEFORE[j], after[i] - after[j]) for i, j in pairs]
  assert found["cons"] == pytest.approx(np.mean(ways))


def test_views_that_were_not_edited_are_consistent_and_go_nowhere():
  found = clip_scores.trio(BEFORE, BEFORE, TEXTS)
  assert found["cons"] == pytest.approx(1)
  assert found["dir"] == 0


def test_views_that_all_look_the_same_have_no_consistency():
  assert clip_scores.trio(BEFORE, BEFORE[[0, 0, 0]], TEXTS)["cons"] == 0


def test_the_micro_clip_sees_that_the_true_edit_is_the_edit():
  scene = load_scene(SCENE, (0, 2, 5), size=64)
  folder = SCENE / "edited" / "make-it-sunset"
  views = [Image.open(folder / name).convert("RGB").resize((64, 64)) for name in scene.names]
  truth = np.stack([np.asarray(view, np.float32) for view in views]) / 127.5 - 1
  clip = weights.load(BUNDLED / "metric_clip", "metric_clip")["clip"]
  words = tokenizer.load(BUNDLED / "metric_clip" / weights.TOKENIZER)
  scores = lambda edited: clip_scores.clip_scores(clip, words, scene.images, edited, SOURCE, EDITED)
  followed, ignored = scores(truth), scores(scene.images)
  assert followed["dir"] > ignored["dir"] + 0.2
  assert followed["sim"] > ignored["sim"] + 0.05
