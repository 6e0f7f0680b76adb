"""Folders to learn from, streamed from disk.

- student: a folder with any number of scenes (folders with a transforms.json) below it, or one;
- teacher: a metadata.jsonl of {"source": FILE, "instruction": TEXT, "edited": FILE} a line;
- controlnet: a metadata.jsonl of {"image": FILE, "control": FILE, "caption": TEXT} a line;
- vae, clip: a metadata.jsonl of {"image": FILE, "caption": TEXT} a line, or, for the vae, a folder
  of pictures.

Files are relative to the metadata. Pictures are resized and cropped to the square that is learned.
Each step's rows are drawn from the training's seed and the step.
"""

import concurrent.futures
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
from PIL import Image, UnidentifiedImageError

from imx2mx_jax import cameras, pictures, scene
from imx2mx_jax import tokenizer as tokens
from imx2mx_jax.errors import SceneError
from imx2mx_jax.shapes import Array, Key, UInt8, np
from imx2mx_jax.train import losses
from imx2mx_jax.train.settings import TrainConfig

METADATA = "metadata.jsonl"
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_FIELDS = {
  "vae": ("image",),
  "clip": ("image", "caption"),
  "teacher": ("source", "instruction", "edited"),
  "controlnet": ("image", "control", "caption"),
}
_TEXTS = {"caption", "instruction"}
_THREADS = 16

Row = dict[str, Any]


class Folder:
  """Items of a folder: each step gets `batch` of them, made by `read`, from a few threads.

  read: of an item's number and a random generator, a row. Pictures travel as 8 bits.
  """

  table = ()

  def __init__(self, run: TrainConfig, count: int, read: Callable[[int, np.random.Generator], Row]):
    self._run, self._count, self._read = run, count, read
    self._threads = concurrent.futures.ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1))

  def rows(self, start: int, count: int) -> Row:
    """The rows of `count` steps, stacked: [count, B, ...]."""
    batch = self._run.batch
    places = [(step, row) for step in range(start, start + count) for row in range(batch)]
    made = list(self._threads.map(lambda place: self._row(*place), places))
    stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *made)
    return jax.tree.map(lambda x: x.reshape(count, batch, *x.shape[1:]), stacked)

  def batch(self, table: Any, rows: Row, key: Key[Array, ""]) -> losses.Batch:
    """The rows, their pictures in [-1, 1]."""
    del table, key
    batch = {k: x / 127.5 - 1 if x.dtype == np.uint8 else x for k, x in rows.items()}
    return batch | {"control": (batch["control"] + 1) / 2} if "control" in batch else batch

  def sample(self, table: Any, count: int) -> losses.Batch:
    """Items from the first on, which are learned from too."""
    del table
    numbers = [number % self._count for number in range(min(count, self._run.batch))]
    some = [
      self._read(number, np.random.default_rng([self._run.seed, number])) for number in numbers
    ]
    stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *some)
    batch = self.batch((), stacked, jax.random.key(0))
    if "edited" in batch:
      batch["definite"] = np.ones(len(some), bool)
    return batch

  def _row(self, step: int, row: int) -> Row:
    rng = np.random.default_rng([self._run.seed, step, row])
    return self._read(int(rng.integers(self._count)), rng)


def open_folder(run: TrainConfig, tokenizer: pathlib.Path | None) -> Folder:
  """The folder that the settings name. Raises SceneError where it does not hold what it should."""
  path = pathlib.Path(run.data.source)
  if not path.is_dir():
    raise SceneError(f"--config.data.source={path}: there is no such folder")
  if run.model == "student":
    return _sets(run, path)
  return _records(run, path, tokenizer)


def _sets(run: TrainConfig, path: pathlib.Path) -> Folder:
  """Sets of views of scenes, the input first, in some of them among the others too."""
  files = sorted(path.rglob("transforms.json"))
  if not files:
    raise SceneError(f"{path}: there is no transforms.json in it or below it")
  wanted = run.data.frames
  scenes = [scene.read_transforms(file) for file in files]
  for transforms in scenes:
    if len(transforms.frames) < wanted:
      raise SceneError(
        f"{transforms.file} has {len(transforms.frames)} frames and a set has {wanted}; give "
        "--config.data.frames"
      )

  def read(number: int, rng: np.random.Generator) -> Row:
    transforms = scenes[number]
    chosen = rng.permutation(len(transforms.frames))[: max(wanted, scene.FEWEST_VIEWS)]
    views = scene.load_scene(transforms.file, chosen.tolist(), size=run.data.size)
    order = np.arange(wanted)
    if wanted > 1 and rng.random() < run.loss.repeated:
      order[rng.integers(1, wanted)] = 0
    return {
      "images": pictures.to_uint8(views.images[order]),
      "c2w": views.c2w[order].astype(np.float32),
      "K": views.K[order].astype(np.float32),
    }

  return Folder(run, len(scenes), read)


def _records(run: TrainConfig, path: pathlib.Path, tokenizer: pathlib.Path | None) -> Folder:
  """Rows of a metadata.jsonl, or the pictures of a folder."""
  records = _listed(path, _FIELDS[run.model])
  words = tokens.load(tokenizer) if tokenizer else None
  guided = run.model in ("teacher", "controlnet")
  constant = {"no_text": tokens.encode(words, [""])[0]} if guided else {}

  def read(number: int, rng: np.random.Generator) -> Row:
    del rng
    row = dict(constant)
    for field in _FIELDS[run.model]:
      value = records[number][field]
      if field in _TEXTS:
        row["ids"] = tokens.encode(words, [value], truncate=True)[0]
      else:
        row[field] = read_picture(path / value, run.data.size)
    return row

  return Folder(run, len(records), read)


def _listed(path: pathlib.Path, fields: Sequence[str]) -> list[dict[str, str]]:
  file = path / METADATA
  if not file.is_file():
    names = sorted(entry.name for entry in path.iterdir() if entry.suffix.lower() in _PICTURES)
    if fields != ("image",) or not names:
      raise SceneError(f"{path}: there is no {METADATA} with {', '.join(fields)} in each line")
    return [{"image": name} for name in names]
  records = []
  try:
    lines = file.read_text(encoding="utf-8").splitlines()
  except UnicodeDecodeError as error:
    raise SceneError(f"{file} is not text in UTF-8 ({error})") from error
  for number, line in enumerate(lines, 1):
    try:
      record = json.loads(line)
      records.append({field: str(record[field]) for field in fields})
    except (ValueError, KeyError, TypeError) as error:
      raise SceneError(
        f"{file}, line {number}: wanted an object with {', '.join(fields)} ({error!r})"
      ) from error
  if not records:
    raise SceneError(f"{file} is empty")
  return records


def read_picture(file: pathlib.Path, size: int) -> UInt8[np.ndarray, "S S 3"]:
  """A picture's middle square of `size` pixels. Raises SceneError."""
  try:
    with Image.open(file) as image:
      pixels = np.asarray(image.convert("RGB"))
  except (OSError, UnidentifiedImageError) as error:
    raise SceneError(f"{file} cannot be read as a picture ({error})") from error
  square, _ = cameras.resize_and_crop(pixels.astype(np.float32), size)
  return np.rint(square).astype(np.uint8)
