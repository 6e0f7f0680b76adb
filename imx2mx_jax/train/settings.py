"""The settings of a training: their defaults for each model, and the checked form.

A config file's `get_config()` starts from `default("vae")` (or "clip", "teacher", "controlnet",
"student") and changes fields, as in imx2mx_jax.config; the groups `loss` and `shape` depend on the
model.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from imx2mx_jax import config as base
from imx2mx_jax.config import COUNT, NOT_NEGATIVE, POSITIVE
from imx2mx_jax.errors import ConfigError
from imx2mx_jax.micro import world
from imx2mx_jax.models.clip import ClipShape
from imx2mx_jax.models.clip_text import ClipTextShape
from imx2mx_jax.models.clip_vision import ClipVisionShape
from imx2mx_jax.models.controlnet import ControlNetShape
from imx2mx_jax.models.seva import SevaShape
from imx2mx_jax.models.unet import UNetShape
from imx2mx_jax.models.vae import VaeShape


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """What is learned from."""

  source: str = "micro"  # the micro world, or a folder: see imx2mx_jax/train/folders.py
  size: int = 64  # pixels of a picture; it is a square
  frames: int = 5  # of a set of views, the input view first (student)
  worlds: int = 20000  # micro worlds that are drawn before the first step
  patterned: float = 0.0  # chance of a micro object to have stripes or dots
  wide: bool = False  # micro instructions in more words, and patterns asked for
  rendered: int = 0  # pixels at which worlds are rendered, then resized to `size`; 0: `size`
  samples: int = 2  # rays along each side of a pixel
  condition: str = "depth"  # of the micro world, what a ControlNet follows; or "canny"


@dataclasses.dataclass(frozen=True)
class FrozenConfig:
  """Converted folders of the networks that a model is trained with but that do not learn."""

  vae: str = ""  # of a student_vae or a teacher
  image_encoder: str = ""  # of an image_encoder or a metric_clip (student)
  text_encoder: str = ""  # of a metric_clip or a teacher, and its tokenizer (teacher, controlnet)
  unet: str = ""  # of a teacher (controlnet); an editor's is used without its source's channels
  tokenizer: str = ""  # the tokenizer's own folder (clip)


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  """AdamW, or Muon, and the learning rate: linear warm-up, cosine decay. Averaged weights."""

  lr: float = 1e-3  # after the warm-up
  final_lr: float = 1e-5  # of the last step
  warmup: int = 200  # steps
  clip: float = 1.0  # largest norm of the gradient
  b1: float = 0.9  # decay of the first moment
  b2: float = 0.99  # decay of the second moment
  eps: float = 1e-8  # added to the root of the second moment
  weight_decay: float = 0.01  # share of the learning rate
  muon: bool = False  # kernels take Muon's steps instead of AdamW's
  ema: float = 0.999  # decay of the averaged weights, which are what is written


@dataclasses.dataclass(frozen=True)
class AutoencoderLoss:
  """Squared error + absolute + kl KL, of pictures whole, small, and from resized latents."""

  absolute: float = 0.1  # weight of the absolute error
  kl: float = 3e-5  # weight of the divergence from the normal distribution, mean over the latents
  noise: float = 0.03  # largest standard deviation of the noise that the decoder learns to bear
  small: int = 48  # pixels: a quarter of the rows is seen so small, another's latents are resized


@dataclasses.dataclass(frozen=True)
class ContrastiveLoss:
  """Symmetric cross-entropy of pictures and texts; equal texts are each other's right answers."""

  blur: int = 0  # pixels: half of the pictures are first reduced to this size; 0: none


@dataclasses.dataclass(frozen=True)
class InstructPix2PixLoss:
  """noise |eps error|^2 + clean |z0 error|^2; conditions dropped."""

  noise: float = 0.5  # weight of the noise's squared error
  clean: float = 1.0  # weight of the clean estimate's squared error; the paper's loss has 0
  bound: int = 840  # timesteps are uniform below it and uniform from it on
  below: float = 0.25  # share of the rows below the bound; the paper's are bound / 1000
  no_text: float = 0.05  # share of the rows without instruction
  no_image: float = 0.05  # share of the rows without source picture
  nothing: float = 0.05  # share of the rows without either


@dataclasses.dataclass(frozen=True)
class ControlNetLoss:
  """noise |eps error|^2 + clean |z0 error|^2 of a picture from its caption and its condition."""

  noise: float = 0.5  # weight of the noise's squared error
  clean: float = 1.0  # weight of the clean estimate's squared error; the paper's loss has 0
  bound: int = 840  # timesteps are uniform below it and uniform from it on
  below: float = 0.25  # share of the rows below the bound; the paper's are bound / 1000
  no_text: float = 0.2  # share of the rows without caption


@dataclasses.dataclass(frozen=True)
class MultiViewLoss:
  """noise |eps error|^2 + clean |zeta0 error|^2 over the frames to be generated."""

  noise: float = 1.0  # weight of the noise's squared error
  clean: float = 1.0  # weight of the clean estimate's squared error
  bound: int = 300  # timesteps are uniform below it and uniform from it on
  below: float = 0.38  # share of the sets below the bound
  inputs: tuple[float, ...] = (0.8, 0.13, 0.07)  # shares of the sets with 1, 2, .. clean frames
  nothing: float = 0.05  # share of the sets without any clean frame or embedding
  repeated: float = 0.5  # share of the sets whose input view is among the targets too


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """One training. loss, shape: dataclasses of the model's own."""

  loss: Any
  shape: Any
  model: str = ""  # vae, clip, teacher, controlnet or student
  run_dir: str = ""  # folder that the training writes; "": runs/train-MODEL
  start: str = ""  # converted folder to start from; "": from scratch, with `shape`
  learns: str = ""  # regular expression of the parameters that learn, as vae/decoder/.*
  readout: bool = False  # noise passes to the output by weights that are set by hand and stay
  seed: int = 0  # of every random number of the training
  remat: bool = False  # the backward pass computes the layers again: less memory, more time
  dtype: str = ""  # of the arithmetic, or tensorfloat32; "": float32 on CPUs, else bfloat16
  steps: int = 10000  # in all
  batch: int = 32  # rows of a step, over all devices together
  minutes: float = 0.0  # after which it stops as on Ctrl-C; 0: no limit
  log_every: int = 20  # steps in one call to the device; metrics are their means
  save_every: int = 1000  # steps between saved states, from which a stopped training goes on
  sample_every: int = 1000  # steps between sample pictures and their figures; 0: none
  sample_text_guidance: float = 1.0  # of sampled pictures, s_T (teacher, controlnet)
  sample_image_guidance: float = 1.0  # of sampled pictures, s_I (teacher)
  stored: str = "float32"  # of the weights in files; float16 spares what a read-out is made of
  licence: str = "unknown"  # of the weights, where they do not continue others
  notice: str = ""  # whom to name, likewise
  data: DataConfig = DataConfig()
  frozen: FrozenConfig = FrozenConfig()
  optim: OptimConfig = OptimConfig()


@dataclasses.dataclass(frozen=True)
class Model:
  """What a training of one model is about: its loss, its shape, what usually learns."""

  loss: Any
  shape: Any
  learns: str


_VISION = ClipVisionShape(64, 8, 128, 4, 4, 512, 128)
_TEXT = ClipTextShape(651, 32, 128, 3, 4, 512, "gelu")

MODELS = {
  "vae": Model(AutoencoderLoss(), VaeShape(3, 4, (16, 32, 64), 1, 8, 1.0), "vae/.*"),
  "clip": Model(ContrastiveLoss(), ClipShape(_TEXT, _VISION, 650), "clip/.*"),
  "teacher": Model(
    InstructPix2PixLoss(),
    UNetShape(
      channels=(128, 128),
      layers=1,
      down_attention=(True, True),
      heads=(4, 4),
      context_width=128,
      up_attention=(True, False),
    ),
    "unet/.*",
  ),
  "controlnet": Model(
    ControlNetLoss(),
    ControlNetShape(
      in_channels=8,  # an editor's; see teachers.without_source
      channels=(128, 128),
      layers=1,
      down_attention=(True, True),
      heads=(4, 4),
      context_width=128,
      hint_channels=(16, 32, 64),
    ),
    "controlnet/.*",
  ),
  "student": Model(
    MultiViewLoss(),
    SevaShape(
      channels=96,
      channel_mult=(1, 1),
      blocks_per_level=1,
      attention_downsamples=(2,),
      depths=(1, 1),
      head_width=32,
      context_width=128,
      joint=("middle_ds2", "input_ds2", "output_ds2"),
    ),
    "seva/.*",
  ),
}
"""{model: its settings}; the shapes are those of the bundled micro models."""


def default(model: str) -> ConfigDict:
  """The defaults as a tree for config files; locked, so that a misspelt field is an error."""
  settings = base.pick(MODELS, model)
  run = TrainConfig(settings.loss, settings.shape, model, learns=settings.learns)
  return ConfigDict(dataclasses.asdict(run)).lock()


def describe() -> str:
  """Every field but those of `shape`, with type, default and meaning; `loss` for each model."""
  groups = [base.describe(TrainConfig)]
  for name, model in MODELS.items():
    groups += [f"of the {name}:", base.describe(type(model.loss), "loss.")]
  return "\n".join(groups)


_SHARE = base.between(0, 1)
_CHECKS = {
  "seed": base.between(0, 2**31 - 1),
  "dtype": base.choice("", "float32", "tensorfloat32", "bfloat16"),
  "stored": base.choice("float32", "float16"),
  "steps": COUNT,
  "batch": COUNT,
  "minutes": NOT_NEGATIVE,
  "log_every": COUNT,
  "save_every": COUNT,
  "sample_every": NOT_NEGATIVE,
  "sample_text_guidance": NOT_NEGATIVE,
  "sample_image_guidance": NOT_NEGATIVE,
  "data.source": base.given('"micro", or a folder'),
  "data.size": COUNT,
  "data.frames": base.between(1, 20),
  "data.worlds": COUNT,
  "data.patterned": base.between(0, 1),
  "data.rendered": NOT_NEGATIVE,
  "data.samples": COUNT,
  "data.condition": base.choice("depth", "canny"),
  "optim.lr": POSITIVE,
  "optim.final_lr": NOT_NEGATIVE,
  "optim.warmup": NOT_NEGATIVE,
  "optim.clip": POSITIVE,
  "optim.b1": base.MOMENT,
  "optim.b2": base.MOMENT,
  "optim.eps": POSITIVE,
  "optim.weight_decay": NOT_NEGATIVE,
  "optim.ema": base.MOMENT,
}
_DENOISING = {
  "loss.noise": NOT_NEGATIVE,
  "loss.clean": NOT_NEGATIVE,
  "loss.bound": base.between(1, 999),
  "loss.below": _SHARE,
}
_MODEL_CHECKS = {
  "vae": {
    "loss.absolute": NOT_NEGATIVE,
    "loss.kl": NOT_NEGATIVE,
    "loss.noise": NOT_NEGATIVE,
    "loss.small": COUNT,
  },
  "clip": {"loss.blur": NOT_NEGATIVE, "frozen.tokenizer": base.given("the tokenizer's folder")},
  "teacher": {
    **_DENOISING,
    "loss.no_text": _SHARE,
    "loss.no_image": _SHARE,
    "loss.nothing": _SHARE,
    "frozen.vae": base.FOLDER,
    "frozen.text_encoder": base.FOLDER,
  },
  "controlnet": {
    **_DENOISING,
    "loss.no_text": _SHARE,
    "frozen.vae": base.FOLDER,
    "frozen.text_encoder": base.FOLDER,
    "frozen.unet": base.FOLDER,
  },
  "student": {
    **_DENOISING,
    "loss.inputs": base.Check(
      lambda x: len(x) > 0 and min(x) >= 0 and abs(sum(x) - 1) < 1e-3, "shares whose sum is 1"
    ),
    "loss.nothing": _SHARE,
    "loss.repeated": _SHARE,
    "frozen.vae": base.FOLDER,
    "frozen.image_encoder": base.FOLDER,
  },
}


def resolve(config: ConfigDict, platform: str = "cpu") -> TrainConfig:
  """The checked settings.

  platform: jax.default_backend(); decides the dtype where the tree leaves it open.
  Raises ConfigError for a field that is missing, unknown or senseless.
  """
  if config.get("model") not in MODELS:
    raise ConfigError(
      f"model={config.get('model')!r}: get_config() must start from "
      f"imx2mx_jax.train.settings.default(MODEL), MODEL being one of {', '.join(MODELS)}"
    )
  model = MODELS[config.model]
  checks = _CHECKS | _MODEL_CHECKS[config.model]
  base.check(config, default(config.model), checks, "imx2mx_jax.train.settings.default()")
  if config.remat and config.model in ("vae", "clip"):
    raise ConfigError(f"--config.remat=True: a {config.model} keeps all its layers; leave it out")
  if config.data.source == "micro" and config.data.frames > world.VIEWS:
    raise ConfigError(
      f"--config.data.frames={config.data.frames}: a micro world has {world.VIEWS} views"
    )
  if config.model == "student" and len(config.loss.inputs) > config.data.frames:
    raise ConfigError(
      f"--config.loss.inputs={config.loss.inputs}: there are only {config.data.frames} frames"
    )
  settled = {
    "run_dir": config.run_dir or f"runs/train-{config.model}",
    "dtype": config.dtype or ("float32" if platform == "cpu" else "bfloat16"),
    "loss": _filled(model.loss, config.loss),
    "shape": _filled(model.shape, config.shape),
    "data": DataConfig(**config.data),
    "frozen": FrozenConfig(**config.frozen),
    "optim": OptimConfig(**config.optim),
  }
  return TrainConfig(**{**config, **settled})


def _filled(like: Any, values: ConfigDict) -> Any:
  """A dataclass of the same class as `like`, from its tree."""
  fields = {name: getattr(like, name) for name in values}
  nested: Callable[[str], bool] = lambda name: dataclasses.is_dataclass(fields[name])
  return type(like)(**{k: _filled(fields[k], v) if nested(k) else v for k, v in values.items()})
