"""Converted weights: what a folder holds, whether it is the right model, and loading it.

A folder, as `python -m convert_weights` writes it, here or in a bucket:

    model.json          the kind, each network's shape, where the weights came from, licence, notice
    <network>/0, 1, ..  Orbax checkpoints, each a flat dict {path of the parameter: array}; together
                        they hold the network (several, so that none has to fit in memory twice)
    model.safetensors   instead of those, where the format is safetensors (the bundled models)
    tokenizer/          where the kind has a text tower
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from imx2mx_jax import checkpoint, remote
from imx2mx_jax.errors import WeightsError
from imx2mx_jax.models.clip import Clip, ClipShape
from imx2mx_jax.models.clip_text import ClipText, ClipTextShape
from imx2mx_jax.models.clip_vision import ClipVision, ClipVisionShape
from imx2mx_jax.models.controlnet import ControlNet, ControlNetShape
from imx2mx_jax.models.network import Network, abstract
from imx2mx_jax.models.seva import Seva, SevaShape
from imx2mx_jax.models.unet import UNet, UNetShape
from imx2mx_jax.models.vae import Vae, VaeShape
from imx2mx_jax.shapes import Params

NETWORKS = {
  "unet": (UNet, UNetShape),
  "controlnet": (ControlNet, ControlNetShape),
  "vae": (Vae, VaeShape),
  "text_encoder": (ClipText, ClipTextShape),
  "vision": (ClipVision, ClipVisionShape),
  "clip": (Clip, ClipShape),
  "seva": (Seva, SevaShape),
}
"""{name of a network: (its class, its shape's class)}."""

KINDS = {
  "teacher": ("unet", "vae", "text_encoder"),
  "student": ("seva",),
  "student_vae": ("vae",),
  "image_encoder": ("vision",),
  "metric_clip": ("clip",),
  "controlnet": ("controlnet",),
}
"""{kind of model: the networks in its folder}."""

FORMATS = ("orbax", "safetensors")
INFO, SAFETENSORS, TOKENIZER = "model.json", "model.safetensors", "tokenizer"


@dataclasses.dataclass(frozen=True)
class Stored:
  """One network on disk. parts: its Orbax checkpoints (0 in a safetensors file). size: in bytes."""

  shape: Any
  parts: int
  size: int


@dataclasses.dataclass(frozen=True)
class ModelInfo:
  """What model.json says.

  source: the folder or `repository@commit` that was converted; files: {file: sha256} of what was
  read there, of a trained model of what was written. licence, terms, notice: the licence's name,
  what it asks in short, whom to name.
  """

  kind: str
  format: str
  networks: dict[str, Stored]
  source: str
  files: dict[str, str]
  licence: str
  terms: str
  notice: str


def write_info(folder: pathlib.Path, info: ModelInfo) -> None:
  """Writes model.json."""
  (folder / INFO).write_text(json.dumps(dataclasses.asdict(info), indent=1) + "\n")


def is_converted(folder: str) -> bool:
  """Whether a converted model lies there."""
  return (remote.here(folder) / INFO).exists()


def read_info(folder: str | os.PathLike, kind: str) -> ModelInfo:
  """What a converted folder holds. Reads model.json only.

  Raises WeightsError where there is no such folder, where it is not converted, where it holds
  another kind of model than `kind`, or where its files are not those that were written.
  """
  at = remote.here(folder)
  if not (at / INFO).is_file():
    raise WeightsError(_not_converted(folder, at, kind))
  try:
    info = _parse(json.loads((at / INFO).read_text()))
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise WeightsError(
      f"{folder}/{INFO} cannot be read ({type(error).__name__}: {error}); {_again(kind)}"
    ) from error
  if info.kind != kind:
    raise WeightsError(
      f"{folder} holds a {info.kind}, not a {kind}; give the folder that was converted with "
      f"`python -m convert_weights --model={kind}`"
    )
  for name, network in info.networks.items():
    if (size := stored_size(at, info.format, name)) != network.size:
      raise WeightsError(
        f"{folder} is damaged: its {name} takes {size} bytes where {network.size} were written; "
        f"{_again(kind)}"
      )
  return info


def load(
  folder: str | os.PathLike,
  kind: str,
  *,
  dtype=jnp.float32,
  param_dtype=jnp.float32,
  place: Callable[[Params], Params] = jax.device_put,
) -> dict[str, Network]:
  """{name: network} of a converted folder.

  dtype: the networks' compute dtype. param_dtype: the parameters' dtype in memory, whatever it is
  on disk. place: lays parameters out on the devices, some at a time, so that no device has to hold
  all of a network that many share. Raises WeightsError as `read_info` does, and where the arrays
  are not those that model.json describes.
  """
  info = read_info(folder, kind)
  return {
    name: _load(remote.here(folder), info, name, dtype, param_dtype, place)
    for name in info.networks
  }


def described(
  folder: str | os.PathLike, kind: str, *, dtype=jnp.float32, place: Any = None
) -> dict[str, Network]:
  """What `load` gives, with ShapeDtypeStructs for parameters, which lie nowhere.

  Raises what `read_info` does.
  """
  del place
  networks = read_info(folder, kind).networks
  make = lambda name, shape: abstract(NETWORKS[name][0], shape, dtype=dtype)
  return {name: make(name, stored.shape) for name, stored in networks.items()}


def keeping() -> Callable[..., dict[str, Network]]:
  """A `load` that keeps the last five folders, as many as an edit has, in the host's memory.

  Whoever loads one again gets copies on the device at once.
  """

  @functools.lru_cache(maxsize=5)
  def kept(folder: str, kind: str, dtype: np.dtype) -> dict[str, Network]:
    return jax.device_get(load(folder, kind, dtype=dtype))

  def load_again(folder, kind, *, dtype, place=jax.device_put):
    networks = kept(folder, kind, dtype).items()
    put = lambda params: jax.device_put(place(params))
    return {name: Network(net.graphdef, put(net.params)) for name, net in networks}

  return load_again


def read(
  folder: pathlib.Path, info: ModelInfo, name: str, dtype=None
) -> Iterator[dict[str, np.ndarray | jax.Array]]:
  """One network's {path: array}, part by part, in `dtype` or, where that is None, as stored."""
  if info.format == "safetensors":
    yield _read_safetensors(folder / SAFETENSORS, f"{name}/", dtype)
    return
  for part in range(info.networks[name].parts):
    at = folder / name / str(part)
    held = checkpoint.contents(at)
    wanted = {p: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype) for p, x in held.items()}
    yield checkpoint.restore(at, wanted)


def stored_size(folder: pathlib.Path, format: str, name: str) -> int:
  """The bytes that a network takes on disk (in a safetensors file: that all of them take)."""
  if format == "safetensors":
    file = folder / SAFETENSORS
    return file.stat().st_size if file.is_file() else 0
  return sum(file.stat().st_size for file in (folder / name).rglob("*") if file.is_file())


def tokenizer_of(folder: str | os.PathLike) -> pathlib.Path:
  """Where a converted folder has its tokenizer."""
  return remote.here(folder) / TOKENIZER


def _load(folder: pathlib.Path, info: ModelInfo, name: str, dtype, param_dtype, place) -> Network:
  network = abstract(NETWORKS[name][0], info.networks[name].shape, dtype=dtype)
  params: Params = {}
  try:
    for part in read(folder, info, name, param_dtype):
      params |= place({path: jnp.asarray(array, param_dtype) for path, array in part.items()})
  except (checkpoint.CheckpointError, SafetensorError, OSError) as error:
    raise WeightsError(f"{folder}: {name} is damaged ({error}); {_again(info.kind)}") from error
  if wrong := _first_difference(network.params, params):
    raise WeightsError(
      f"{folder}: {name} is not the network that {INFO} describes: {wrong}; {_again(info.kind)}"
    )
  return Network(network.graphdef, {path: params[path] for path in network.params})


def _read_safetensors(file: pathlib.Path, prefix: str, dtype) -> dict[str, np.ndarray]:
  with safe_open(file, "np") as tensors:
    return {
      name.removeprefix(prefix): tensors.get_tensor(name).astype(dtype, copy=False)
      if dtype
      else tensors.get_tensor(name)
      for name in tensors.keys()  # noqa: SIM118 (not a dict)
      if name.startswith(prefix)
    }


def _first_difference(wanted: dict[str, jax.ShapeDtypeStruct], found: Params) -> str | None:
  for path in wanted | found:
    if path not in found:
      return f"{path} is missing"
    if path not in wanted:
      return f"{path} does not belong to it"
    if wanted[path].shape != found[path].shape:
      return f"{path} is {list(found[path].shape)}, wanted {list(wanted[path].shape)}"
  return None


def _parse(values: dict) -> ModelInfo:
  networks = {
    name: Stored(_shape(NETWORKS[name][1], stored["shape"]), stored["parts"], stored["size"])
    for name, stored in values["networks"].items()
  }
  info = ModelInfo(**{**values, "networks": networks})
  if tuple(networks) != KINDS[info.kind] or info.format not in FORMATS:
    raise ValueError(f"a {info.kind} in {info.format} of {', '.join(networks)}")
  return info


def _shape(cls: type, values: dict) -> Any:
  """A shape from JSON, where tuples are lists and shapes within it are dicts."""
  types = {field.name: field.type for field in dataclasses.fields(cls)}
  if types.keys() != values.keys():
    raise ValueError(f"fields of {cls.__name__}: {', '.join(types.keys() ^ values.keys())}")
  nested = lambda name: dataclasses.is_dataclass(types[name])
  return cls(
    **{
      name: _shape(types[name], value) if nested(name) else _tuples(value)
      for name, value in values.items()
    }
  )


def _tuples(value: Any) -> Any:
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _again(kind: str) -> str:
  return f"convert it again: python -m convert_weights --model={kind} --src=... --dst=... --force"


def _not_converted(folder: str | os.PathLike, at: pathlib.Path, kind: str) -> str:
  command = f"python -m convert_weights --model={kind} --src={{}} --dst=weights/{kind}"
  if at.is_file() or any(at.glob("*.json")) or any(at.glob("*.safetensors")):
    return (
      f"{folder} holds weights that are not converted; run `{command.format(folder)}` and give "
      f"weights/{kind} in its place"
    )
  missing = "has no model.json" if at.is_dir() else "does not exist"
  return (
    f"{folder} {missing}; weights are converted first, from a folder, a file or a hub id: "
    f"`{command.format('<folder, file or id>')}`"
  )
