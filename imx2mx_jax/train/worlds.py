"""The micro world as a source: worlds drawn by the host before the first step, then a table.

Which rows of it a step sees, through which cameras, is drawn on the device, which renders them too:
no step waits for the host.
"""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import signal
from typing import Any

import jax
import jax.numpy as jnp

from imx2mx_jax import conditions
from imx2mx_jax import tokenizer as tokens
from imx2mx_jax.micro import render, world
from imx2mx_jax.shapes import Array, Float, Int, Key, np
from imx2mx_jax.train import losses
from imx2mx_jax.train.settings import DataConfig, TrainConfig

HELD_OUT = 256
"""Worlds, the first of a table, that are for the sample pictures only."""

_WORTH_PROCESSES = 4096  # worlds, below which starting processes takes longer than it saves


class MicroWorld:
  """A table of micro worlds from which the device draws and renders each step's batch."""

  def __init__(self, run: TrainConfig, tokenizer: pathlib.Path | None):
    self._run = run
    worlds = _drawn(run.data, (run.seed + 1) * 10**9, run.data.worlds + HELD_OUT)
    self.table = {
      "worlds": render.arrays([row.world for row in worlds]),
      "c2w": np.stack([row.c2w for row in worlds]).astype(np.float32),
    }
    words = tokens.load(tokenizer) if tokenizer else None
    if run.model in ("clip", "controlnet"):
      self.table["ids"] = _encode(words, [row.caption for row in worlds])
    if run.model == "controlnet":
      self.table["no_text"] = _encode(words, [""])
    if run.model == "teacher":
      pairs = [(i, edit) for i, row in enumerate(worlds) for edit in row.edits]
      self._held_out_pairs = sum(i < HELD_OUT for i, _ in pairs)
      self.table |= {
        "of": np.array([i for i, _ in pairs], np.int32),
        "edited": render.arrays([edit.world for _, edit in pairs]),
        "definite": np.array([edit.definite for _, edit in pairs]),
        "ids": _encode(words, [edit.instruction for _, edit in pairs]),
        "no_text": _encode(words, [""]),
      }

  def rows(self, start: int, count: int) -> None:
    """Nothing: the device draws by itself."""
    del start, count

  def batch(self, table: Any, rows: None, key: Key[Array, ""]) -> losses.Batch:
    """Worlds, views and edits drawn by the key, rendered."""
    del rows
    for_row, for_view = jax.random.split(key)
    first, last = HELD_OUT, len(table["c2w"])
    if self._run.model == "teacher":
      first, last = self._held_out_pairs, len(table["of"])
    chosen = jax.random.randint(for_row, (self._run.batch,), first, last)
    repeated = self._run.loss.repeated if self._run.model == "student" else 0.0
    return self._rendered(table, chosen, for_view, repeated)

  def sample(self, table: Any, count: int) -> losses.Batch:
    """The first worlds, or edits of them, none of which is learned from."""
    some = jnp.arange(min(count, HELD_OUT))
    if self._run.model == "teacher":
      spread = self._held_out_pairs // len(some)
      some = some * spread + some % spread  # of every kind
    batch = self._rendered(table, some, jax.random.key(0), repeated=0.0)
    if self._run.model == "teacher":
      batch["definite"] = table["definite"][some]
    return batch

  def _rendered(
    self, table: Any, chosen: Int[Array, " B"], key: Key[Array, ""], repeated: float
  ) -> dict[str, Array]:
    run, of = self._run, chosen
    if run.model == "teacher":
      of = table["of"][chosen]
    scenes = jax.tree.map(lambda x: x[of], table["worlds"])
    if run.model == "student":
      views = self._sets(key, len(chosen), repeated)
    else:
      views = jax.random.randint(key, (len(chosen), 1), 0, table["c2w"].shape[1])
    c2w = table["c2w"][of[:, None], views]
    images, depth = self._render(scenes, c2w)
    if run.model == "student":
      K = jnp.broadcast_to(jnp.asarray(world.K, jnp.float32), (*c2w.shape[:2], 3, 3))
      return {"images": images, "c2w": c2w, "K": K}
    if run.model == "teacher":
      edited = jax.tree.map(lambda x: x[chosen], table["edited"])
      texts = {"ids": table["ids"][chosen], "no_text": table["no_text"].repeat(len(chosen), axis=0)}
      return {"source": images[:, 0], "edited": self._render(edited, c2w)[0][:, 0], **texts}
    if run.model == "controlnet":
      texts = {"ids": table["ids"][chosen], "no_text": table["no_text"].repeat(len(chosen), axis=0)}
      return {"image": images[:, 0], "control": self._control(images[:, 0], depth[:, 0]), **texts}
    texts = {"ids": table["ids"][chosen]} if run.model == "clip" else {}
    return {"image": images[:, 0], **texts}

  def _sets(self, key: Key[Array, ""], count: int, repeated: float) -> Int[Array, "B T"]:
    """Sets of different views, the input first; a share repeats it among the others."""
    data = self._run.data
    views = self.table["c2w"].shape[1]

    def one(key: Key[Array, ""]) -> Int[Array, " T"]:
      for_order, for_repeat, for_place = jax.random.split(key, 3)
      order = jax.random.permutation(for_order, views)[: data.frames]
      place = jax.random.randint(for_place, (), 1, max(data.frames, 2))
      again = jax.random.bernoulli(for_repeat, repeated) & (jnp.arange(data.frames) == place)
      return jnp.where(again, order[0], order)

    return jax.vmap(one)(jax.random.split(key, count))

  def _control(
    self, images: Float[Array, "B S S 3"], depth: Float[Array, "B R R"]
  ) -> Float[Array, "B S S 3"]:
    size = images.shape[1:3]
    if self._run.data.condition == "depth":
      return jax.vmap(lambda depth: conditions.from_depth(depth, size))(depth)
    outside = jax.ShapeDtypeStruct(images.shape, jnp.float32)
    return jax.pure_callback(conditions.canny, outside, images, vmap_method="sequential")

  def _render(
    self, scenes: Any, c2w: Float[Array, "B V 4 4"]
  ) -> tuple[Float[Array, "B V S S 3"], Float[Array, "B V R R"]]:
    """Pictures, and depth at the size they were rendered at."""
    data = self._run.data
    size = data.rendered or data.size
    images, depth, _ = jax.vmap(
      lambda scene, c2w: render.render(scene, c2w, world.K, size, data.samples)
    )(scenes, c2w)
    resized = losses.resize_images(images.reshape(-1, *images.shape[2:]), data.size)
    return resized.reshape(*images.shape[:2], *resized.shape[1:]), depth


def _encode(words: Any, texts: list[str]) -> Int[np.ndarray, "B L"]:
  """Token ids; every text is taken apart once."""
  different, place = np.unique(texts, return_inverse=True)
  return tokens.encode(words, [str(text) for text in different])[place]


@dataclasses.dataclass(frozen=True)
class _Drawn:
  """What the host draws of one world: its cameras, its caption, its edits."""

  world: world.World
  c2w: Float[np.ndarray, "V 4 4"]
  caption: str
  edits: list[world.Edit]


def _drawn(data: DataConfig, seed: int, count: int) -> list[_Drawn]:
  """The worlds of the seeds from `seed` on, in as many processes as there are cores."""
  draw, seeds = functools.partial(_draw, data), range(seed, seed + count)
  cores = len(os.sched_getaffinity(0))
  if count < _WORTH_PROCESSES or cores == 1:
    return [draw(one) for one in seeds]
  spawned = multiprocessing.get_context("spawn")  # forking a process that runs JAX may hang
  deaf = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
  with concurrent.futures.ProcessPoolExecutor(cores, spawned, **deaf) as pool:
    return list(pool.map(draw, seeds, chunksize=512))


def _draw(data: DataConfig, seed: int) -> _Drawn:
  drawn = world.sample(seed, patterned=data.patterned)
  wordings = world.WIDE_WORDINGS if data.wide else world.WORDINGS
  edits = world.edits(drawn, np.random.default_rng((seed, 2)), wordings=wordings)
  return _Drawn(drawn, world.cameras(seed), world.caption(drawn), edits)
