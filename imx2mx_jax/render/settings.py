"""What `python -m imx2mx_jax.render` can be told."""

import dataclasses
import difflib
import pathlib
import re
from collections.abc import Sequence

from absl import flags
from etils import epath

from imx2mx_jax import config, paths, sampler
from imx2mx_jax.errors import ConfigError

ALONG_INPUTS = "inputs"
NAMES = (*paths.PATHS, ALONG_INPUTS)
"""Paths by name; any other --path is a file of cameras."""


@dataclasses.dataclass(frozen=True)
class RenderConfig:
  """One rendering. source: the folder or photograph; the other fields are options."""

  source: str
  path: str = "orbit"  # the cameras' path: a name, or a transforms.json of wanted cameras
  frames: int = 80  # how many views, where the path is a name
  extent: float = 1.0  # times the size of the path; with one photograph see camera_scale
  views: str = ""  # which are the input, the first one first: "3,0" or "a.jpg"; "": all
  student: str = "original"  # of a run; or "personalised", which did worse on the micro world
  models: str = ""  # folder of student, student_vae and image_encoder; "": the run's, else weights
  size: str = ""  # pixels: "576", or width and height: "1024x576"; "": the run's, else 576
  fov: float = 54.0  # degrees that one photograph is wide
  steps: int = 50  # of sampling
  guidance: float = 3.0  # of the first pass: more: sharper, then too much
  guidance_second: float = 2.0  # of the second pass, where there is one
  guidance_min: float = 1.2  # on frames whose camera is an input's, or next to it
  rule: str = "multiview"  # of the first pass's guidance over the frames; or "temporal", "plain"
  rule_second: str = "temporal"  # of the second pass's
  at_once: int = 21  # frames in a pass, the input views among them; 21 is what SEVA knows
  camera_scale: float = 2.0  # distance of the first camera from the path's middle; up to 10
  fps: int = 24  # of the video
  seed: int = 42  # of every random number
  dtype: str = ""  # of the arithmetic; "": float32 on CPUs, bfloat16 on GPUs and TPUs
  export: str = ""  # "ply": also fit Gaussian splats to the frames, with nerfstudio
  out: str = ""  # folder that is written; "": RUN/render/PATH or runs/SCENE-PATH

  @property
  def path_name(self) -> str:
    """The path as a word."""
    return self.path if self.path in NAMES else pathlib.Path(self.path).stem

  @property
  def hw(self) -> tuple[int, int] | None:
    """Height and width, where they are given."""
    if not self.size:
      return None
    width, _, height = self.size.partition("x")
    return int(height or width), int(width)


_CHECKS = {
  "frames": config.between(2, 10_000),
  "extent": config.POSITIVE,
  "student": config.choice("original", "personalised"),
  "size": config.Check(
    lambda x: re.fullmatch(r"|[1-9]\d*(x[1-9]\d*)?", x) is not None,
    'pixels, as in 576, or width and height, as in "1024x576"',
  ),
  "fov": config.between(1, 170),
  "steps": config.between(1, 1000),
  "guidance": config.NOT_NEGATIVE,
  "guidance_second": config.NOT_NEGATIVE,
  "guidance_min": config.NOT_NEGATIVE,
  "rule": config.choice(*sampler.RULES),
  "rule_second": config.choice(*sampler.RULES),
  "at_once": config.between(4, 1000),
  "camera_scale": config.POSITIVE,
  "fps": config.between(1, 240),
  "seed": config.between(0, 2**31 - 1),
  "dtype": config.choice("", "float32", "bfloat16"),
  "export": config.choice("", "ply"),
}
_DEFINE = {int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}


def describe() -> str:
  """Every option with its type, default and meaning, a line each, for --help."""
  return config.describe(RenderConfig).replace("--config.", "--")


def parse(argv: Sequence[str]) -> RenderConfig:
  """The settings that a command line asks for. Raises ConfigError."""
  values, known = flags.FlagValues(), dataclasses.fields(RenderConfig)[1:]
  for field in known:
    _DEFINE[field.type](field.name, field.default, "", flag_values=values)
  try:
    sources = values(list(argv))[1:]
  except flags.UnrecognizedFlagError as error:
    names = [field.name for field in known]
    nearest = difflib.get_close_matches(error.flagname, names, n=1, cutoff=0.0)[0]
    raise ConfigError(f"--{error.flagname} is not an option; did you mean --{nearest}?") from None
  except flags.Error as error:
    raise ConfigError(f"{error}; --help lists the options with their types") from None
  if len(sources) != 1:
    given = " and ".join(sources) or "nothing"
    raise ConfigError(f"{given} was named to render; name one run, scene or photograph")
  wanted = RenderConfig(sources[0], **{field.name: values[field.name].value for field in known})
  for name, row in _CHECKS.items():
    if not row.holds(getattr(wanted, name)):
      raise ConfigError(f"--{name}={getattr(wanted, name)}: it must be {row.wanted}")
  if wanted.path not in NAMES and not epath.Path(wanted.path).expanduser().exists():
    nearest = difflib.get_close_matches(wanted.path, NAMES, n=1, cutoff=0.0)[0]
    raise ConfigError(
      f"--path={wanted.path} is neither a path nor a file of cameras; did you mean {nearest}?"
    )
  return wanted
