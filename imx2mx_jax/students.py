"""The student: conditioned once on the clean reference and the cameras; predicts clean latents.

A student is whatever has `predict` below; distill.py asks for nothing else. `cond` is its own
pytree. Frames are ordered reference first.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax.numpy as jnp
from flax import nnx

from imx2mx_jax import diffusion
from imx2mx_jax.models import clip_vision
from imx2mx_jax.models.network import Network
from imx2mx_jax.shapes import Array, Float, Int, Params


@runtime_checkable
class Student(Protocol):
  """A multi-view diffusion model as distill.py sees it; hashable, without weights."""

  schedule: diffusion.StudentSchedule

  def predict(
    self, params: Params, cond: Any, zeta: Float[Array, "T h w 4"], tau: Int[Array, ""]
  ) -> Float[Array, "T h w 4"]:
    """zeta0_hat: the clean latents that the student sees behind zeta at timestep tau."""


@flax.struct.dataclass
class SevaConditioning:
  """What SEVA knows of the scene.

  clean: latents of the clean frames, zeros elsewhere. mask: 1 on clean frames. context: image
  embedding of the clean frames, their mean.
  """

  clean: Float[Array, "*B T h w 4"]
  mask: Float[Array, "*B T"]
  plucker: Float[Array, "*B T h w 6"]
  context: Float[Array, "*B 1 D"]

  def without_input(self) -> "SevaConditioning":
    """The unconditional branch: no clean frame and no context, the same cameras."""
    zeros = [jnp.zeros_like(x) for x in (self.clean, self.mask, self.context)]
    return SevaConditioning(zeros[0], zeros[1], self.plucker, zeros[2])


@dataclasses.dataclass(frozen=True)
class Seva:
  """SEVA as a student (NETWORKS.md, section B). remat: see Network."""

  graphdef: nnx.GraphDef
  remat: bool = False
  schedule: diffusion.StudentSchedule = diffusion.StudentSchedule()

  def predict(
    self,
    params: Params,
    cond: SevaConditioning,
    zeta: Float[Array, "T h w 4"],
    tau: Int[Array, "*T"],
  ) -> Float[Array, "T h w 4"]:
    """zeta0_hat = D(zeta, sigma_tau; cond). Clean frames replace their latents first."""
    zeta = replace_clean(zeta, cond)
    inputs = self.inputs(cond, zeta, tau)
    output = Network(self.graphdef, params, self.remat)(*inputs, frames=len(zeta))
    return diffusion.predict_zeta0(zeta, output, self.schedule.sigma(tau))

  def inputs(self, cond: SevaConditioning, zeta: Float[Array, "T h w 4"], tau: Int[Array, "*T"]):
    """The network's inputs: scaled latents with mask and Pluecker map, timestep, context, map."""
    frames = len(zeta)
    scaled = diffusion.scale_input(zeta, self.schedule.sigma(tau))
    mask = jnp.broadcast_to(cond.mask[:, None, None, None], (*zeta.shape[:3], 1))
    context = jnp.broadcast_to(cond.context, (frames, *cond.context.shape))
    x = jnp.concatenate([scaled, mask, cond.plucker], axis=-1)
    return x, jnp.broadcast_to(tau, frames), context, cond.plucker


def replace_clean(
  zeta: Float[Array, "*B T h w 4"], cond: SevaConditioning
) -> Float[Array, "*B T h w 4"]:
  """zeta with the clean frames' own latents in their place."""
  mask = cond.mask[..., None, None, None]
  return zeta * (1 - mask) + cond.clean * mask


def seva_conditioning(
  reference_latents: Float[Array, "h w 4"],
  reference_embedding: Float[Array, " D"],
  plucker: Float[Array, "T h w 6"],
) -> SevaConditioning:
  """Frame 0 is the clean one; the others are to be generated."""
  frames = len(plucker)
  clean = jnp.zeros((frames, *reference_latents.shape)).at[0].set(reference_latents)
  mask = jnp.zeros(frames).at[0].set(1)
  return SevaConditioning(clean, mask, plucker, reference_embedding[None])


def condition(
  vae: Network,
  image_encoder: Network,
  reference: Float[Array, "H W 3"],
  plucker: Float[Array, "T h w 6"],
) -> SevaConditioning:
  """SEVA's conditioning on an edited reference view.

  reference: in [-1, 1], at the student's size. plucker: of normalised cameras (cameras.plucker),
  the reference's first.
  """
  encoder, tower = vae.module, image_encoder.module
  mean, _ = encoder.encode(reference[None])
  shape = tower.shape
  pixels = clip_vision.preprocess(reference[None], shape.image_size, shape.mean, shape.std)
  return seva_conditioning(mean[0] * encoder.shape.scaling_factor, tower(pixels)[0], plucker)
