"""Released weights: which files hold a model, and their tensors, one at a time."""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Collection, Sequence
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from convert_weights import hub, names, sources
from convert_weights.configs import UnsupportedConfig
from convert_weights.names import Assignment, ConversionError, Shape
from convert_weights.tables import clip, clip_text, clip_vision, controlnet, seva, unet, vae
from imx2mx_jax.models.network import abstract
from imx2mx_jax.weights import INFO, KINDS, NETWORKS

TABLES: dict[str, ModuleType] = {
  "unet": unet,
  "controlnet": controlnet,
  "vae": vae,
  "text_encoder": clip_text,
  "vision": clip_vision,
  "clip": clip,
  "seva": seva,
}
"""{name of a network: its table}."""

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}
VARIANTS = ("", ".fp16", ".bf16")
TOKENIZER_FILES = (
  "vocab.json",
  "merges.txt",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
)
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_SHARD = r"-\d+-of-\d+"


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a network's files are: folders within the model's and names of files, the best first."""

  folders: tuple[str, ...]
  stems: tuple[str, ...]
  configs: tuple[str, ...] = ("config.json",)


_DIFFUSERS, _TRANSFORMERS = ("diffusion_pytorch_model",), ("model",)

PLACES = {
  "teacher": {
    "unet": Place(("unet/",), _DIFFUSERS),
    "vae": Place(("vae/",), _DIFFUSERS),
    "text_encoder": Place(("text_encoder/",), _TRANSFORMERS),
  },
  "student": {"seva": Place(("",), ("modelv1.1", "model"))},
  "student_vae": {"vae": Place(("vae/", ""), _DIFFUSERS)},
  "image_encoder": {
    "vision": Place(
      ("",), ("open_clip_model", "model"), configs=("open_clip_config.json", "config.json")
    )
  },
  "metric_clip": {"clip": Place(("",), _TRANSFORMERS)},
  "controlnet": {"controlnet": Place(("",), _DIFFUSERS)},
}
"""{kind: {network: where its files are}}."""

TOKENIZERS = {"teacher": "tokenizer/", "metric_clip": ""}
"""{kind: the folder of its tokenizer}, for the kinds that have one."""

SCHEDULERS = {"teacher": "scheduler/scheduler_config.json"}
"""{kind: the file of its noise schedule}, for the kinds that may have one."""

SCHEDULE = {
  "prediction_type": "epsilon",
  "beta_schedule": "scaled_linear",
  "beta_start": 0.00085,
  "beta_end": 0.012,
  "num_train_timesteps": 1000,
}
"""The one noise schedule of a teacher, in diffusers' words."""


@dataclasses.dataclass(frozen=True)
class Tensors:
  """The tensors of one network's files. where: {released name: (its file, shape, dtype's name)}."""

  files: tuple[pathlib.Path, ...]
  where: dict[str, tuple[pathlib.Path, Shape, str]]

  @property
  def shapes(self) -> dict[str, Shape]:
    """{released name: shape}."""
    return {name: shape for name, (_, shape, _) in self.where.items()}

  def dtype(self, name: str) -> np.dtype:
    """The dtype in which a tensor is stored."""
    return np.dtype(DTYPES[self.where[name][2]])

  def read(self, name: str) -> np.ndarray:
    """One tensor. The file is opened anew, so that its mapped pages are given back at once."""
    with safe_open(self.where[name][0], "np") as file:
      return file.get_tensor(name)


@dataclasses.dataclass(frozen=True)
class Part:
  """One network of a model: its shape, its tensors, and which of them becomes which parameter."""

  name: str
  shape: Any
  tensors: Tensors
  rows: tuple[Assignment, ...]


@dataclasses.dataclass(frozen=True)
class Model:
  """A released model, checked and ready to be converted.

  source: its folder, file or `repository@commit`. repository: None for local files. files: {name in
  the source: path} of all that is read. tokenizer: {file name: path}. remarks: for the user.
  """

  kind: str
  source: str
  repository: str | None
  parts: tuple[Part, ...]
  files: dict[str, pathlib.Path]
  tokenizer: dict[str, pathlib.Path]
  remarks: tuple[str, ...]


def open_model(kind: str, src: str, revision: str | None = None) -> Model:
  """Finds a model's files, downloads them where `src` is a hub id, and plans every parameter.

  Reads configs and the headers of the weights only. Raises one ConversionError that lists all that
  does not fit.
  """
  given = pathlib.Path(src).expanduser()
  if given.exists() and revision:
    raise ConversionError(
      f"--revision={revision} is for hub ids, and {src} is a local path; omit it"
    )
  if given.exists():
    return _open_local(kind, given)
  if not hub.REPOSITORY.fullmatch(src):
    raise ConversionError(
      f"{src} does not exist; --src takes a folder, a .safetensors file or a hub id like "
      f"{sources.released(kind).hub}"
    )
  folder, commit = hub.fetch(src, revision, functools.partial(_needed, kind, src))
  return _open(kind, folder, None, f"{src}@{commit}", src)


def explain(kind: str, src: str | None, revision: str | None) -> dict[str, tuple[Assignment, ...]]:
  """{network: its map}; without a source, of the released model in the present spelling."""
  if src:
    return {part.name: part.rows for part in open_model(kind, src, revision).parts}
  return {
    name: tuple(names.assignments(targets(name, shape), TABLES[name].DIALECTS[0]))
    for name, shape in sources.released(kind).shapes.items()
  }


def sha256(file: pathlib.Path) -> str:
  """The file's SHA-256 as hexadecimal digits."""
  with file.open("rb") as stream:
    return hashlib.file_digest(stream, "sha256").hexdigest()


def _open_local(kind: str, given: pathlib.Path) -> Model:
  if (given / INFO).exists():
    raise ConversionError(f"{given} is converted already; --src takes the weights it was made from")
  if given.is_dir():
    return _open(kind, given, None, str(given), None)
  if given.suffix in _PICKLES:
    raise ConversionError(_pickle(str(given)))
  if len(KINDS[kind]) > 1:
    raise ConversionError(
      f"{given} is one file, and a {kind} is a folder with {', '.join(KINDS[kind])} and a "
      "tokenizer; save it from the library that made it with save_pretrained"
    )
  return _open(kind, given.parent, given.name, str(given), None)


def _open(
  kind: str, folder: pathlib.Path, file: str | None, source: str, repository: str | None
) -> Model:
  files = (path for depth in ("*", "*/*") for path in folder.glob(depth) if path.is_file())
  listing = sorted(path.relative_to(folder).as_posix() for path in files)
  parts, wrong, remarks = [], [], []
  used: dict[str, pathlib.Path] = {}
  for name, place in PLACES[kind].items():
    chosen = file or _weights(listing, place, source)
    tensors = open_tensors(folder / chosen)
    shape, config = _shape(name, place, (folder / chosen).parent, remarks)
    used |= {path.relative_to(folder).as_posix(): path for path in (*tensors.files, *config)}
    try:
      parts.append(Part(name, shape, tensors, _plan(name, shape, tensors)))
    except ConversionError as error:
      count = 1 + str(error).count("\n")
      where = f"of the shape in {config[0].name}" if config else "of the released shape"
      wrong.append(f"{folder / chosen} is no {name} {where}; {count} tensors do not fit:\n{error}")
  if wrong:
    raise ConversionError("\n".join(wrong))
  if SCHEDULERS.get(kind) in listing:
    _check_schedule(folder / SCHEDULERS[kind])
  tokenizer = _tokenizer(kind, folder, listing, source)
  used |= {path.relative_to(folder).as_posix(): path for path in tokenizer.values()}
  return Model(kind, source, repository, tuple(parts), used, tokenizer, tuple(remarks))


def _needed(kind: str, source: str, listing: Sequence[str]) -> list[str]:
  """Of a repository's files, those that the conversion reads."""
  needed = []
  for place in PLACES[kind].values():
    weights = _weights(listing, place, source)
    folder = weights.removesuffix(weights.rpartition("/")[2])
    needed += [weights, *(folder + config for config in place.configs)]
    if index := re.fullmatch(r"(.*)\.safetensors\.index(\.\w+)?\.json", weights):
      stem, variant = (re.escape(part or "") for part in index.groups())
      shard = rf"{stem}({variant}{_SHARD}|{_SHARD}{variant})\.safetensors"
      needed += [name for name in listing if re.fullmatch(shard, name)]
  if kind in TOKENIZERS:
    needed += [TOKENIZERS[kind] + name for name in TOKENIZER_FILES]
  needed += [SCHEDULERS[kind]] if kind in SCHEDULERS else []
  return [name for name in needed if name in listing]


def _weights(listing: Collection[str], place: Place, source: str) -> str:
  """The file (or the index of shards) that holds a network."""
  for folder in place.folders:
    for stem in place.stems:
      for variant in VARIANTS:
        for name in (f"{stem}{variant}.safetensors", f"{stem}.safetensors.index{variant}.json"):
          if folder + name in listing:
            return folder + name
    others = [
      name
      for name in listing
      if re.fullmatch(rf"{re.escape(folder)}[^/]+\.safetensors", name)
      and not re.search(_SHARD, name)
    ]
    if len(others) == 1:
      return others[0]
    if others:
      raise ConversionError(
        f"{source} holds several models: {', '.join(others)}; download the right one and give the "
        "file itself with --src"
      )
  here = [name for name in listing if name.startswith(place.folders) and name.endswith(_PICKLES)]
  if here:
    raise ConversionError(_pickle(f"{source}: {here[0]}"))
  wanted = f"{place.folders[0]}{place.stems[0]}.safetensors"
  raise ConversionError(f"{source} has no {wanted}; give the folder that holds it with --src")


def open_tensors(file: pathlib.Path) -> Tensors:
  """The tensors of a safetensors file, or of the shards that an index names."""
  if file.suffix == ".json":
    names_of_shards = sorted(set(_json(file)["weight_map"].values()))
    files = tuple(file.parent / name for name in names_of_shards)
  else:
    files = (file,)
  where: dict[str, tuple[pathlib.Path, Shape, str]] = {}
  for path in files:
    where |= _header(path)
  return Tensors(files, where)


def _header(file: pathlib.Path) -> dict[str, tuple[pathlib.Path, Shape, str]]:
  if not file.is_file():
    raise ConversionError(f"{file} is missing, though its index names it; download it again")
  if file.stat().st_size < 1024 and file.read_bytes().startswith(b"version https://git-lfs"):
    raise ConversionError(f"{file} is a placeholder of git-lfs; run `git lfs pull` there")
  try:
    with safe_open(file, "np") as tensors:
      slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
      return {
        name: (file, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()
      }
  except SafetensorError as error:
    raise ConversionError(
      f"{file} is not a whole safetensors file ({error}); download it again"
    ) from error


def _shape(
  name: str, place: Place, beside: pathlib.Path, remarks: list[str]
) -> tuple[Any, tuple[pathlib.Path, ...]]:
  """A network's shape and the config that says so (none where it is the released shape)."""
  for config in (beside / file for file in place.configs):
    if not config.is_file():
      continue
    try:
      return TABLES[name].shape(_json(config)), (config,)
    except KeyError as error:
      remarks.append(f"{config} describes no {name} (it lacks {error}): taking the released shape")
    except UnsupportedConfig as error:
      raise ConversionError(f"{config.parent}/{error}") from error
  return NETWORKS[name][1](), ()


def targets(name: str, shape: Any) -> dict[str, Shape]:
  """{path: shape} of a network's parameters."""
  network = abstract(NETWORKS[name][0], shape)
  return {path: leaf.shape for path, leaf in network.params.items()}


def _plan(name: str, shape: Any, tensors: Tensors) -> tuple[Assignment, ...]:
  rows = names.plan(targets(name, shape), tensors.shapes, TABLES[name].DIALECTS)
  odd = [
    f"of another kind: {row.released} is {tensors.where[row.released][2]}, wanted {list(DTYPES)}"
    for row in rows
    if tensors.where[row.released][2] not in DTYPES
  ]
  if odd:
    raise ConversionError("\n".join(odd))
  return tuple(rows)


def _tokenizer(
  kind: str, folder: pathlib.Path, listing: Collection[str], source: str
) -> dict[str, pathlib.Path]:
  if kind not in TOKENIZERS:
    return {}
  within = TOKENIZERS[kind]
  found = {name: folder / within / name for name in TOKENIZER_FILES if within + name in listing}
  if "tokenizer.json" not in found and not {"vocab.json", "merges.txt"} <= found.keys():
    raise ConversionError(
      f"{source} lacks its tokenizer: {within}vocab.json and {within}merges.txt (or "
      f"{within}tokenizer.json); copy them there from the released model"
    )
  return found


def _check_schedule(file: pathlib.Path) -> None:
  """Refuses a schedule that is not imx2mx_jax.diffusion.TeacherSchedule, noise prediction on it."""
  config = _json(file)
  for field, wanted in SCHEDULE.items():
    if config.get(field, wanted) != wanted:
      raise ConversionError(
        f"{file}: {field} = {config[field]!r} is not supported, only {wanted!r} is; choose a model "
        "of the Stable Diffusion 1.x family"
      )


def _json(file: pathlib.Path) -> dict:
  try:
    values = json.loads(file.read_text())
    if not isinstance(values, dict):
      raise ValueError("no object")
    return values
  except ValueError as error:
    raise ConversionError(f"{file} is not JSON ({error}); download it again") from error


def _pickle(file: str) -> str:
  return (
    f"{file} is a pickle, which can run any program when it is opened, and is not read here; take "
    "the .safetensors file of the same model, or write one where you trust the file: "
    "safetensors.torch.save_file(torch.load(file, weights_only=True), 'model.safetensors')"
  )
