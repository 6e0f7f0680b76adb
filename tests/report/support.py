"""Run folders that no run has written: what a report reads, and nothing else."""

import json

import numpy as np
from PIL import Image

from imx2mx_jax import sheets

NAMES = ("a.jpg", "b.jpg", "c.jpg")
METRICS = {
  "clip": {"model": "a CLIP", "sim": 0.25, "dir": 0.125, "cons": 0.5},
  "epipolar": {
    "pairs": [
      {"views": [0, 1], "matches": 40, "median_sed": 1.25, "floor": 1.0},
      {"views": [0, 2], "matches": 30, "median_sed": 3.75, "floor": 0.5},
      {"views": [1, 2], "matches": 0, "median_sed": None, "floor": 0.75},
    ],
    "median": 3.75,
    "median_floor": 0.75,
    "passing": {"2": 0.5, "4": 1.0, "8": 1.0},
    "floor_passing": {"2": 1.0, "4": 1.0, "8": 1.0},
  },
  "warp": {"mean": 0.04, "floor": 0.01, "map": "warp.png"},
  "background": {"psnr": 31.5, "ssim": 0.9, "share": 0.25},
  "controls": {"epipolar": {"photographs": 0.5, "noise": None}},
}


def picture(seed, size=48):
  """Noise with a colour of its own, so that no two pictures are equal."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, 200, (size, size, 3), np.uint8) // 4 + rng.integers(0, 200, 3, np.uint8)


def write(folder, *, names=NAMES, size=48, metrics=METRICS, snapshots=(2, 4), rows=6, **settings):
  """A finished run; `teacher__steps=3` changes that setting."""
  sources, edits = (
    np.stack([picture((row, view), size) for view in range(len(names))]) for row in range(2)
  )
  values = {"instruction": "make it day", "scene.path": "scenes/desk", "teacher.steps": 100}
  values |= {name.replace("__", "."): value for name, value in settings.items()}
  session = {
    "imx2mx_jax": "0.1.0",
    "packages": {"jax": "0.10.2"},
    "python": "3.11.7",
    "machine": "Linux",
    "devices": ["an accelerator"],
  }
  config = {"settings": values, "names": names, "sessions": [session]}
  done = {"iterations": 6, "seconds": 65.0, "at": "2026-11-23T09:30:00+00:00"}
  row = {"lr": 1e-4, "images_per_second": 2.5, "compile_seconds": 5.0}
  rows = [row | {"iteration": i, "loss": (-1) ** i / i, "tau": 999 - i} for i in range(1, rows + 1)]
  pictures = {
    "grid.png": sheets.grid(sources, edits),
    "reference.png": picture(7, size),
    "warp.png": np.concatenate([picture(8, size)] * len(names), axis=1),
  }
  pictures |= {f"edited/{name[:-4]}.png": x for name, x in zip(names, edits, strict=True)}
  pictures |= {f"snapshots/{step:06}.png": np.concatenate(edits, axis=1) for step in snapshots}
  for name, image in pictures.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / name)
  for name, content in {"config": config, "finished": done, "metrics": metrics}.items():
    if content:
      (folder / f"{name}.json").write_text(json.dumps(content))
  (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
  (folder / "NOTICE").write_text("teacher: somebody\nlicence: free")
  return folder
