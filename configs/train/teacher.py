"""The micro world's InstructPix2Pix, from scratch, on before/after pairs of 48 pixels.

    python -m imx2mx_jax.train --config=configs/train/teacher.py

Reads the autoencoder and the CLIP that vae.py and clip.py have trained; writes
runs/train-teacher/teacher. A released InstructPix2Pix goes on learning from one's own pairs (see
imx2mx_jax/train/folders.py) by

    python -m imx2mx_jax.train --config=configs/train/teacher.py:released

--config.data.source=FOLDER.
"""

from imx2mx_jax.train import settings


def get_config(stage="micro"):
  config = settings.default("teacher")
  if stage == "released":
    config.run_dir = "runs/train-released-teacher"
    config.start = "weights/teacher"
    config.frozen.vae = "weights/teacher"
    config.frozen.text_encoder = "weights/teacher"
    config.data.source = "data"
    config.data.size = 256
    config.remat = True
    config.steps = 2000
    config.batch = 32
    config.optim.lr = 1e-5
    config.sample_text_guidance = 7.5
    config.sample_image_guidance = 1.5
    return config
  config.frozen.vae = "runs/train-vae/student_vae"
  config.frozen.text_encoder = "runs/train-clip/metric_clip"
  config.readout = True
  config.dtype = "tensorfloat32"  # bfloat16 would round the noise that the read-out lets pass
  config.data.size = 48
  config.data.rendered = 64  # as the photographs are that an edit reduces to the teacher's size
  config.data.worlds = 40000
  config.steps = 17000
  config.batch = 128
  config.learns = "(unet|text_encoder)/.*"
  config.loss.below = 0.15
  config.optim.muon = True
  config.optim.lr = 2e-3
  config.optim.ema = 0.999
  config.licence = "Apache-2.0"
  config.notice = "The micro models of imx2mx_jax, trained from scratch on procedural scenes."
  return config
