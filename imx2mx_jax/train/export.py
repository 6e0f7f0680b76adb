"""Trained weights as converted folders, which weights.py reads."""

import dataclasses
import hashlib
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import safetensors.numpy

from imx2mx_jax import checkpoint, weights
from imx2mx_jax.micro import readout
from imx2mx_jax.models.seva import SevaShape
from imx2mx_jax.models.unet import UNetShape
from imx2mx_jax.shapes import Params, np
from imx2mx_jax.train.networks import TRAINED, Parts, kind_of, within
from imx2mx_jax.train.settings import TrainConfig

_WRITTEN = {
  "vae": ("student_vae",),
  "clip": ("metric_clip", "image_encoder"),
  "teacher": ("teacher",),
  "controlnet": ("controlnet",),
  "student": ("student",),
}
_COPIED = {  # what a written folder holds of other folders, as it is or trained on
  "teacher": ("vae", "text_encoder"),
  "controlnet": ("vae", "text_encoder", "unet"),
}
_DENOISERS = (UNetShape, SevaShape)
_SMALL = 1 << 28  # bytes: more than that goes into an Orbax checkpoint


@dataclasses.dataclass(frozen=True)
class Origin:
  """What model.json says of where the weights come from; see weights.ModelInfo."""

  source: str
  licence: str
  terms: str = ""
  notice: str = ""


def write(
  folder: pathlib.Path,
  kind: str,
  shapes: Mapping[str, Any],
  params: Mapping[str, Params],
  origin: Origin,
  tokenizer: pathlib.Path | None = None,
) -> None:
  """Writes a converted folder, replacing the one that is there.

  shapes, params: of each of the kind's networks. Raises OSError and CheckpointError.
  """
  temporary = folder.with_name(f".{folder.name}.tmp")
  shutil.rmtree(temporary, ignore_errors=True)
  temporary.mkdir(parents=True)
  size = sum(x.nbytes for own in params.values() for x in own.values())
  layout = "safetensors" if size < _SMALL else "orbax"
  if layout == "safetensors":
    flat = {f"{name}/{path}": x for name, own in params.items() for path, x in own.items()}
    content = safetensors.numpy.save(jax.device_get(flat))
    (temporary / weights.SAFETENSORS).write_bytes(content)
    files = {weights.SAFETENSORS: hashlib.sha256(content).hexdigest()}
  else:
    for name, own in params.items():
      checkpoint.save(temporary / name / "0", own)
    files = {name: _fingerprint(own) for name, own in params.items()}
  if tokenizer:
    shutil.copytree(tokenizer, temporary / weights.TOKENIZER)
  stored = {
    name: weights.Stored(
      shapes[name], int(layout == "orbax"), weights.stored_size(temporary, layout, name)
    )
    for name in params
  }
  info = weights.ModelInfo(
    kind, layout, stored, origin.source, files, origin.licence, origin.terms, origin.notice
  )
  weights.write_info(temporary, info)
  shutil.rmtree(folder, ignore_errors=True)
  temporary.rename(folder)


def write_models(
  run: TrainConfig,
  parts: Parts,
  params: Params,
  figures: Callable[[], Mapping[str, float]],
  folder: pathlib.Path,
) -> None:
  """The trained model, and what can be used of it by itself, in the training's folder.

  params: of all networks, the averaged ones where they learned. figures: sample figures, asked for
  where an autoencoder is from scratch, whose latents are then scaled to unit size. Raises OSError
  and CheckpointError.
  """
  shapes = dict(parts.shapes)
  if run.model == "vae" and not run.start:
    factor = 1 / figures()["latents_std"]
    shapes["vae"] = dataclasses.replace(shapes["vae"], scaling_factor=factor)
  own = {name: within(params, name) for name in shapes}
  if run.readout:
    trained = TRAINED[run.model]
    own[trained] = readout.enlarge(shapes[trained], own[trained])
  if run.stored == "float16":
    own = {name: _halved(shapes[name], params) for name, params in own.items()}
  if run.model == "clip":
    shapes["vision"], own["vision"] = shapes["clip"].vision, within(own["clip"], "vision")
  learned_too = run.model == "controlnet" and bool(within(parts.params, "unet"))
  for kind in (*_WRITTEN[run.model], *["teacher"] * learned_too):
    names = weights.KINDS[kind]
    text = "clip" in names or "text_encoder" in names
    write(
      folder / kind,
      kind,
      {name: shapes[name] for name in names},
      {name: own[name] for name in names},
      _origin(run),
      parts.tokenizer if text else None,
    )


def _fingerprint(params: Params) -> str:
  """Of the numbers, one array after the other."""
  found = hashlib.sha256()
  for path in sorted(params):
    found.update(np.asarray(jax.device_get(params[path])).tobytes())
  return found.hexdigest()


def _halved(shape: Any, params: Params) -> Params:
  """In float16, but for what a read-out, where there is one, needs in float32."""
  exact = readout.delicate(shape) if isinstance(shape, _DENOISERS) else ()
  return {k: x if k.startswith(exact) else x.astype(jnp.float16) for k, x in params.items()}


def _origin(run: TrainConfig) -> Origin:
  """What the weights continue, or the training itself and whatever is written beside its own."""
  own = Origin(f"{run.model} trained on {run.data.source}", run.licence, notice=run.notice)
  if run.start:
    before = weights.read_info(run.start, kind_of(run.start))
    further = f", trained further on {run.data.source}"
    source = before.source.removesuffix(further) + further
    own = Origin(source, before.licence, before.terms, before.notice)
  beside = [getattr(run.frozen, field) for field in _COPIED.get(run.model, ())]
  infos = [own, *(weights.read_info(folder, kind_of(folder)) for folder in beside)]
  said = lambda name: "; ".join(filter(None, dict.fromkeys(getattr(x, name) for x in infos)))
  return Origin(own.source, said("licence"), said("terms"), said("notice"))
