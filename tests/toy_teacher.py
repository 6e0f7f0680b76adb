"""A teacher of one's own: it reddens every view, and needs no network for that."""

import flax.struct
import jax
import jax.numpy as jnp

from imx2mx_jax import teachers

SHIFT = (0.4, -0.2, -0.2)  # of red, green and blue, in pictures in [-1, 1]


@flax.struct.dataclass
class Redden:
  """Knows the views as they should come out. wanted: their scaled latents, [N h w 4]."""

  wanted: jax.Array

  def predict_noise(self, z_t, t, key_view=None):
    """The noise between z_t and what is wanted; no view looks at another, so no key view."""
    alpha, sigma = teachers.SCHEDULE.alpha_sigma(t)
    return (z_t - alpha * self.wanted) / sigma


def make_teacher(run, models, images):
  """The teacher for some views of a run. images: [N H W 3] in [-1, 1], at its size."""
  reddened = jnp.clip(images + jnp.asarray(SHIFT), -1, 1)
  latents = jax.jit(teachers.encode_sources)(models.vae, reddened)
  return Redden(latents * models.vae.module.shape.scaling_factor)
