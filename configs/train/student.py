"""The micro world's SEVA, from scratch, on sets of five views of 64 pixels.

    python -m imx2mx_jax.train --config=configs/train/student.py

Reads the autoencoder and the CLIP that vae.py and clip.py have trained; writes
runs/train-student/student. Two stages, as SEVA began with Stable Diffusion 2.1: first single views

    python -m imx2mx_jax.train --config=configs/train/student.py:single

and then --config.start=runs/train-single/student. The released network goes on learning from one's
own scenes (a folder of folders with a transforms.json each) by

    python -m imx2mx_jax.train --config=configs/train/student.py:released

--config.data.source=FOLDER.
"""

from imx2mx_jax.train import settings


def get_config(stage="sets"):
  config = settings.default("student")
  if stage == "released":
    config.run_dir = "runs/train-released"
    config.start = "weights/student"
    config.frozen.vae = "weights/student_vae"
    config.frozen.image_encoder = "weights/image_encoder"
    config.data.source = "data"
    config.data.size = 576
    config.remat = True
    config.steps = 2000
    config.batch = 8
    config.optim.lr = 1e-5
    return config
  config.frozen.vae = "runs/train-vae/student_vae"
  config.frozen.image_encoder = "runs/train-clip/image_encoder"
  config.readout = True
  config.dtype = "tensorfloat32"  # bfloat16 would round the noise that the read-out lets pass
  config.data.worlds = 20000
  config.steps = 15500
  config.batch = 64
  config.loss.below = 0.2
  config.optim.muon = True  # 180 steps: loss .44, AdamW's .56, at 1.3 times the time a step
  config.optim.lr = 2e-3
  config.optim.ema = 0.999
  config.licence = "Apache-2.0"
  config.notice = "The micro models of imx2mx_jax, trained from scratch on procedural scenes."
  if stage == "single":
    config.run_dir = "runs/train-single"
    config.data.frames = 1
    config.loss.inputs = (1.0,)
    config.loss.nothing = 1.0
    config.batch = 256
    config.steps = 4000
  return config
