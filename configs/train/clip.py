"""The micro world's CLIP, from scratch: the metrics' model and the student's image encoder.

    python -m imx2mx_jax.train --config=configs/train/clip.py

Writes runs/train-clip/metric_clip and runs/train-clip/image_encoder.
"""

import pathlib

import imx2mx_jax
from imx2mx_jax.train import settings

MICRO = pathlib.Path(imx2mx_jax.__file__).parent / "micro"


def get_config():
  config = settings.default("clip")
  config.frozen.tokenizer = str(MICRO / "bundled" / "teacher" / "tokenizer")
  config.dtype = "tensorfloat32"
  config.steps = 4000
  config.batch = 256
  config.optim.lr = 1e-3
  config.licence = "Apache-2.0"
  config.notice = "The micro models of imx2mx_jax, trained from scratch on procedural scenes."
  return config
