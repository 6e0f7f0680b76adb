"""Each loss is what a few lines of numpy say, with networks whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from imx2mx_jax import cameras, diffusion, students
from imx2mx_jax.models.clip import Clip, ClipShape
from imx2mx_jax.models.clip_text import ClipTextShape
from imx2mx_jax.models.clip_vision import ClipVisionShape
from imx2mx_jax.models.network import Network, initialise
from imx2mx_jax.models.seva import Seva, SevaShape
from imx2mx_jax.models.vae import VaeShape
from imx2mx_jax.train import losses, views
from imx2mx_jax.train.settings import (
  AutoencoderLoss,
  ContrastiveLoss,
  ControlNetLoss,
  InstructPix2PixLoss,
  MultiViewLoss,
)

KEY = jax.random.key(3)
TEXT = ClipTextShape(vocabulary=20, positions=6, width=8, layers=1, heads=2, mlp_width=8)
VISION = ClipVisionShape(8, 4, 8, 1, 2, 8, 12)
FIRST, LAST = {"bound": 1, "below": 1.0}, {"bound": 999, "below": 0.0}  # one timestep only
SEVA = SevaShape(
  channels=32,
  channel_mult=(1, 1),
  blocks_per_level=1,
  attention_downsamples=(2,),
  depths=(1, 1),
  head_width=8,
  context_width=12,
  joint=("middle_ds2",),
)


class Halving(nnx.Module):
  """An autoencoder whose latents are the means of 2 x 2 pixels, four channels of red."""

  def __init__(self):
    self.shape = VaeShape(channels=(8, 8), scaling_factor=0.5)

  def encode(self, image):
    rows, size = len(image), image.shape[1] // 2
    means = image[..., 0].reshape(rows, size, 2, size, 2).mean(axis=(2, 4))
    mean = jnp.stack([means] * 4, axis=-1)
    return mean, jnp.full_like(mean, -30.0)

  def decode(self, latents):
    return latents[..., :3].repeat(2, axis=1).repeat(2, axis=2)


def images(*shape, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def reds(x):
  """What Halving makes of pictures [.., S, S, 3]."""
  size = x.shape[-2] // 2
  means = x[..., 0].reshape(*x.shape[:-3], size, 2, size, 2).mean(axis=(-3, -1))
  return np.stack([means] * 4, axis=-1)


def test_the_autoencoder_is_judged_whole_small_and_from_resized_latents():
  x = images(4, 16, 16, 3)
  settings = AutoencoderLoss(absolute=0.5, kl=0.25, noise=0.0, small=8)
  loss, figures = losses.autoencoder({"vae": Network.of(Halving())}, {"image": x}, KEY, settings)

  decoded = lambda latents: latents[..., :3].repeat(2, axis=-3).repeat(2, axis=-2)
  error = lambda a, b: (np.square(a - b) + 0.5 * np.abs(a - b)).mean(axis=(1, 2, 3))
  small = np.clip(jax.image.resize(x, (4, 8, 8, 3), "cubic"), -1, 1)
  resized = jax.image.resize(reds(x[1:2]), (1, 4, 4, 4), "linear", antialias=False)
  errors = [error(decoded(reds(x)), x)]
  errors += [error(decoded(reds(small[:1])), small[:1]), error(decoded(resized), small[1:2])]
  moments = [reds(x), reds(small[:1])]
  kl = np.concatenate([(np.square(m) + np.exp(-30) + 29).mean(axis=(1, 2, 3)) for m in moments]) / 2
  np.testing.assert_allclose(figures["kl"], kl.mean(), rtol=1e-5)
  np.testing.assert_allclose(loss, np.concatenate(errors).mean() + kl.mean() / 4, rtol=1e-5)
  psnr = 10 * np.log10(4 / np.square(decoded(reds(x)) - x).mean())
  np.testing.assert_allclose(figures["psnr"], psnr, rtol=1e-4)


def test_clip_is_judged_both_ways_and_equal_texts_are_right_for_each_other():
  clip = initialise(Clip, ClipShape(TEXT, VISION, 19), 0)
  ids = np.array([[1, 5, 19, 19, 19, 19], [1, 7, 19, 19, 19, 19], [1, 5, 19, 19, 19, 19]], np.int32)
  x = images(3, 8, 8, 3)
  loss, figures = losses.contrastive(
    {"clip": clip}, {"image": x, "ids": ids}, KEY, ContrastiveLoss()
  )

  pixels = losses.clip_pixels(clip.module.vision, x)
  logits = np.asarray(clip.module(pixels, ids), np.float64)
  right = np.array([[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]])
  logs = lambda axis: logits - np.log(np.exp(logits).sum(axis=axis, keepdims=True))
  entropy = -(right * logs(0)).sum() / 3, -(right * logs(1)).sum() / 3
  np.testing.assert_allclose(loss, np.mean(entropy), rtol=1e-4)
  best = logits.argmax(axis=1)
  assert figures["accuracy"] == pytest.approx(np.mean(right[np.arange(3), best] > 0))


class KnowsTheEdit(nnx.Module):
  """A UNet that sees the noise because the edited latents are known; off by `off` in all."""

  def __init__(self, z0, off=0.0):
    self.z0, self.off = z0, off

  def __call__(self, sample, t, context):
    alpha, sigma = losses.SCHEDULE.alpha_sigma(t)
    z_t = sample[..., :4]
    eps = (z_t - diffusion.rows(alpha, z_t) * self.z0) / diffusion.rows(sigma, z_t)
    return eps + self.off


class SeesConditions(nnx.Module):
  """A UNet that answers with its conditions' means, wherever."""

  def __call__(self, sample, t, context):
    seen = jnp.abs(sample[..., 4:]).max(axis=(1, 2, 3)) + 10 * context.max(axis=(1, 2))
    return jnp.zeros_like(sample[..., :4]) + diffusion.rows(1000 * seen, sample)


class Ids(nnx.Module):
  """A text encoder that gives the ids."""

  def __call__(self, ids):
    return ids[..., None].astype(jnp.float32)


def pairs(value=0.5):
  batch = {"source": np.ones((6, 8, 8, 3), np.float32), "edited": np.full((6, 8, 8, 3), value)}
  ids = np.tile(np.array([[1, 2]], np.int32), (6, 1))
  return batch | {"ids": ids, "no_text": 0 * ids, "edited": batch["edited"].astype(np.float32)}


def edit_loss(unet, batch=None, **settings):
  nets = {"vae": Network.of(Halving()), "unet": Network.of(unet), "text_encoder": Network.of(Ids())}
  return losses.instruct_pix2pix(nets, batch or pairs(), KEY, InstructPix2PixLoss(**settings))


@pytest.mark.parametrize(("side", "t"), [(FIRST, 0), (LAST, 999)])
def test_the_teacher_is_judged_by_its_noise_and_by_its_clean_estimate(side, t):
  z0 = 0.5 * 0.5  # the scaling factor times the picture
  perfect, _ = edit_loss(KnowsTheEdit(z0), **side)
  np.testing.assert_allclose(perfect, 0, atol=1e-4)
  loss, figures = edit_loss(KnowsTheEdit(z0, off=0.3), **side, noise=2.0, clean=3.0)
  schedule = diffusion.TeacherSchedule()
  ratio = schedule.sigmas[t] / schedule.alphas[t]
  np.testing.assert_allclose(figures["clean_error"], 0.09 * ratio**2, rtol=1e-2)
  np.testing.assert_allclose(loss, 0.09 * (2 + 3 * ratio**2), rtol=1e-2)


@pytest.mark.parametrize(
  ("dropped", "seen"),
  [({}, 21), ({"no_text": 1.0}, 1), ({"no_image": 1.0}, 20), ({"nothing": 1.0}, 0)],
)
def test_the_teacher_misses_the_condition_that_is_dropped(dropped, seen):
  shares = {"no_text": 0.0, "no_image": 0.0, "nothing": 0.0} | dropped
  _, figures = edit_loss(SeesConditions(), **shares)
  assert np.sqrt(figures["noise_error"]) / 1000 == pytest.approx(seen, abs=0.01)


class AddsResiduals(nnx.Module):
  """A UNet that knows the noise; off by what a ControlNet adds, the text's first id, a source."""

  def __init__(self, z0, channels):
    self.z0, self.conv_in = z0, nnx.Conv(channels, 1, 1, rngs=nnx.Rngs(0))

  def __call__(self, sample, t, context, *, residuals):
    alpha, sigma = (diffusion.rows(x, sample) for x in diffusion.TeacherSchedule().alpha_sigma(t))
    z_t, source = sample[..., :4], sample[..., 4:]
    off = residuals + context[:, :1, :1, None] + source.sum()
    return (z_t - alpha * self.z0) / sigma + off


class SeesControl(nnx.Module):
  """A ControlNet that adds the mean of its picture."""

  def __call__(self, sample, t, context, image):
    return image.mean(axis=(1, 2, 3))[:, None, None, None]


@pytest.mark.parametrize(("no_text", "text", "channels"), [(0.0, 1, 4), (1.0, 0, 4), (0.0, 1, 8)])
def test_a_controlnet_is_judged_by_the_noise_with_what_it_adds(no_text, text, channels):
  batch = pairs() | {"image": pairs()["edited"], "control": np.full((6, 8, 8, 3), 0.25, np.float32)}
  nets = {"vae": Halving(), "unet": AddsResiduals(0.25, channels), "controlnet": SeesControl()}
  nets = {name: Network.of(net) for name, net in nets.items()} | {"text_encoder": Network.of(Ids())}
  settings = ControlNetLoss(noise=2.0, clean=0.0, no_text=no_text)
  loss, figures = losses.controlnet(nets, batch, KEY, settings)
  wanted = (0.25 + text) ** 2
  assert float(figures["noise_error"]) == pytest.approx(wanted, rel=0.02)
  assert float(loss) == pytest.approx(2 * wanted, rel=0.02)


class KnowsTheViews(nnx.Module):
  """A SEVA that sees the noise of the known latents; off by `off` where a frame is not clean."""

  def __init__(self, zeta0, off=0.0, off_if_clean=0.0):
    self.zeta0, self.off, self.off_if_clean = zeta0, off, off_if_clean

  def __call__(self, x, timesteps, context, dense, *, frames):
    sigma = diffusion.rows(losses.STUDENT_SCHEDULE.sigma(timesteps), x)
    zeta = x[..., :4] * jnp.sqrt(sigma**2 + 1)
    mask = x[..., 4:5]
    return (zeta - self.zeta0) / sigma + self.off * (1 - mask) + self.off_if_clean * mask


class Embeds(nnx.Module):
  """An image encoder of one number: the mean of what it is given."""

  def __init__(self):
    self.shape = VISION

  def __call__(self, pixels):
    return pixels.mean(axis=(1, 2, 3))[:, None]


def poses(count, seed=1):
  """Cameras on an arc, OpenCV axes."""
  rng = np.random.default_rng(seed)
  c2w = np.tile(np.eye(4), (count, 1, 1))
  for pose, angle in zip(
    c2w, np.linspace(-0.5, 0.5, count) + rng.normal(0, 0.02, count), strict=True
  ):
    pose[:3, :3] = [
      [np.cos(angle), 0, np.sin(angle)],
      [0, 1, 0],
      [-np.sin(angle), 0, np.cos(angle)],
    ]
    pose[:3, 3] = 3 * pose[:3, 2] + rng.normal(0, 0.1, 3)
  return c2w


def sets(count=3, frames=4, value=0.5):
  K = np.array([[1.2, 0, 0.5], [0, 1.2, 0.5], [0, 0, 1]], np.float32)
  return {
    "images": np.full((count, frames, 8, 8, 3), value, np.float32),
    "c2w": np.stack([poses(frames, seed) for seed in range(count)]).astype(np.float32),
    "K": np.tile(K, (count, frames, 1, 1)),
  }


def view_loss(seva, batch, **settings):
  nets = {"vae": Network.of(Halving()), "seva": Network.of(seva), "vision": Network.of(Embeds())}
  return losses.multi_view(nets, batch, KEY, MultiViewLoss(**settings))


@pytest.mark.parametrize(("side", "tau"), [(FIRST, 0), (LAST, 999)])
def test_the_student_is_judged_on_the_frames_that_it_has_to_find(side, tau):
  perfect, _ = view_loss(KnowsTheViews(0.25), sets(), **side)
  np.testing.assert_allclose(perfect, 0, atol=1e-4)
  only_clean, _ = view_loss(KnowsTheViews(0.25, off_if_clean=5.0), sets(), **side)
  np.testing.assert_allclose(only_clean, 0, atol=1e-4)
  sigma = diffusion.StudentSchedule().sigmas[tau]
  loss, figures = view_loss(KnowsTheViews(0.25, off=0.3), sets(), **side, noise=2.0, clean=3.0)
  np.testing.assert_allclose(figures["noise_error"], 0.09, rtol=1e-3)
  np.testing.assert_allclose(loss, 0.09 * (2 + 3 * sigma**2), rtol=1e-3)


@pytest.mark.parametrize(
  ("inputs", "nothing", "clean"), [((1.0,), 0.0, 1), ((0.0, 1.0), 0.0, 2), ((1.0,), 1.0, 0)]
)
def test_the_student_is_given_as_many_clean_frames_as_asked(inputs, nothing, clean):
  asked = {}

  class Remembers(nnx.Module):
    def __call__(self, x, timesteps, context, dense, *, frames):
      asked.update(x=np.asarray(x).reshape(3, frames, *x.shape[1:]), context=np.asarray(context))
      return x[..., :4]

  batch = sets()
  batch["images"][:, 1] = -0.5
  view_loss(Remembers(), batch, inputs=inputs, nothing=nothing, **LAST)
  assert (asked["x"][:, :clean, ..., 4] == 1).all() and (asked["x"][:, clean:, ..., 4] == 0).all()
  sigma = diffusion.StudentSchedule().sigmas[999]
  given = asked["x"][:, :clean, ..., :4] * np.sqrt(1 + sigma**2)
  np.testing.assert_allclose(
    given, np.array([0.25, -0.25])[:clean, None, None, None] + 0 * given, rtol=1e-4
  )
  assert (np.abs(asked["context"]) > 0).all() == bool(clean)


def test_sets_at_once_are_denoised_as_the_student_denoises_each():
  seva = initialise(Seva, SEVA, 0)
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  mask = np.array([[1, 0, 0], [1, 1, 0]], np.float32)
  cond = students.SevaConditioning(
    normal(2, 3, 8, 8, 4), mask, normal(2, 3, 8, 8, 6), normal(2, 1, 12)
  )
  zeta, tau = 10 * normal(2, 3, 8, 8, 4), jnp.array([400, 800])
  noise = jax.jit(losses.predict_noise)(seva, zeta, cond, tau)
  student = students.Seva(seva.graphdef)
  predict = jax.jit(student.predict)
  for row in range(2):
    alone = jax.tree.map(lambda x, row=row: x[row], cond)
    wanted = predict(seva.params, alone, zeta[row], tau[row])
    replaced = students.replace_clean(zeta[row], alone)
    found = diffusion.predict_zeta0(replaced, noise[row], student.schedule.sigma(tau[row]))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("far", [False, True])
def test_cameras_on_the_device_are_those_of_an_edit(far):
  c2w = poses(6)
  if far:
    c2w[4, :3, 3] *= 500
  K = sets(1, 6)["K"][0]
  wanted = cameras.normalise_cameras(c2w)
  found = views.normalise_cameras(jnp.asarray(c2w, jnp.float32))
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
  maps = views.plucker(jnp.asarray(wanted), jnp.asarray(K), (4, 4))
  np.testing.assert_allclose(
    maps, cameras.plucker(wanted, K, (4, 4)), rtol=1e-4, atol=1e-3 if far else 1e-5
  )


def test_a_camera_alone_is_at_the_origin():
  alone = views.normalise_cameras(jnp.asarray(poses(1), jnp.float32))
  assert (np.asarray(alone[0, :3, 3]) == 0).all()


def test_timesteps_lie_on_both_sides_of_the_bound_in_the_share_that_is_asked():
  t = np.asarray(losses.timesteps(KEY, 4000, 300, 0.38))
  assert t.min() >= 0 and t.max() <= 999
  assert np.mean(t < 300) == pytest.approx(0.38, abs=0.03)
  assert np.mean(t[t >= 300]) == pytest.approx(650, abs=15)
