"""What the averaged weights can do so far: figures and pictures, always of the same rows."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from imx2mx_jax import diffusion, pictures, students, teachers
from imx2mx_jax.shapes import Array, Float, Params, UInt8, np
from imx2mx_jax.train import data, losses, networks
from imx2mx_jax.train.settings import TrainConfig

_STEPS = 20  # of sampling
_RIGHT = 0.2  # an edit is right whose error is below this share of the unedited picture's
_SHOWN = 12  # columns of a picture

Figures = dict[str, Float[Array, ""]]


class Sampler:
  """Samples of one training, compiled on first use."""

  def __init__(self, run: TrainConfig, graphdefs: Mapping[str, nnx.GraphDef], source: data.Source):
    make = _MAKERS[run.model]

    def sampled(params: Params, table: Any):
      nets = networks.assemble(graphdefs, params)
      return make(run, nets, lambda count: source.sample(table, count))

    self._sampled = jax.jit(sampled)

  def __call__(
    self, params: Params, table: Any
  ) -> tuple[dict[str, float], UInt8[np.ndarray, "rows cols S S 3"] | None]:
    """Figures, and pictures in rows and columns where there are any. params: of all networks."""
    figures, shown = jax.device_get(self._sampled(params, table))
    values = {name: float(x) for name, x in figures.items()}
    return values, None if shown is None else pictures.to_uint8(shown)


def psnr(found: Float[Array, "*B H W 3"], wanted: Float[Array, "*B H W 3"]) -> Float[Array, "*B"]:
  """Of each picture, in decibels; pictures are in [-1, 1]."""
  error = jnp.square(jnp.clip(found, -1, 1) - wanted).mean(axis=(-3, -2, -1))
  return 10 * jnp.log10(4 / error)


def _autoencoder(run: TrainConfig, nets: losses.Networks, rows: Any):
  """Pictures above, decoded below; PSNR of whole and small ones and from resized latents."""
  vae, images = nets["vae"].module, rows(96)["image"]
  small = losses.resize_images(images, run.loss.small)
  latents, _ = vae.encode(images)
  decoded = vae.decode(latents)
  cells = run.loss.small * latents.shape[1] // images.shape[1]
  figures = {
    "psnr": psnr(decoded, images).mean(),
    "psnr_small": psnr(vae.decode(vae.encode(small)[0]), small).mean(),
    "psnr_resized": psnr(vae.decode(losses.resize_latents(latents, cells)), small).mean(),
    "latents_std": latents.std(),
  }
  return figures, jnp.stack([images[:_SHOWN], decoded[:_SHOWN]])


def _clip(run: TrainConfig, nets: losses.Networks, rows: Any):
  """How often a picture's nearest text is its own, and a text's nearest picture; of 250."""
  del run
  clip, batch = nets["clip"].module, rows(250)
  pixels = losses.clip_pixels(clip.vision, batch["image"])
  cosines = clip.embed_images(pixels) @ clip.embed_texts(batch["ids"]).T
  right = losses.same_texts(batch["ids"])
  found = lambda axis: jnp.take_along_axis(
    right, jnp.expand_dims(cosines.argmax(axis=axis), axis), axis=axis
  )
  return {"image_to_text": found(1).mean(), "text_to_image": found(0).mean()}, None


def _teacher(run: TrainConfig, nets: losses.Networks, rows: Any):
  """Rows: source, true edit, sampled edit."""
  batch = rows(60)
  vae, count = nets["vae"], len(batch["source"])
  source, _ = vae.module.encode(batch["source"])
  text, null = (nets["text_encoder"](batch[name]) for name in ("ids", "no_text"))
  scales = jnp.float32(run.sample_text_guidance), jnp.float32(run.sample_image_guidance)
  teacher = teachers.InstructPix2Pix(nets["unet"], text, null, source[:, None], *scales)
  axes = teachers.InstructPix2Pix(None, 0, 0, 0, None, None)
  noise = jax.random.normal(jax.random.key(run.seed), (count, _STEPS + 1, 1, *source.shape[1:]))
  sampled = jax.vmap(teachers.edit_views, (axes, 0, 0))(teacher, noise[:, 0], noise[:, 1:])
  decode = lambda latents: jnp.clip(vae.module.decode(latents), -1, 1)
  edited = decode(sampled[:, -1, 0] / vae.module.shape.scaling_factor)

  error = lambda found: jnp.square(found - batch["edited"]).mean(axis=(1, 2, 3))
  ratio = error(edited) / error(batch["source"]).clip(1e-6)
  ceiling = error(decode(vae.module.encode(batch["edited"])[0])) / error(batch["source"]).clip(1e-6)
  definite = batch["definite"]
  share = lambda ratio: ((ratio < _RIGHT) & definite).sum() / definite.sum().clip(1)
  figures = {
    "right": share(ratio),
    "right_autoencoder": share(ceiling),
    "median_ratio": jnp.nanmedian(jnp.where(definite, ratio, jnp.nan)),
  }
  return figures, jnp.stack([x[:_SHOWN] for x in (batch["source"], batch["edited"], edited)])


def _controlnet(run: TrainConfig, nets: losses.Networks, rows: Any):
  """Rows: condition, picture that has it, sampled picture."""
  batch = rows(24)
  vae, images = nets["vae"].module, batch["image"]
  cells = vae.shape.grid(images.shape[1:3])
  text, null = (nets["text_encoder"](batch[name]) for name in ("ids", "no_text"))
  teacher = teachers.StableDiffusion(
    nets["unet"],
    text,
    null,
    jnp.float32(run.sample_text_guidance),
    nets["controlnet"],
    batch["control"][:, None],
  )
  axes = teachers.StableDiffusion(None, 0, 0, None, None, 0)
  noise = jax.random.normal(jax.random.key(run.seed), (len(images), _STEPS + 1, 1, *cells, 4))
  sampled = jax.vmap(teachers.edit_views, (axes, 0, 0))(teacher, noise[:, 0], noise[:, 1:])
  made = jnp.clip(vae.decode(sampled[:, -1, 0] / vae.shape.scaling_factor), -1, 1)
  shown = (batch["control"] * 2 - 1, images, made)
  return {"psnr": psnr(made, images).mean()}, jnp.stack([x[:_SHOWN] for x in shown])


def _student(run: TrainConfig, nets: losses.Networks, rows: Any):
  """Pairs of rows: true views above, the first of them given; sampled below."""
  batch = rows(max(1, min(16, 16 * 64**2 // run.data.size**2)))  # of large pictures fewer
  schedule = losses.STUDENT_SCHEDULE
  images, vae = batch["images"], nets["vae"]
  sets, frames = images.shape[:2]
  clean = losses.encode_views(vae, images)
  maps = losses.plucker_maps(batch["c2w"], batch["K"], clean.shape[2:4])
  mask = jnp.zeros((sets, frames)).at[:, 0].set(frames > 1)  # a single view: of nothing
  context = losses.mean_embedding(nets["vision"], images[:, :1], mask[:, :1])
  cond = students.SevaConditioning(clean, mask, maps, context)

  def step(zeta: Array, levels: tuple[Array, Array, Array]):
    tau, sigma, sigma_next = levels
    noise = losses.predict_noise(nets["seva"], zeta, cond, tau[None].repeat(sets))
    return zeta + (sigma_next - sigma) * noise, None

  taus = np.array(diffusion.sampling_timesteps(_STEPS))
  sigmas = schedule.sigmas[taus]
  levels = (jnp.asarray(taus), jnp.asarray(sigmas), jnp.asarray(np.append(sigmas[1:], 0)))
  noise = jax.random.normal(jax.random.key(run.seed), clean.shape)
  zeta, _ = jax.lax.scan(step, noise * np.sqrt(1 + sigmas[0] ** 2), levels)

  module = vae.module
  latents = students.replace_clean(zeta, cond).reshape(-1, *zeta.shape[2:])
  decoded = jnp.clip(module.decode(latents / module.shape.scaling_factor), -1, 1)
  decoded = decoded.reshape(images.shape)
  if frames == 1:
    return {}, decoded[:_SHOWN].swapaxes(0, 1)
  copied = psnr(images[:, :1], images[:, 1:])
  novel = jnp.isfinite(copied)  # the input view may be among the targets
  figures = {
    "psnr": psnr(decoded[:, 1:], images[:, 1:]).mean(where=novel),
    "psnr_copied": copied.mean(where=novel),
  }
  return figures, jnp.stack([images[:6], decoded[:6]], axis=1).reshape(-1, *images.shape[1:])


_MAKERS = {
  "vae": _autoencoder,
  "clip": _clip,
  "teacher": _teacher,
  "controlnet": _controlnet,
  "student": _student,
}
