"""Run folders without a run: the bundled scene's true views as somebody's edit."""

import json
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from imx2mx_jax.evaluate.__main__ import main
from tests.metrics.support import BUNDLED, MICRO

SCENE = MICRO / "scenes" / "scene_05"
CLIP = f"--clip={BUNDLED / 'metric_clip'}"
NAMES = ("000.png", "002.png", "005.png", "007.png")
SIZE = 64


def views(folder: pathlib.Path, size: int = SIZE) -> np.ndarray:
  """The pictures of a folder, uint8."""
  opened = [Image.open(folder / name).convert("RGB").reduce(128 // size) for name in NAMES]
  return np.stack([np.asarray(picture) for picture in opened])


def finished(
  folder: pathlib.Path, edited: np.ndarray, names: Sequence[str] = NAMES, **settings
) -> pathlib.Path:
  """Writes what a finished run of an edit has, as far as its measures read it."""
  known = {
    "scene.path": str(SCENE),
    "scene.frames": list(names),
    "instruction": "make it sunset",
    "compat": "",
  }
  (folder / "edited").mkdir(parents=True)
  for name, picture in zip(names, edited, strict=True):
    Image.fromarray(picture).save(folder / "edited" / f"{pathlib.Path(name).stem}.png")
  content = {"settings": known | settings, "names": list(names)}
  (folder / "config.json").write_text(json.dumps(content))
  (folder / "finished.json").write_text("{}")
  return folder


def evaluated(*arguments) -> int:
  """The command's exit code."""
  return main(["evaluate", *map(str, arguments)])


def metrics(folder: pathlib.Path) -> dict:
  """What it wrote."""
  return json.loads((folder / "metrics.json").read_text())
