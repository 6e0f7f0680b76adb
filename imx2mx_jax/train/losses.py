"""The losses: pure functions of the networks, a batch and a key.

Each gives the loss, a mean over rows, and a dict of figures to log. A row is a picture, a pair of
pictures or a set of views. Errors are means over the elements of a row.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from imx2mx_jax import diffusion, students
from imx2mx_jax.models import clip_vision
from imx2mx_jax.models.network import Network
from imx2mx_jax.shapes import Array, Float, Int, Key
from imx2mx_jax.teachers import SCHEDULE, without_source
from imx2mx_jax.train import views
from imx2mx_jax.train.settings import (
  AutoencoderLoss,
  ContrastiveLoss,
  ControlNetLoss,
  InstructPix2PixLoss,
  MultiViewLoss,
)

STUDENT_SCHEDULE = diffusion.StudentSchedule()

Networks = Mapping[str, Network]
Batch = Mapping[str, Array]
Loss = tuple[Float[Array, ""], dict[str, Float[Array, ""]]]


def autoencoder(
  networks: Networks, batch: Batch, key: Key[Array, ""], settings: AutoencoderLoss
) -> Loss:
  """batch: image [B S S 3].

  All rows are encoded and decoded; a quarter of them is so at the small size too, and of another
  quarter the latents are resized to the small size's, bilinearly, as the method does, and decoded.
  """
  vae, images = networks["vae"].module, batch["image"]
  for_sample, for_noise, for_small, for_small_noise = jax.random.split(key, 4)
  rows = max(1, len(images) // 4)
  small = resize_images(images[: 2 * rows], settings.small)

  mean, logvar = vae.encode(images)
  small_mean, small_logvar = vae.encode(small[:rows])
  latents = _posterior(for_sample, mean, logvar)
  small_latents = _posterior(for_small, small_mean, small_logvar)
  resized = resize_latents(mean[rows : 2 * rows], small_mean.shape[1])
  small_latents = jnp.concatenate([small_latents, resized])

  decoded = vae.decode(latents + _shaky(for_noise, latents, settings.noise))
  shaky = _shaky(for_small_noise, small_latents, settings.noise)
  small_decoded = vae.decode(small_latents + shaky)
  errors = [_error(decoded, images, settings.absolute)]
  errors += [_error(small_decoded, small, settings.absolute)]
  kl = jnp.concatenate([_divergence(mean, logvar), _divergence(small_mean, small_logvar)]).mean()
  figures = {"psnr": _psnr(decoded, images), "kl": kl}
  return jnp.concatenate(errors).mean() + settings.kl * kl, figures


def _posterior(key: Key[Array, ""], mean: Array, logvar: Array) -> Array:
  """A sample of the latents."""
  return mean + jnp.exp(logvar / 2) * jax.random.normal(key, mean.shape)


def _divergence(mean: Array, logvar: Array) -> Float[Array, " B"]:
  """From the normal distribution, of each row."""
  return _row_means(jnp.square(mean) + jnp.exp(logvar) - 1 - logvar) / 2


def _shaky(key: Key[Array, ""], latents: Array, most: float) -> Array:
  """Noise of another strength, up to `most`, in each row."""
  for_noise, for_strength = jax.random.split(key)
  strength = most * jax.random.uniform(for_strength, latents.shape[:1])
  return diffusion.rows(strength, latents) * jax.random.normal(for_noise, latents.shape)


def _error(found: Array, wanted: Array, absolute: float) -> Float[Array, " B"]:
  difference = found - wanted
  return _row_means(jnp.square(difference) + absolute * jnp.abs(difference))


def _psnr(found: Array, wanted: Array) -> Float[Array, ""]:
  return 10 * jnp.log10(4 / jnp.mean(jnp.square(jnp.clip(found, -1, 1) - wanted)))


def contrastive(
  networks: Networks, batch: Batch, key: Key[Array, ""], settings: ContrastiveLoss
) -> Loss:
  """batch: image [B S S 3], ids [B L]. CLIP's loss; the scale of the cosines is at most 100.

  Rows of equal text are right answers to each other, with equal shares.
  """
  clip, images, ids = networks["clip"].module, batch["image"], batch["ids"]
  if settings.blur:
    blurred = resize_images(resize_images(images, settings.blur), images.shape[1])
    chosen = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    images = jnp.where(chosen, blurred, images)
  pixels = clip_pixels(clip.vision, images)
  scale = jnp.exp(jnp.minimum(clip.logit_scale[...], jnp.log(100.0)))
  logits = scale * clip.embed_images(pixels) @ clip.embed_texts(ids).T
  right = same_texts(ids)
  target = right / right.sum(axis=1, keepdims=True)  # symmetric
  entropies = [-(target * jax.nn.log_softmax(logits, axis=axis)).sum() for axis in (0, 1)]
  accuracy = jnp.take_along_axis(right, logits.argmax(axis=1, keepdims=True), axis=1).mean()
  return sum(entropies) / (2 * len(ids)), {"accuracy": accuracy, "scale": scale}


def same_texts(ids: Int[Array, "B L"]) -> Float[Array, "B B"]:
  """1 where two rows have the same tokens."""
  return (ids[:, None] == ids[None]).all(axis=-1).astype(jnp.float32)


def instruct_pix2pix(
  networks: Networks, batch: Batch, key: Key[Array, ""], settings: InstructPix2PixLoss
) -> Loss:
  """batch: source, edited [B S S 3], ids, no_text [B L]. arXiv 2211.09800.

  The source's latents are the mode of its posterior, unscaled; the edited picture's are a sample.
  """
  vae, unet = networks["vae"].module, networks["unet"]
  for_sample, for_t, for_noise, for_drop = jax.random.split(key, 4)
  source, _ = vae.encode(batch["source"])
  mean, logvar = vae.encode(batch["edited"])
  z0 = _posterior(for_sample, mean, logvar) * vae.shape.scaling_factor

  t = timesteps(for_t, len(z0), settings.bound, settings.below)
  alpha, sigma = SCHEDULE.alpha_sigma(t)
  eps = jax.random.normal(for_noise, z0.shape)
  z_t = diffusion.add_noise(z0, eps, alpha, sigma)

  chance = jax.random.uniform(for_drop, (len(z0),))
  no_text = chance < settings.no_text + settings.nothing
  upper = settings.no_text + settings.nothing + settings.no_image
  no_image = (chance >= settings.no_text) & (chance < upper)
  ids = jnp.where(no_text[:, None], batch["no_text"], batch["ids"])
  source = jnp.where(no_image[:, None, None, None], 0, source)

  sample = jnp.concatenate([z_t, source], axis=-1)
  eps_hat = unet(sample, t, networks["text_encoder"](ids))
  error = _row_means(jnp.square(eps_hat - eps))
  clean = error * jnp.square(sigma / alpha)
  loss = settings.noise * error + settings.clean * clean
  return loss.mean(), {"noise_error": error.mean(), "clean_error": clean.mean()}


def controlnet(
  networks: Networks, batch: Batch, key: Key[Array, ""], settings: ControlNetLoss
) -> Loss:
  """batch: image [B S S 3], control [B S S 3] in [0, 1], ids, no_text [B L]. arXiv 2302.05543."""
  vae = networks["vae"].module
  for_sample, for_t, for_noise, for_drop = jax.random.split(key, 4)
  mean, logvar = vae.encode(batch["image"])
  z0 = _posterior(for_sample, mean, logvar) * vae.shape.scaling_factor

  t = timesteps(for_t, len(z0), settings.bound, settings.below)
  alpha, sigma = SCHEDULE.alpha_sigma(t)
  eps = jax.random.normal(for_noise, z0.shape)
  z_t = diffusion.add_noise(z0, eps, alpha, sigma)

  no_text = jax.random.bernoulli(for_drop, settings.no_text, (len(z0), 1))
  context = networks["text_encoder"](jnp.where(no_text, batch["no_text"], batch["ids"]))
  sample = without_source(networks["unet"], z_t)
  residuals = networks["controlnet"](sample, t, context, batch["control"])
  eps_hat = networks["unet"](sample, t, context, residuals=residuals)
  error = _row_means(jnp.square(eps_hat - eps))
  clean = error * jnp.square(sigma / alpha)
  loss = settings.noise * error + settings.clean * clean
  return loss.mean(), {"noise_error": error.mean(), "clean_error": clean.mean()}


def multi_view(
  networks: Networks, batch: Batch, key: Key[Array, ""], settings: MultiViewLoss
) -> Loss:
  """batch: images [B T S S 3], c2w [B T 4 4] OpenCV, K [B T 3 3] normalised. SEVA's denoising.

  The first frames of a set are the clean ones, 1 or more of them; frame 0's camera is the
  reference. Only the others count.
  """
  schedule, images = STUDENT_SCHEDULE, batch["images"]
  sets, frames = images.shape[:2]
  for_inputs, for_drop, for_tau, for_noise = jax.random.split(key, 4)
  clean = encode_views(networks["vae"], images)
  maps = plucker_maps(batch["c2w"], batch["K"], clean.shape[2:4])

  shares = jnp.log(jnp.asarray(settings.inputs))
  inputs = 1 + jax.random.categorical(for_inputs, shares, shape=(sets, 1))
  most = len(settings.inputs)
  dropped = jax.random.bernoulli(for_drop, settings.nothing, (sets, 1))
  mask = ((jnp.arange(frames) < inputs) & ~dropped).astype(jnp.float32)
  context = mean_embedding(networks["vision"], images[:, :most], mask[:, :most])

  tau = timesteps(for_tau, sets, settings.bound, settings.below)
  eps = jax.random.normal(for_noise, clean.shape)
  zeta = schedule.noised(clean, eps, tau)
  cond = students.SevaConditioning(clean, mask, maps, context)
  output = predict_noise(networks["seva"], zeta, cond, tau)
  wanted = 1 - mask
  errors = jnp.square(output - eps).mean(axis=(2, 3, 4))
  error = (errors * wanted).sum(axis=1) / wanted.sum(axis=1).clip(1)
  clean_error = error * jnp.square(schedule.sigma(tau))
  loss = settings.noise * error + settings.clean * clean_error
  return loss.mean(), {"noise_error": error.mean(), "clean_error": clean_error.mean()}


# --- parts that the sample pictures need too -------------------------------------------------


def encode_views(vae: Network, images: Float[Array, "B T S S 3"]) -> Float[Array, "B T h w 4"]:
  """The scaled modes of the latents of sets of views."""
  module = vae.module
  mean, _ = module.encode(images.reshape(-1, *images.shape[2:]))
  return mean.reshape(*images.shape[:2], *mean.shape[1:]) * module.shape.scaling_factor


def plucker_maps(
  c2w: Float[Array, "B T 4 4"], K: Float[Array, "B T 3 3"], hw: tuple[int, int]
) -> Float[Array, "B T h w 6"]:
  """The Pluecker maps of sets of views, their cameras normalised, frame 0's the reference."""
  return jax.vmap(lambda c2w, K: views.plucker(views.normalise_cameras(c2w), K, hw))(c2w, K)


def mean_embedding(
  vision: Network, images: Float[Array, "B M S S 3"], mask: Float[Array, "B M"]
) -> Float[Array, "B 1 D"]:
  """The mean embedding of each set's clean views, zero where it has none."""
  tower = vision.module
  embedded = tower(clip_pixels(tower, images.reshape(-1, *images.shape[2:])))
  embedded = embedded.reshape(*mask.shape, -1).astype(jnp.float32)
  total = (embedded * mask[..., None]).sum(axis=1, keepdims=True)
  return total / mask.sum(axis=1).clip(1)[:, None, None]


def predict_noise(
  seva: Network,
  zeta: Float[Array, "B T h w 4"],
  cond: students.SevaConditioning,
  tau: Int[Array, " B"],
) -> Float[Array, "B T h w 4"]:
  """SEVA's network on B sets at once; cond's arrays have that axis in front.

  What students.Seva does for one set: clean frames replace their latents, then the preconditioning.
  """
  sets, frames = zeta.shape[:2]
  mask = jnp.broadcast_to(cond.mask[..., None, None, None], (*zeta.shape[:4], 1))
  zeta = students.replace_clean(zeta, cond)
  scaled = diffusion.scale_input(zeta, STUDENT_SCHEDULE.sigma(tau))
  x = jnp.concatenate([scaled, mask, cond.plucker], axis=-1)
  in_rows = lambda y: y.reshape(sets * frames, *y.shape[2:])
  context = jnp.broadcast_to(cond.context[:, None], (sets, frames, *cond.context.shape[1:]))
  output = seva(
    in_rows(x), tau.repeat(frames), in_rows(context), in_rows(cond.plucker), frames=frames
  )
  return output.reshape(zeta.shape)


def clip_pixels(tower: Any, images: Float[Array, "B S S 3"]) -> Float[Array, "B s s 3"]:
  """Pictures as a vision tower reads them."""
  shape = tower.shape
  return clip_vision.preprocess(images, shape.image_size, shape.mean, shape.std)


def timesteps(key: Key[Array, ""], count: int, bound: int, below: float) -> Int[Array, " B"]:
  """A share of `below` uniform in [0, bound), the others uniform in [bound, 1000)."""
  for_side, for_place = jax.random.split(key)
  low = jax.random.bernoulli(for_side, below, (count,))
  place = jax.random.uniform(for_place, (count,))
  t = jnp.where(low, place * bound, bound + place * (1000 - bound))
  return jnp.minimum(t.astype(jnp.int32), 999)


def resize_images(images: Float[Array, "B S S 3"], size: int) -> Float[Array, "B s s 3"]:
  """As pictures.teacher_source resizes photographs."""
  if images.shape[1] == size:
    return images
  shape = (len(images), size, size, images.shape[3])
  return jnp.clip(jax.image.resize(images, shape, "cubic"), -1, 1)


def resize_latents(latents: Float[Array, "B h w 4"], cells: int) -> Float[Array, "B H W 4"]:
  """As distill.align resizes the student's latents to the teacher's grid."""
  shape = (len(latents), cells, cells, latents.shape[3])
  return jax.image.resize(latents, shape, "linear", antialias=False)


def _row_means(x: Float[Array, "B ..."]) -> Float[Array, " B"]:
  return x.reshape(len(x), -1).mean(axis=1)
