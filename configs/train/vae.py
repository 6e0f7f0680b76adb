"""The micro world's autoencoder, which teacher and student share, from scratch.

    python -m imx2mx_jax.train --config=configs/train/vae.py

Writes runs/train-vae/student_vae. A second stage, on which no latents depend, has the encoder stay
as it is:

    python -m imx2mx_jax.train --config=configs/train/vae.py:decoder

It writes runs/train-decoder/student_vae.
"""

from imx2mx_jax.train import settings


def get_config(stage="whole"):
  config = settings.default("vae")
  config.steps = 10000
  config.batch = 8
  config.optim.lr = 1e-3
  config.licence = "Apache-2.0"
  config.notice = "The micro models of imx2mx_jax, trained from scratch on procedural scenes."
  if stage == "decoder":
    config.run_dir = "runs/train-decoder"
    config.start = "runs/train-vae/student_vae"
    config.learns = "vae/(decoder|post_quant)/.*"
  return config
