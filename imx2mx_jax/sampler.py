"""SEVA's own sampler: clean views and cameras in, the views of further cameras out.

Euler steps from noise, with classifier-free guidance whose scale each frame has for itself. Long
paths take two passes: anchors spread evenly along the path first, then chunks of the path between
them, the anchors being clean. Source: NETWORKS.md, section D; golden/README.md, section 11.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from imx2mx_jax import diffusion, teachers
from imx2mx_jax.models import clip_vision
from imx2mx_jax.models.network import Network
from imx2mx_jax.shapes import Array, Bool, Float, Int, Params, np
from imx2mx_jax.students import Seva, SevaConditioning, replace_clean

RULES = ("plain", "multiview", "temporal")
"""How the guidance scale varies over the frames; see `guidance_scales`."""

_SAME_ROTATION, _SAME_PLACE = 10.0, 1e-5  # degrees; units of normalised cameras


# --- guidance --------------------------------------------------------------------------------


def guidance_scales(
  rule: str,
  scale: float,
  lowest: float,
  c2w: Float[np.ndarray, "T 4 4"],
  K: Float[np.ndarray, "T 3 3"],
  clean: Bool[np.ndarray, " T"],
) -> Float[np.ndarray, " T"]:
  """The guidance scale of every frame, float32.

  rule: "plain": `scale` everywhere; "multiview": `lowest` where a frame's camera is that of a clean
    frame (turned by less than 10 degrees at the same place, with the same intrinsics);
    "temporal": before that, from `lowest` to `scale` by the distance in frames to the nearest clean
    frame. ValueError for any other.
  c2w: normalised cameras. clean: which frames are clean, at least one.
  """
  if rule not in RULES:
    raise ValueError(f"unknown rule {rule!r} of guidance")
  scales = np.full(len(clean), scale, np.float32)
  if rule == "plain":
    return scales
  given = np.flatnonzero(clean)
  if rule == "temporal":
    away = np.abs(np.arange(len(clean))[:, None] - given).min(axis=1)
    scales = lowest + (scales - lowest) * away / max(away.max(), 1)
  seen = _coincide(c2w, K, given).any(axis=1)
  return np.where(seen, lowest, scales).astype(np.float32)


def _coincide(c2w: np.ndarray, K: np.ndarray, given: np.ndarray) -> np.ndarray:
  """[T n]: whether frame and given frame have the same camera."""
  rotations, places = c2w[:, :3, :3], c2w[:, :3, 3]
  cosines = (np.einsum("tij,nij->tn", rotations, rotations[given]) - 1) / 2
  turned = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
  away = np.linalg.norm(places[:, None] - places[given], axis=-1)
  same_K = (K[:, None] == K[given]).all(axis=(2, 3))
  return (turned < _SAME_ROTATION) & (away < _SAME_PLACE) & same_K


# --- sampling --------------------------------------------------------------------------------


def denoise(
  student: Seva,
  params: Params,
  cond: SevaConditioning,
  zeta: Float[Array, "T h w 4"],
  tau: Array,
  scales: Float[Array, " T"],
) -> Float[Array, "T h w 4"]:
  """The guided clean latents: u + s (c - u), both branches in one batch of 2 T rows."""
  branches = [cond.without_input(), cond]
  replaced = [replace_clean(zeta, branch) for branch in branches]
  rows = [student.inputs(*pair, tau) for pair in zip(branches, replaced, strict=True)]
  stacked = [jnp.concatenate(pair) for pair in zip(*rows, strict=True)]
  output = Network(student.graphdef, params)(*stacked, frames=len(zeta))
  sigma = student.schedule.sigma(tau)
  none, both = jnp.split(diffusion.predict_zeta0(jnp.concatenate(replaced), output, sigma), 2)
  return diffusion.guide(both, none, scales)


def sample(
  student: Seva,
  params: Params,
  cond: SevaConditioning,
  scales: Float[Array, " T"],
  noise: Float[Array, "T h w 4"],
  steps: int,
  added: Float[Array, "S T h w 4"] | None = None,
) -> tuple[Float[Array, "T h w 4"], Float[Array, "S T h w 4"]]:
  """Latents of all frames after `steps` Euler steps, and those after each of them.

  noise: of unit variance. added: noise before each step, as the reference program adds it
  (diffusion.accidental_noise_scale; golden tensors contain it, pictures do not show it).
  Under jit, what is not used of the two costs nothing.
  """
  zeta, levels = start(student, noise, steps)
  return advance(student, params, cond, scales, zeta, levels, added)


class Levels(NamedTuple):
  """The student's timesteps before some Euler steps, and the noise levels before and after."""

  tau: Int[Array, " S"]
  sigma: Float[Array, " S"]
  sigma_next: Float[Array, " S"]


def start(
  student: Seva, noise: Float[Array, "T h w 4"], steps: int
) -> tuple[Float[Array, "T h w 4"], Levels]:
  """Latents at the highest noise level, and the levels of the steps from there."""
  taus = np.array(diffusion.sampling_timesteps(steps, student.schedule.steps))
  sigmas = student.schedule.sigmas[taus]
  levels = Levels(*map(jnp.asarray, (taus, sigmas, np.append(sigmas[1:], 0))))
  return noise * student.schedule.init_scale(taus[0]), levels


def advance(
  student: Seva,
  params: Params,
  cond: SevaConditioning,
  scales: Float[Array, " T"],
  zeta: Float[Array, "T h w 4"],
  levels: Levels,
  added: Float[Array, "S T h w 4"] | None = None,
) -> tuple[Float[Array, "T h w 4"], Float[Array, "S T h w 4"]]:
  """Some of `sample`'s steps: latents of all frames after the last, and after each of them."""

  def step(zeta: Float[Array, "T h w 4"], inputs: tuple):
    (tau, sigma, sigma_next), more = inputs
    zeta = zeta if more is None else zeta + more
    zeta0 = denoise(student, params, cond, zeta, tau, scales)
    zeta = diffusion.euler_step(zeta, zeta0, sigma, sigma_next)
    return zeta, zeta

  return jax.lax.scan(step, zeta, (levels, added))


# --- conditioning ----------------------------------------------------------------------------


def encode(
  vae: Network, image_encoder: Network, images: Float[Array, "n H W 3"]
) -> tuple[Float[Array, "n h w 4"], Float[Array, "n D"]]:
  """Scaled latents and image embeddings of clean views in [-1, 1]."""
  shape = image_encoder.module.shape
  pixels = clip_vision.preprocess(images, shape.image_size, shape.mean, shape.std)
  latents = teachers.encode_sources(vae, images) * vae.module.shape.scaling_factor
  return latents, image_encoder(pixels)


def condition(
  latents: Float[Array, "T h w 4"],
  embeddings: Float[Array, "T D"],
  clean: Bool[Array, " T"],
  plucker: Float[Array, "T h w 6"],
) -> SevaConditioning:
  """The conditioning on the frames that are clean; what the others hold does not matter."""
  mask = jnp.asarray(clean, jnp.float32)
  context = (mask @ embeddings) / mask.sum()
  return SevaConditioning(latents * mask[:, None, None, None], mask, plucker, context[None])


# --- passes ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Passes:
  """Which frames of a path are made when.

  anchors: frames of the first pass; none where one pass makes all. chunks: frames of the second
  pass, all of one length, each from an anchor to an anchor; the last one's last frame may be
  repeated. kept: how many of the clean views each chunk gets besides the anchors.
  """

  anchors: tuple[int, ...]
  chunks: tuple[tuple[int, ...], ...]
  kept: int


def passes(frames: int, views: int, at_once: int) -> Passes:
  """The passes over a path of `frames` with `views` clean views, `at_once` frames in each pass.

  The first pass is longer than `at_once` where the chunks would not reach from anchor to anchor.
  ValueError below 4 at once.
  """
  if at_once < 4:
    raise ValueError(f"{at_once} frames at once are too few for two passes")
  if views + frames <= at_once:
    return Passes((), (tuple(range(frames)),), views)
  kept = min(views, at_once // 4)
  window, last = at_once - kept, max(frames - 1, 1)
  anchors = max(at_once - views, -(-last // (window - 1)) + 1, 2)
  apart = -(-last // (anchors - 1))
  stride = (window - 1) // apart * apart
  chunks = [range(start, start + stride + 1) for start in range(0, last, stride)]
  clip = lambda numbers: tuple(min(number, frames - 1) for number in numbers)
  return Passes(
    clip(range(0, last + apart, apart)), tuple(clip(numbers) for numbers in chunks), kept
  )


def nearest_views(
  views: Float[np.ndarray, "n 4 4"], c2w: Float[np.ndarray, "T 4 4"], count: int
) -> Sequence[int]:
  """The `count` views that stand nearest to the middle of some cameras, in their own order."""
  middle = c2w[:, :3, 3].mean(axis=0)
  away = np.linalg.norm(views[:, :3, 3] - middle, axis=1)
  return sorted(np.argsort(away, kind="stable")[:count].tolist())
