"""Trained weights as converted folders, which weights.py reads."""

import dataclasses
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
from imx2mx_jax.shapes import Params
from imx2mx_jax.train.networks import TRAINED, Parts, kind_of, within
from imx2mx_jax.train.settings import TrainConfig

_WRITTEN = {
  "vae": ("student_vae",),
  "clip": ("metric_clip", "image_encoder"),
  "teacher": ("teacher",),
  "controlnet": ("controlnet",),
  "student": ("student",),
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
  format = "safetensors" if size < _SMALL else "orbax"
  if format == "safetensors":
    flat = {f"{name}/{path}": x for name, own in params.items() for path, x in own.items()}
    content = safetensors.numpy.save(jax.device_get(flat))
    (temporary / weights.SAFETENSORS).write_bytes(content)
  else:
    for name, own in params.items():
      checkpoint.save(temporary / name / "0", own)
  if tokenizer:
    shutil.copytree(tokenizer, temporary / weights.TOKENIZER)
  stored = {
    name: weights.Stored(
      shapes[name], int(format == "orbax"), weights.stored_size(temporary, format, name)
    )
    for name in params
  }
  info = weights.ModelInfo(
    kind, format, stored, origin.source, {}, origin.licence, origin.terms, origin.notice
  )
  weights.write_info(temporary, info)
  shutil.rmtree(folder, ignore_errors=True)
  temporary.rename(folder)


def write_models(
  run: TrainConfig,
  parts: Parts,
  params: Params,
  folder: pathlib.Path,
  figures: Callable[[], Mapping[str, float]],
) -> None:
  """The trained model, and what can be used of it by itself, in the training's folder.

  params: of all networks, the averaged ones where they learned. figures: sample figures, asked for
  where an autoencoder is from scratch, whose latents are then scaled to unit size.
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
    own = {name: _halved(run, shapes[name], params) for name, params in own.items()}
  if run.model == "clip":
    shapes["vision"], own["vision"] = shapes["clip"].vision, within(own["clip"], "vision")
  learned_too = run.model == "controlnet" and any(within(parts.params, "unet"))
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


def _halved(run: TrainConfig, shape: Any, params: Params) -> Params:
  """In float16, but for what a read-out needs in float32."""
  exact = readout.delicate(shape) if run.readout and isinstance(shape, _DENOISERS) else ()
  return {k: x if k.startswith(exact) else x.astype(jnp.float16) for k, x in params.items()}


def _origin(run: TrainConfig) -> Origin:
  if not run.start:
    return Origin(f"{run.model} trained on {run.data.source}", run.licence, notice=run.notice)
  before = weights.read_info(run.start, kind_of(run.start))
  further = f", trained further on {run.data.source}"
  source = before.source.removesuffix(further) + further
  return Origin(source, before.licence, before.terms, before.notice)
