"""Writes a converted folder in the layout of the released weights, for PyTorch's libraries.

    teacher         a diffusers pipeline       student        SEVA's names and parameters
    student_vae     diffusers' AutoencoderKL   image_encoder  open_clip's names and fields
    metric_clip     transformers' CLIPModel    controlnet     diffusers' ControlNetModel

Beside them NOTICE: where the weights come from and what their licence asks.
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError

from convert_weights import disk, names, reader
from convert_weights.names import Assignment, ConversionError
from convert_weights.tables import clip
from imx2mx_jax import checkpoint, weights
from imx2mx_jax.errors import WeightsError

_AGAIN = "convert or train it again"
_SAMPLER = "EulerAncestralDiscreteScheduler"


def export(kind: str, src: pathlib.Path, dst: pathlib.Path, dtype: str = "float32") -> None:
  """Writes the converted folder `src`, or the one that a run's folder `src` keeps, to `dst`.

  dtype: a key of disk.STORED, or "source" for each array's own. Everything is written beside `dst`
  and renamed at the end. Raises WeightsError where `src` holds no such model, and ConversionError
  where `dst` is taken or cannot be written.
  """
  _check_destination(dst)
  src = _converted(kind, src)
  info = weights.read_info(src, kind)
  documents = _documents(src, info)
  networks = [_plan(src, info, name, dtype) for name in info.networks]
  with disk.all_or_nothing(dst) as folder:
    disk.check_space(folder, sum(sum(network.sizes) for network in networks))
    for name, document in documents.items():
      _write(folder / name, json.dumps(document, indent=1) + "\n")
    for network in networks:
      place = reader.PLACES[kind][network.name]  # of its names the last is the plain one
      file = folder / f"{place.folders[-1]}{place.stems[-1]}.safetensors"
      _write_tensors(file, network, _arrays(src, info, network.name))
    if kind in reader.TOKENIZERS:
      _copy_files(src / weights.TOKENIZER, folder / reader.TOKENIZERS[kind])
    _write(folder / "NOTICE", _notice(info))


@dataclasses.dataclass(frozen=True)
class _Network:
  """How one network is written. dtypes: {released name: dtype}."""

  name: str
  rows: tuple[Assignment, ...]
  dtypes: dict[str, np.dtype]

  @property
  def sizes(self) -> list[int]:
    """In bytes, of our arrays."""
    return [int(np.prod(row.shape)) * self.dtypes[row.released].itemsize for row in self.rows]


def _check_destination(dst: pathlib.Path) -> None:
  if dst.exists() and not (dst.is_dir() and not any(dst.iterdir())):
    raise ConversionError(f"{dst} exists and is left alone; remove it, or give another --dst")


def _converted(kind: str, src: pathlib.Path) -> pathlib.Path:
  """Runs and trainings keep a model in a folder that bears its kind's name."""
  return src if (src / weights.INFO).exists() or not (src / kind).is_dir() else src / kind


def _documents(src: pathlib.Path, info: weights.ModelInfo) -> dict[str, Any]:
  """{file: its content} of all that is JSON."""
  documents = {}
  for name, place in reader.PLACES[info.kind].items():
    shape = info.networks[name].shape
    config = reader.TABLES[name].config(shape)
    _check_said(src, name, shape, reader.TABLES[name].shape(config))
    documents[place.folders[-1] + place.configs[-1]] = config
  if info.kind == "teacher":
    documents |= _pipeline(info)
  if info.kind == "metric_clip":
    vision = info.networks["clip"].shape.vision
    documents["preprocessor_config.json"] = clip.processor(vision)
  return documents


def _check_said(src: pathlib.Path, name: str, shape: Any, said: Any) -> None:
  """Refuses what a released config has no field for, like another number of SEVA's groups."""
  fields = [field.name for field in dataclasses.fields(shape)]
  unsaid = [
    f"{field} = {getattr(shape, field)!r}"
    for field in fields
    if getattr(shape, field) != getattr(said, field)
  ]
  if unsaid:
    raise ConversionError(
      f"{src}: the released layout cannot say {', '.join(unsaid)} of its {name}; export a model "
      "that was trained with the released value"
    )


def _pipeline(info: weights.ModelInfo) -> dict[str, Any]:
  """What makes a diffusers pipeline of the networks, with the sampler of our reference edit."""
  unet = info.networks["unet"].shape
  edits = unet.in_channels == 2 * unet.out_channels
  pipeline = "StableDiffusionInstructPix2PixPipeline" if edits else "StableDiffusionPipeline"
  index = {
    "_class_name": pipeline,
    "scheduler": ["diffusers", _SAMPLER],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "safety_checker": [None, None],
    "requires_safety_checker": False,
  }
  scheduler = {"_class_name": _SAMPLER, **reader.SCHEDULE, "timestep_spacing": "linspace"}
  return {"model_index.json": index, reader.SCHEDULERS["teacher"]: scheduler}


def _plan(src: pathlib.Path, info: weights.ModelInfo, name: str, dtype: str) -> _Network:
  wanted = reader.targets(name, info.networks[name].shape)
  held = _held(src, info, name)
  if {path: leaf.shape for path, leaf in held.items()} != wanted:
    raise WeightsError(f"{src}: {name} is not the network that {weights.INFO} describes; {_AGAIN}")
  rows = names.assignments(wanted, reader.TABLES[name].DIALECTS[0])
  dtypes: dict[str, np.dtype] = {}
  for row in rows:
    own = disk.dtype(dtype, held[row.path].dtype)
    dtypes[row.released] = np.promote_types(own, dtypes.get(row.released, own))
  return _Network(name, tuple(rows), dtypes)


def _held(src: pathlib.Path, info: weights.ModelInfo, name: str) -> dict[str, jax.ShapeDtypeStruct]:
  """{path: shape and dtype} of a network as it is stored; reads no array."""
  if info.format == "safetensors":
    tensors = reader.open_tensors(src / weights.SAFETENSORS)
    return {
      path.removeprefix(f"{name}/"): jax.ShapeDtypeStruct(shape, tensors.dtype(path))
      for path, shape in tensors.shapes.items()
      if path.startswith(f"{name}/")
    }
  held = {}
  try:
    for part in range(info.networks[name].parts):
      held |= checkpoint.contents(src / name / str(part))
  except checkpoint.CheckpointError as error:
    raise _damaged(src, name, error) from error
  return held


def _arrays(
  src: pathlib.Path, info: weights.ModelInfo, name: str
) -> Iterator[tuple[str, np.ndarray]]:
  """(path, array) of a network as it is stored; one part of it is in memory at a time."""
  try:
    for part in weights.read(src, info, name):
      yield from ((path, np.asarray(array)) for path, array in part.items())
  except (checkpoint.CheckpointError, SafetensorError) as error:
    raise _damaged(src, name, error) from error


def _damaged(src: pathlib.Path, name: str, error: Exception) -> WeightsError:
  return WeightsError(f"{src}: {name} is damaged ({error}); {_AGAIN}")


def _write_tensors(
  file: pathlib.Path, network: _Network, arrays: Iterator[tuple[str, np.ndarray]]
) -> None:
  """Writes each array to its place in the file, in whatever order they come."""
  rows = {row.path: row for row in network.rows}
  tensors = {
    row.released: (network.dtypes[row.released], row.released_shape) for row in network.rows
  }
  widest_first = sorted(tensors.items(), key=lambda item: -item[1][0].itemsize)  # or they misalign
  first, begins = disk.head(dict(widest_first), {"format": "pt"})
  file.parent.mkdir(exist_ok=True)
  with file.open("wb") as stream, disk.progress(network.name, network.sizes) as count:
    stream.write(first)
    for path, array in arrays:
      row = rows[path]
      piece = disk.stored(row.back(array), network.dtypes[row.released], path)
      stream.seek(begins[row.released] + row.third * piece.nbytes)
      stream.write(piece.tobytes())
      count(piece.nbytes)


def _notice(info: weights.ModelInfo) -> str:
  lines = (f"{info.kind}: {info.source}", f"licence: {info.licence}", info.terms, info.notice)
  return "\n".join(filter(None, lines)) + "\n"


def _copy_files(src: pathlib.Path, dst: pathlib.Path) -> None:
  dst.mkdir(exist_ok=True)
  for file in src.iterdir():
    shutil.copyfile(file, dst / file.name)


def _write(file: pathlib.Path, text: str) -> None:
  file.parent.mkdir(exist_ok=True)
  file.write_text(text)
