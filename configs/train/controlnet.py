"""The micro world's ControlNet: pictures from a caption and a depth map (or edges), 48 pixels.

    python -m imx2mx_jax.train --config=configs/train/controlnet.py

It needs a text-to-image model beside it. The micro world has none, so the InstructPix2Pix, without
its source's channels, becomes one in the same training; both are written, to
runs/train-controlnet/{controlnet,teacher}. For a ControlNet on Stable Diffusion 1.5 leave `learns`
at its default, give frozen.unet its converted folder, and only the ControlNet learns.
"""

import pathlib

import imx2mx_jax
from imx2mx_jax.train import settings

BUNDLED = pathlib.Path(imx2mx_jax.__file__).parent / "micro" / "bundled"


def get_config():
  config = settings.default("controlnet")
  config.frozen.vae = str(BUNDLED / "teacher")
  config.frozen.text_encoder = str(BUNDLED / "teacher")
  config.frozen.unet = str(BUNDLED / "teacher")
  # The UNet's hand-made read-out (imx2mx_jax/micro/readout.py) stays as it is.
  config.learns = (
    "controlnet/.*|unet/(?!conv_in/|time_embedding/|up_blocks/1/resnets/1/|norm_out/|conv_out/).*"
  )
  config.data.size = 48
  config.data.rendered = 64
  config.steps = 10000
  config.batch = 16
  config.optim.lr = 5e-4
  config.licence = "Apache-2.0"
  config.notice = "The micro models of imx2mx_jax, trained from scratch on procedural scenes."
  return config
