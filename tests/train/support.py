"""Trainings as small as they can be, on a few pictures in a folder, through the command line."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image

REPOSITORY = pathlib.Path(__file__).parents[2]
MICRO = REPOSITORY / "imx2mx_jax" / "micro"
TOKENIZER = MICRO / "bundled" / "teacher" / "tokenizer"
STEPS = 6

_TEXT = {"width": 8, "layers": 1, "heads": 2, "mlp_width": 8}
_VISION = {"image_size": 8, "patch_size": 4, "embed_width": 8, **_TEXT}
_UNET = {"channels": (12, 12), "heads": (2, 2), "groups": 4, "context_width": 8}
_SEVA = {"channels": 12, "head_width": 6, "groups": 4, "context_width": 8}
_COMMON = {
  "steps": STEPS,
  "batch": 4,
  "log_every": 2,
  "save_every": 4,
  "sample_every": 3,
  "optim.warmup": 2,
}
_MODELS = {
  "vae": {"data.size": 16, "loss.small": 8, "shape.channels": (8, 8), "shape.groups": 4},
  "clip": {
    "data.size": 16,
    **{f"shape.text.{k}": v for k, v in _TEXT.items()},
    **{f"shape.vision.{k}": v for k, v in _VISION.items()},
  },
  "teacher": {"data.size": 16, "data.rendered": 0, **{f"shape.{k}": v for k, v in _UNET.items()}},
  "controlnet": {
    "data.size": 16,
    "data.rendered": 0,
    "shape.hint_channels": (4, 4),
    **{f"shape.{k}": v for k, v in _UNET.items()},
  },
  "student": {"data.size": 16, "data.frames": 3, **{f"shape.{k}": v for k, v in _SEVA.items()}},
}


def arguments(model: str, run_dir, **changes) -> list[str]:
  """The command line of a small training; `optim__lr=1` changes --config.optim.lr."""
  changes = {name.replace("__", "."): value for name, value in changes.items()}
  fields = _COMMON | _MODELS[model] | {"run_dir": run_dir} | changes
  config = f"--config={REPOSITORY / 'configs' / 'train' / model}.py"
  return [config, *(f"--config.{name}={value}" for name, value in fields.items())]


@contextlib.contextmanager
def started(cache, model, run_dir, devices=1, **changes):
  """The command in a process of its own, warnings being errors; ended with the block."""
  flags = f"--xla_force_host_platform_device_count={devices}"
  environment = {
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}",
  }
  command = [sys.executable, "-W", "error", "-m", "imx2mx_jax.train"]
  process = subprocess.Popen(
    [*command, *arguments(model, run_dir, **changes)],
    cwd=REPOSITORY,
    env=os.environ | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  with process:
    try:
      yield process
    finally:
      process.kill()


def ran(cache, model, run_dir, **changes) -> list[str]:
  """The lines of a training that ends well."""
  with started(cache, model, run_dir, **changes) as process:
    lines, error = process.communicate()
    assert (process.returncode, error) == (0, "")
  return lines.splitlines()


def journal(run_dir) -> list[dict]:
  """metrics.jsonl without what depends on the clock."""
  rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
  return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]


def pictures(folder: pathlib.Path) -> pathlib.Path:
  """A folder to learn each of the single-picture models from: four pictures, one line for each."""
  folder.mkdir()
  rng = np.random.default_rng(0)
  lines = []
  for number in range(4):
    name = f"{number}.png"
    pixels = rng.integers(0, 256, (3, 4, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    Image.fromarray(pixels).save(folder / name)
    text = f"make it {('day', 'night', 'sunset', 'night')[number]}"
    texts = {"caption": text, "instruction": text}
    lines.append(
      json.dumps(
        {field: name for field in ("image", "control", "source")} | {"edited": "0.png"} | texts
      )
    )
  (folder / "metadata.jsonl").write_text("\n".join(lines))
  return folder


def scenes(folder: pathlib.Path) -> pathlib.Path:
  """A folder of two scenes."""
  for name in ("a", "b"):
    shutil.copytree(MICRO / "scenes" / "scene_05", folder / name, ignore=_unneeded)
  return folder


def _unneeded(folder, names):
  return [name for name in names if name in ("edited", "depth", "ids")]
