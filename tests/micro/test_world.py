"""Worlds, cameras, captions and instructions: from a seed, in the shared world's ranges."""

import collections
import dataclasses
import math
import re

import jax
import numpy as np
import pytest

from imx2mx_jax import tokenizer, weights
from imx2mx_jax.micro import render, world
from tests.micro import support

SEEDS = range(150)
MIDDLE = np.array([0, 0, 0.35])


@pytest.fixture(scope="module")
def worlds():
  return [world.sample(seed) for seed in SEEDS]


def edits_of(worlds, **options):
  for seed, drawn in zip(SEEDS, worlds, strict=True):
    yield from ((drawn, one) for one in world.edits(drawn, np.random.default_rng(seed), **options))


def test_a_seed_gives_one_world_and_another_seed_another(worlds):
  assert world.sample(7) == worlds[7]
  assert world.caption(worlds[7]) != world.caption(worlds[8])
  assert np.array_equal(world.cameras(7), world.cameras(7))
  assert not np.array_equal(world.cameras(7), world.cameras(8))


def test_every_number_and_word_of_the_world_is_drawn(worlds):
  objs = [obj for drawn in worlds for obj in drawn.objs]
  assert {len(drawn.objs) for drawn in worlds} == {1, 2, 3}
  assert {obj.shape for obj in objs} == set(world.SHAPES)
  assert {obj.color for obj in objs} == set(world.COLORS)
  assert {drawn.floor for drawn in worlds} == set(world.FLOORS)
  assert {drawn.sky for drawn in worlds} == set(world.SKIES)
  assert {obj.pattern for obj in objs} == {"plain"}


def test_shapes_and_colours_differ_within_a_world(worlds):
  for drawn in worlds:
    assert len({obj.shape for obj in drawn.objs}) == len(drawn.objs)
    assert len({obj.color for obj in drawn.objs}) == len(drawn.objs)


def test_objects_stand_apart(worlds):
  """By more than their radii: .75 of its size is the widest, a cube's half diagonal."""
  for drawn in worlds:
    for i, one in enumerate(drawn.objs):
      for other in drawn.objs[:i]:
        assert math.hypot(one.x - other.x, one.y - other.y) > 0.68 * (one.s + other.s)


@support.every_scene
def test_the_shared_scenes_are_among_what_may_be_drawn(folder, worlds):
  support.require(folder)
  shared = support.read_world(folder)
  alike = [drawn for drawn in worlds if len(drawn.objs) == len(shared.objs)]
  numbers = lambda drawn: [(math.hypot(obj.x, obj.y), obj.s, obj.yaw) for obj in drawn.objs]
  drawn = np.array([row for one in alike for row in numbers(one)])
  slack = 0.05 * np.ptp(drawn, axis=0)  # the ends of a range are seldom drawn
  assert (numbers(shared) >= drawn.min(axis=0) - slack).all()
  assert (numbers(shared) <= drawn.max(axis=0) + slack).all()
  assert shared.light[2] == pytest.approx(worlds[0].light[2], abs=1e-12)
  front = np.array([drawn.light[1] for drawn in worlds])
  assert front.min() - 0.01 <= shared.light[1] <= front.max() + 0.01


def test_cameras_stand_on_an_arc_and_look_at_its_middle():
  c2w = np.stack([world.cameras(seed) for seed in SEEDS])
  assert c2w.shape == (len(SEEDS), 8, 4, 4)
  offset = c2w[..., :3, 3] - MIDDLE
  distance = np.linalg.norm(offset, axis=-1)
  np.testing.assert_allclose(c2w[..., :3, 2], -offset / distance[..., None], atol=1e-12)
  np.testing.assert_allclose(np.linalg.det(c2w[..., :3, :3]), 1, atol=1e-12)
  assert (c2w[..., 2, 0] == 0).all(), "the horizon is level"
  assert (c2w[..., 2, 1] < 0).all(), "y is down"
  azimuth = np.degrees(np.arctan2(offset[..., 0], -offset[..., 1]))
  elevation = np.degrees(np.arcsin(offset[..., 2] / distance))
  assert (abs(azimuth - np.linspace(-30, 30, 8)) <= 3).all()
  assert (abs(elevation - 15.5) <= 2.5).all()
  assert (abs(distance / 2.9 - 1) <= 0.03).all()


def test_every_view_shows_every_object(worlds):
  several = [(seed, drawn) for seed, drawn in zip(SEEDS, worlds, strict=True) if drawn.objs[1:]]
  program = jax.jit(jax.vmap(lambda row, poses: render.render(row, poses, world.K, 64)[2]))
  c2w = np.stack([world.cameras(seed) for seed, _ in several])
  ids = np.asarray(program(render.arrays([drawn for _, drawn in several]), c2w))
  for i in range(world.MOST_OBJECTS):
    having = [len(drawn.objs) > i for _, drawn in several]
    assert (ids[having] == i + 2).mean(axis=(2, 3)).min() > 0.005


@support.every_scene
def test_captions_and_json_are_those_of_the_shared_scenes(folder):
  support.require(folder)
  told = support.read_json(folder / "edits.json")
  drawn = support.read_world(folder)
  assert world.caption(drawn) == told["source_caption"]
  assert world.to_json(drawn) == told["world"]


def test_a_definite_edit_changes_one_thing_and_says_which(worlds):
  for drawn, edit in edits_of(worlds):
    if not edit.definite:
      continue
    assert edit.plausible == (edit.world,)
    before, after = (world.caption(one).split() for one in (drawn, edit.world))
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    words = {"by": "day", "at": edit.world.sky}  # "by day" becomes "at night"
    assert {words.get(word, word) for word in changed} <= set(edit.instruction.split())
    assert changed


def test_an_ambiguous_edit_has_every_other_colour(worlds):
  kinds = collections.Counter()
  for drawn, edit in edits_of(worlds):
    kinds[edit.kind] += 1
    if edit.definite:
      continue
    (which,) = (i for i, obj in enumerate(drawn.objs) if obj.shape in edit.instruction.split())
    colors = [one.objs[which].color for one in edit.plausible]
    assert colors == [color for color in world.COLORS if color != drawn.objs[which].color]
    assert edit.world in edit.plausible
    change = lambda one, color, i=which: dataclasses.replace(
      one, objs=(*one.objs[:i], dataclasses.replace(one.objs[i], color=color), *one.objs[i + 1 :])
    )
    assert {change(one, "red") for one in edit.plausible} == {change(drawn, "red")}
  assert kinds == dict.fromkeys(world.WORDINGS, len(SEEDS))


def test_every_wording_is_drawn_and_only_those(worlds):
  heard = collections.defaultdict(set)
  patterns = {
    kind: {words: re.compile(words.replace("{}", r"\w+") + "$") for words in wordings}
    for kind, wordings in world.WIDE_WORDINGS.items()
  }
  for _, edit in edits_of(worlds, wordings=world.WIDE_WORDINGS):
    fits = {words for words, p in patterns[edit.kind].items() if p.match(edit.instruction)}
    assert fits, edit.instruction
    heard[edit.kind] |= fits
  assert heard == {kind: set(wordings) for kind, wordings in world.WIDE_WORDINGS.items()}


def test_the_teacher_knows_every_word(worlds):
  folder = support.BUNDLED.parents[1] / "bundled" / "teacher" / weights.TOKENIZER
  words = tokenizer.load(folder)
  texts = {world.caption(drawn) for drawn in worlds}
  texts |= {edit.instruction for _, edit in edits_of(worlds)}
  for word in {word for text in texts for word in text.split()} - {","}:
    assert len(words.tokenize(word)) == 1, word


def test_patterns_are_drawn_where_they_are_asked_for():
  drawn = [world.sample(seed, patterned=0.7) for seed in range(30)]
  objs = [obj for one in drawn for obj in one.objs]
  assert {obj.pattern for obj in objs} == set(world.PATTERNS)
  assert all((obj.color2 == "") == (obj.pattern == "plain") for obj in objs)
  assert all(obj.color2 != obj.color for obj in objs)
  assert all(world.from_json(world.to_json(one)) == one for one in drawn)
  striped = next(obj for obj in objs if obj.pattern == "level stripes")
  expected = f"{striped.color} {striped.shape} with {striped.color2} stripes"
  assert world.describe(striped) == expected


def test_painting_with_a_pattern_leaves_its_colour_open(worlds):
  wordings = {"pattern": world.WIDE_WORDINGS["pattern"]}
  for drawn, edit in edits_of(worlds[: len(SEEDS)], wordings=wordings):
    (obj,) = (obj for obj in drawn.objs if obj.shape in edit.instruction.split())
    after = [next(o for o in one.objs if o.shape == obj.shape) for one in edit.plausible]
    assert {o.color2 for o in after} == set(world.COLORS) - {obj.color}
    assert {o.color for o in after} == {obj.color}
    assert {o.pattern.split()[-1] for o in after} == {edit.instruction.split()[-1]}
