"""Says what there is to run with, and what would run: the text to paste into a bug report.

    python -m imx2mx_jax.doctor
    python -m imx2mx_jax.doctor configs/default.py configs/paper.py:face_elf

Versions, devices, free memory and disk, kept compilations, converted weights, and for each config
whether it would run as it stands. Nothing is written or sent. Exit code: 0.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence

import psutil

from imx2mx_jax import __version__, config
from imx2mx_jax.errors import UserError
from imx2mx_jax.terminal import gigabytes

_CONFIGS = ("configs/default.py", "configs/paper.py:person_knight")
_PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "numpy",
  "opencv-python-headless",
)


def main(argv: Sequence[str]) -> int:
  """Prints the findings; `argv` is the command line with the program's name. Gives 0."""
  parser = argparse.ArgumentParser(
    prog="python -m imx2mx_jax.doctor",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("configs", nargs="*", metavar="CONFIG", default=_CONFIGS)
  given = parser.parse_args(argv[1:])
  for title, lines in (
    ("program", _program()),
    ("machine", _machine()),
    ("devices", _devices()),
    ("compiled programs", _compiled()),
    ("weights", _weights(given.configs)),
    ("configs", _would_run(given.configs)),
  ):
    print(f"{title}:", flush=True)
    for line in lines:
      print(f"  {line}", flush=True)
  return 0


def _program() -> Iterator[str]:
  yield f"imx2mx_jax {__version__} in {pathlib.Path(__file__).parent}"
  yield f"Python {platform.python_version()}, {sys.executable}"
  for name in _PACKAGES:
    try:
      yield f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
      yield f"{name} is not installed"


def _machine() -> Iterator[str]:
  memory, disk = psutil.virtual_memory(), psutil.disk_usage(".")
  yield f"{platform.platform()}, {psutil.cpu_count()} cores"
  yield f"memory: {gigabytes(memory.available)} free of {gigabytes(memory.total)}"
  yield f"disk of {pathlib.Path.cwd()}: {gigabytes(disk.free)} free of {gigabytes(disk.total)}"
  for name, value in sorted(os.environ.items()):
    if name.startswith(("JAX_", "XLA_", "IMX2MX_")):
      yield f"{name}={value}"


def _devices() -> Iterator[str]:
  import jax  # takes a second; what needs no JAX is out

  try:
    devices = jax.local_devices()
  except RuntimeError as error:
    yield f"none: {str(error).splitlines()[0]}"
    return
  place = f"process {jax.process_index()} of {jax.process_count()}"
  yield f"{place}, with {len(devices)} of {jax.device_count()} devices"
  for device in devices:
    free = _free(device.memory_stats() or {})
    yield f"{device.id}: {device.device_kind} ({device.platform}){free}"


def _free(stats: Mapping[str, int]) -> str:
  """Of an accelerator's memory; a CPU's is the machine's."""
  if not {"bytes_limit", "bytes_in_use"} <= stats.keys():
    return ""
  limit = stats["bytes_limit"]
  return f", {gigabytes(limit - stats['bytes_in_use'])} free of {gigabytes(limit)}"


def _compiled() -> Iterator[str]:
  from imx2mx_jax import compilation

  folder = compilation.folder()
  if folder is None:
    yield "not kept"
    return
  sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
  yield f"{folder}: {len(sizes)} files, {gigabytes(sum(sizes))}"


def _weights(names: Sequence[str]) -> Iterator[str]:
  """The converted folders that lie where the configs look for theirs."""
  parents: dict[pathlib.Path, None] = {}
  for name in names:
    try:
      fields = config.flat(config.parse(["doctor", f"--config={name}"]))
    except UserError:
      continue  # told among the configs
    folders = [fields[key] for key in ("teacher.weights", "student.weights", "student.vae")]
    parents |= {pathlib.Path(folder).parent: None for folder in folders}
  for parent in parents:
    found = sorted(parent.glob("*/model.json"))
    yield from map(_model, (file.parent for file in found))
    if not found:
      yield f"{parent}: nothing that python -m convert_weights has written"


def _model(folder: pathlib.Path) -> str:
  from imx2mx_jax import weights

  try:
    info = weights.read_info(folder, json.loads((folder / weights.INFO).read_text())["kind"])
  except (UserError, ValueError, KeyError) as error:
    return f"{folder}: {error}"
  sizes = [network.size for network in info.networks.values()]
  size = sizes[0] if info.format == "safetensors" else sum(sizes)  # one file holds them all
  return f"{folder}: {info.kind}, {gigabytes(size)}, {info.source}; {info.licence}"


def _would_run(names: Sequence[str]) -> Iterator[str]:
  import jax

  from imx2mx_jax import edit, estimates
  from imx2mx_jax.scene import read_transforms

  try:
    platform = jax.default_backend()
  except RuntimeError as error:
    yield f"nothing would run: {str(error).splitlines()[0]}"
    return
  for name in names:
    try:
      run = config.resolve(config.parse(["doctor", f"--config={name}"]), platform)
      edit.check_models(run)
      frames = read_transforms(run.scene.path).frames
      holds = estimates.by_preset(run, len(run.scene.frames or frames))
    except UserError as error:
      yield f"{name} would not run: {error}"
    else:
      yield f"{name} would run, in {run.dtype}; {holds}"


if __name__ == "__main__":
  sys.exit(main(sys.argv))
