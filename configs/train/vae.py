"""The micro world's autoencoder, which teacher and student share, from scratch.

    python -m imx2mx_jax.train --config=configs/train/vae.py

Writes runs/train-vae/student_vae.
"""

from imx2mx_jax.train import settings


def get_config():
  config = settings.default("vae")
  config.dtype = "tensorfloat32"
  config.steps = 6300
  config.batch = 64
  config.optim.lr = 1e-3
  config.licence = "Apache-2.0"
  config.notice = "The micro models of imx2mx_jax, trained from scratch on procedural scenes."
  return config
