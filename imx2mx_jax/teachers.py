"""The teacher: a frozen 2D editor. It encodes the source views once, then predicts noise.

A teacher is a pytree with `predict_noise` below; distill.py asks for nothing else. Guidance
branches are rows of one batch, branch-major, so that random cross-view attention can share the
key view's keys and values within each branch.
"""

from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp

from imx2mx_jax import diffusion, sharding
from imx2mx_jax.models.network import Network
from imx2mx_jax.shapes import Array, Float, Int, Num

SCHEDULE = diffusion.TeacherSchedule()


@runtime_checkable
class Teacher(Protocol):
  """A 2D editor as distill.py sees it."""

  def predict_noise(
    self, z_t: Float[Array, "N h w 4"], t: Num[Array, ""], key_view: Int[Array, ""] | None
  ) -> Float[Array, "N h w 4"]:
    """eps_hat, guided. key_view: whose keys and values all views take; None: each its own."""


@flax.struct.dataclass
class InstructPix2Pix:
  """InstructPix2Pix with its instruction and its source views.

  source: modes of the encoder's posterior, not scaled (InstructPix2Pix's convention).
  text_scale, image_scale: s_T and s_I, one for all views or one for each. rescale: share by which
  guidance may not widen the noise. extended: all views look at all of them, as DGE's do (arXiv
  2404.18929), whatever the key view.
  """

  unet: Network
  text: Float[Array, "L D"]
  null: Float[Array, "L D"]
  source: Float[Array, "N h w 4"]
  text_scale: Float[Array, ""] | Float[Array, " N"]
  image_scale: Float[Array, ""] | Float[Array, " N"]
  rescale: float = flax.struct.field(pytree_node=False, default=0.0)
  extended: bool = flax.struct.field(pytree_node=False, default=False)

  def predict_noise(
    self, z_t: Float[Array, "N h w 4"], t: Num[Array, ""], key_view: Int[Array, ""] | None = None
  ) -> Float[Array, "N h w 4"]:
    """eps_hat = e_none + s_T (e_text - e_image) + s_I (e_image - e_none)."""
    e = predict(self.unet, *self.branches(z_t, t), key_view, len(z_t), self.extended)
    e_text, e_image, e_none = jnp.split(e, 3)
    scales = self.text_scale, self.image_scale
    guided = diffusion.guide_text_image(e_text, e_image, e_none, *scales)
    return diffusion.rescale(guided, e_text, self.rescale) if self.rescale else guided

  def branches(self, z_t: Float[Array, "N h w 4"], t: Num[Array, ""]):
    """The UNet's inputs: rows (text + image), (image), (nothing), of all views each; 3 texts."""
    images = jnp.concatenate([self.source, self.source, jnp.zeros_like(self.source)])
    sample = jnp.concatenate([jnp.tile(z_t, (3, 1, 1, 1)), images], axis=-1)
    return sample, t, jnp.stack([self.text, self.null, self.null])


@flax.struct.dataclass
class StableDiffusion:
  """A text-to-image model, with a ControlNet on a picture of each view where there is one.

  An editor's UNet is one too: without its source, as it was trained for its guidance.

  control: in [0, 1], of the pictures' size. prediction: "epsilon" or "v_prediction". rescale,
  extended: as of InstructPix2Pix.
  """

  unet: Network
  text: Float[Array, "L D"]
  null: Float[Array, "L D"]
  text_scale: Float[Array, ""]
  controlnet: Network | None = None
  control: Float[Array, "N H W 3"] | None = None
  prediction: str = flax.struct.field(pytree_node=False, default="epsilon")
  rescale: float = flax.struct.field(pytree_node=False, default=0.0)
  extended: bool = flax.struct.field(pytree_node=False, default=False)

  def predict_noise(
    self, z_t: Float[Array, "N h w 4"], t: Num[Array, ""], key_view: Int[Array, ""] | None = None
  ) -> Float[Array, "N h w 4"]:
    """eps_hat = e_none + s (e_text - e_none). The key view concerns the UNet's attention only."""
    inputs, attention = self.branches(z_t, t), (key_view, len(z_t), self.extended)
    control = None if self.controlnet is None else jnp.tile(self.control, (2, 1, 1, 1))
    e = predict(self.unet, *inputs, *attention, self.controlnet, control)
    if self.prediction == "v_prediction":
      e = diffusion.eps_from_v(e, jnp.tile(z_t, (2, 1, 1, 1)), *SCHEDULE.alpha_sigma(t))
    e_none, e_text = jnp.split(e, 2)
    guided = diffusion.guide(e_text, e_none, self.text_scale)
    return diffusion.rescale(guided, e_text, self.rescale) if self.rescale else guided

  def branches(self, z_t: Float[Array, "N h w 4"], t: Num[Array, ""]):
    """The UNet's inputs: rows (nothing), (text), of all views each; 2 texts."""
    sample = without_source(self.unet, jnp.tile(z_t, (2, 1, 1, 1)))
    return sample, t, jnp.stack([self.null, self.text])


def without_source(unet: Network, z_t: Float[Array, "B h w 4"]) -> Float[Array, "B h w _"]:
  """What a UNet reads where there is no source: z_t, and in an editor's zeros in its place."""
  missing = unet.params["conv_in/kernel"].shape[-2] - z_t.shape[-1]
  return jnp.pad(z_t, [(0, 0)] * 3 + [(0, missing)])


def predict(
  unet: Network,
  sample: Float[Array, "B h w _"],
  t: Num[Array, ""],
  texts: Float[Array, "R L D"],
  key_view: Int[Array, ""] | None,
  views: int,
  extended: bool,
  controlnet: Network | None = None,
  control: Float[Array, "B H W 3"] | None = None,
) -> Float[Array, "B h w 4"]:
  """The UNet on rows branch x views, of which chips that share an edit take some each.

  texts: of B / R rows each, one after the other. extended: all views look at all of them.
  """

  def part(shared: Any, rows: Any) -> Float[Array, "_ h w 4"]:
    (unet, controlnet, t, key_view), (sample, texts, control) = shared, rows
    residuals = None if controlnet is None else controlnet(sample, t, texts, control)
    attention = {"key_view": key_view, "views": views, "all_views": extended}
    return unet(sample, t, texts, **attention, residuals=residuals)

  shared = unet, controlnet, t, key_view
  if sharding.chips() == 1:
    return part(shared, (sample, texts, control))
  each = texts.repeat(len(sample) // len(texts), axis=0)
  return sharding.in_rows(part, shared, (sample, each, control))


def instruct_pix2pix(
  unet: Network,
  text_encoder: Network,
  ids: Int[Array, "2 L"],
  source: Float[Array, "N h w 4"],
  text_scale: float | Float[Array, ""],
  image_scale: float | Float[Array, ""],
) -> InstructPix2Pix:
  """The teacher for these views. ids: tokens of the instruction and of the empty text."""
  text, null = encode_texts(text_encoder, ids)
  return InstructPix2Pix(
    unet, text, null, source, jnp.float32(text_scale), jnp.float32(image_scale)
  )


def encode_texts(text_encoder: Network, ids: Int[Array, "2 L"]) -> Float[Array, "2 L D"]:
  """What the UNet reads of the instruction and of the empty text."""
  return text_encoder(ids)


def encode_sources(vae: Network, images: Float[Array, "N H W 3"]) -> Float[Array, "N h w 4"]:
  """The source views' latents for InstructPix2Pix: modes, not scaled. One view at a time."""
  encode = vae.module.encode
  return jax.lax.map(lambda image: encode(image[None])[0][0], images)


def decode(vae: Network, latents: Float[Array, "N h w 4"]) -> Float[Array, "N H W 3"]:
  """Scaled latents -> images, clipped to [-1, 1]. One view at a time."""
  module = vae.module
  latents = latents / module.shape.scaling_factor
  return jax.lax.map(lambda z: jnp.clip(module.decode(z[None])[0], -1, 1), latents)


def edit_views(
  teacher: Teacher,
  init_noise: Float[Array, "N h w 4"],
  step_noise: Float[Array, "S N h w 4"],
  key_views: Int[Array, " S"] | None = None,
) -> Float[Array, "S N h w 4"]:
  """Ordinary sampling of the teacher in as many steps as there is noise.

  Euler ancestral over the released schedule. key_views: whose keys and values all views take at
  each step; None: each its own, so that the views know nothing of each other. Returns the latents
  after each step, scaled by the VAE's factor; the last ones are the edit.
  """
  timesteps, sigmas = SCHEDULE.euler_steps(len(step_noise))

  def step(x: Float[Array, "N h w 4"], inputs):
    t, sigma, sigma_next, noise, key_view = inputs
    eps_hat = teacher.predict_noise(diffusion.scale_input(x, sigma), t, key_view)
    x = diffusion.ancestral_step(x, eps_hat, noise, sigma, sigma_next)
    return x, x

  levels = (jnp.asarray(timesteps), jnp.asarray(sigmas[:-1]), jnp.asarray(sigmas[1:]))
  return jax.lax.scan(step, init_noise * sigmas[0], (*levels, step_noise, key_views))[1]
