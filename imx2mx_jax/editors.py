"""Which teacher a run has: InstructPix2Pix, a ControlNet, or one from a file of the user's own."""

import functools
import pathlib
import runpy
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from imx2mx_jax import conditions, teachers, weights
from imx2mx_jax.config import RunConfig
from imx2mx_jax.errors import ConfigError, WeightsError
from imx2mx_jax.models.controlnet import ControlNetShape
from imx2mx_jax.models.unet import UNetShape
from imx2mx_jax.scene import Scene
from imx2mx_jax.shapes import Array, Float

MAKER = "make_teacher"
"""The function of a file of one's own: see docs/new_teacher.md."""


def make(
  run: RunConfig,
  models: Any,
  scene: Scene,
  views: Sequence[int],
  images: Float[Array, "V H W 3"],
) -> teachers.Teacher:
  """The teacher of some of a scene's views.

  models: edit.Models. images: those views at the teacher's size. Raises SceneError for a condition
  that is not there, ConfigError for a file of one's own that does not run.
  """
  match run.teacher.kind:
    case "instruct_pix2pix":
      return _instruct_pix2pix(run, models, images)
    case "controlnet":
      return _controlnet(run, models, scene, views, images)
  return _own(run, models, images)


def check(run: RunConfig) -> None:
  """Whether the teacher's networks are there and of its kind, from their descriptions alone.

  Raises WeightsError, and ConfigError for a file of one's own that cannot be run.
  """
  match run.teacher.kind:
    case "instruct_pix2pix":
      _check_editor(run, _unet(run))
    case "controlnet":
      _check_controlnet(run, _unet(run))
    case own:
      _maker(own)


def _instruct_pix2pix(
  run: RunConfig, models: Any, images: Float[Array, "V H W 3"]
) -> teachers.InstructPix2Pix:
  text, null = jax.jit(teachers.encode_texts)(models.text_encoder, models.ids)
  source = jax.jit(teachers.encode_sources)(models.vae, images)
  scales = (jnp.float32(run.teacher.text_guidance), jnp.float32(run.teacher.image_guidance))
  return teachers.InstructPix2Pix(
    models.unet, text, null, source, *scales, run.teacher.rescale, run.teacher.extended
  )


def _controlnet(
  run: RunConfig,
  models: Any,
  scene: Scene,
  views: Sequence[int],
  images: Float[Array, "V H W 3"],
) -> teachers.StableDiffusion:
  text, null = jax.jit(teachers.encode_texts)(models.text_encoder, models.ids)
  control = conditions.of_views(scene, views, images, run.teacher.condition)
  scale = jnp.float32(run.teacher.text_guidance)
  return teachers.StableDiffusion(
    models.unet,
    text,
    null,
    scale,
    models.controlnet,
    jnp.asarray(control),
    rescale=run.teacher.rescale,
    extended=run.teacher.extended,
  )


def _unet(run: RunConfig) -> UNetShape:
  return weights.read_info(run.teacher.weights, "teacher").networks["unet"].shape


def _check_editor(run: RunConfig, unet: UNetShape) -> None:
  """Whether the UNet reads a source picture."""
  if unet.in_channels == 2 * unet.out_channels:
    return
  raise WeightsError(
    f"{run.teacher.weights}: its UNet reads {unet.in_channels} channels and an InstructPix2Pix "
    f"reads {2 * unet.out_channels}; convert timbrooks/instruct-pix2pix or one like it"
  )


def _check_controlnet(run: RunConfig, unet: UNetShape) -> None:
  """Whether a ControlNet's maps are those of the UNet."""
  info = weights.read_info(run.teacher.controlnet, "controlnet").networks
  own: ControlNetShape = info["controlnet"].shape
  fields = ("in_channels", "skip_channels", "context_width")
  for field in fields:
    found, wanted = getattr(own, field), getattr(unet, field)
    if found != wanted:
      raise WeightsError(
        f"{run.teacher.controlnet}: its {field} are {found} and those of the UNet in "
        f"{run.teacher.weights} {wanted}; give --config.teacher.weights the model that it was "
        "trained beside, for a released one Stable Diffusion 1.5"
      )


def _own(run: RunConfig, models: Any, images: Float[Array, "V H W 3"]) -> teachers.Teacher:
  """What a file of the user's own makes."""
  file = run.teacher.kind
  maker = _maker(file)
  try:
    made = maker(run, models, images)
  except Exception as error:  # whatever the user's file raises
    raise _not_a_teacher(file, f"{type(error).__name__}: {error}") from error
  if not isinstance(made, teachers.Teacher):
    raise _not_a_teacher(file, f"{MAKER} gave a {type(made).__name__} without predict_noise")
  return made


def _not_a_teacher(file: str, why: str) -> ConfigError:
  return ConfigError(
    f"{file} cannot be used as a teacher ({why}); docs/new_teacher.md describes one"
  )


@functools.lru_cache
def _maker(file: str) -> Callable[..., teachers.Teacher]:
  """What a file defines under MAKER. Run once: what is compiled for its teacher serves all runs."""
  if not pathlib.Path(file).is_file():
    raise ConfigError(
      f"--config.teacher.kind={file}: it is neither instruct_pix2pix nor controlnet, and there is "
      "no such file; docs/new_teacher.md describes one"
    )
  try:
    return runpy.run_path(file)[MAKER]
  except Exception as error:  # whatever the user's file raises
    raise _not_a_teacher(file, f"{type(error).__name__}: {error}") from error
