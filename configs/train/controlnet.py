"""The micro world's ControlNet: pictures from a caption and a depth map (or edges), 48 pixels.

    python -m imx2mx_jax.train --config=configs/train/controlnet.py

It learns beside a text-to-image model. The micro world's is its InstructPix2Pix without a source,
as that one was trained for its guidance. Writes runs/train-controlnet/controlnet. A released
ControlNet goes on learning, beside Stable Diffusion 1.5, from one's own pictures (see
imx2mx_jax/train/folders.py) by

    python -m imx2mx_jax.train --config=configs/train/controlnet.py:released

--config.data.source=FOLDER.
"""

import pathlib

import imx2mx_jax
from imx2mx_jax.train import settings

BUNDLED = pathlib.Path(imx2mx_jax.__file__).parent / "micro" / "bundled"


def get_config(stage="micro"):
  config = settings.default("controlnet")
  if stage == "released":
    config.run_dir = "runs/train-released-controlnet"
    config.start = "weights/controlnet"
    config.frozen.vae = "weights/teacher"
    config.frozen.text_encoder = "weights/teacher"
    config.frozen.unet = "weights/teacher"
    config.data.source = "data"
    config.data.size = 512
    config.remat = True
    config.steps = 2000
    config.batch = 32
    config.optim.lr = 1e-5
    config.sample_text_guidance = 7.5
    return config
  config.frozen.vae = str(BUNDLED / "teacher")
  config.frozen.text_encoder = str(BUNDLED / "teacher")
  config.frozen.unet = str(BUNDLED / "teacher")
  config.dtype = "tensorfloat32"  # bfloat16 would round the noise that the read-out lets pass
  config.data.size = 48
  config.data.rendered = 64
  config.steps = 5000
  config.batch = 16
  config.optim.lr = 1e-3
  config.licence = "Apache-2.0"
  config.notice = "The micro models of imx2mx_jax, trained from scratch on procedural scenes."
  return config
