"""Settings: their defaults, the command line over them, and the checked form that a run reads.

The frozen dataclasses below are the one list of fields, with the paper's values. A config file has
a function `get_config()` that takes `default()`, the same as an ml_collections tree, and changes
fields; the command line may change any field again (`--config=FILE --config.distill.dt=50`).
`resolve` checks the tree, turns it into a `RunConfig` and is its only reader.
"""

import dataclasses
import difflib
import inspect
import math
import pathlib
import re
import runpy
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from absl import flags
from ml_collections import ConfigDict, config_flags

from imx2mx_jax.errors import ConfigError, UserError

Row = TypeVar("Row")


@dataclasses.dataclass(frozen=True)
class SceneConfig:
  """Which photographs."""

  path: str = ""  # folder with transforms.json and the photographs
  frames: tuple[int | str, ...] = ()  # views to edit: "3,0,2" (from 0) or "a.jpg,b.jpg"; "": all
  reference: int | str = ""  # the view that the teacher edits first, likewise; "": from the seed
  undistort: bool = True  # honour the lens distortion in the file: the pictures are straightened


KINDS = ("instruct_pix2pix", "controlnet")
"""The teachers that are no file of one's own; edits of one kind differ in arrays alone."""


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
  """The editor of single pictures."""

  kind: str = "instruct_pix2pix"  # or "controlnet", or a Python file: docs/new_teacher.md
  weights: str = "weights/teacher"  # converted folder (python -m convert_weights)
  controlnet: str = "weights/controlnet"  # converted folder, for that kind
  condition: str = "depth"  # what a ControlNet follows: the scene's depth, "canny", or PNGs' folder
  size: int = 512  # pixels of a square's side, or the height where `width` is given
  width: int = 0  # pixels, in the ratio of the student's; 0: a square
  text_guidance: float = 7.5  # s_T; more: a stronger edit. 6 to 9 is useful
  image_guidance: float = 1.5  # s_I; more: closer to the photograph. 1.5 to 1.8 is useful
  steps: int = 100  # of sampling, when it edits the reference view
  cross_view: bool = True  # random cross-view attention: all views look at one of them
  extended: bool = False  # instead, all views look at all of them, as in DGE
  rescale: float = 0.0  # share by which guidance may not widen the predicted noise

  @property
  def hw(self) -> tuple[int, int]:
    """Height and width of its pictures."""
    return self.size, self.width or self.size


@dataclasses.dataclass(frozen=True)
class StudentConfig:
  """The multi-view diffusion model, SEVA."""

  weights: str = "weights/student"  # converted folder
  vae: str = "weights/student_vae"  # converted folder
  image_encoder: str = "weights/image_encoder"  # converted folder
  size: int = 576  # pixels of a square's side, or the height where `width` is given
  width: int = 0  # pixels; 0: a square

  @property
  def hw(self) -> tuple[int, int]:
    """Height and width of its pictures."""
    return self.size, self.width or self.size


@dataclasses.dataclass(frozen=True)
class DistillConfig:
  """How the student learns from the teacher on its way down its timesteps."""

  t_max: int = 999  # first timestep of the student
  t_min: int = 25  # last timestep of the student
  dt: int = 25  # distance between its timesteps
  iterations_first: int = 200  # at the first timestep
  iterations: int = 50  # at each other timestep
  teacher_t: str = "truncated_normal"  # or "uniform", or "matched": the student's timestep
  upper: int = 950  # highest timestep of the teacher
  fall: int = 0  # by how much `upper` is lower at the student's timestep 0
  shape_factor: float = 0.5  # f of the truncated normal; more: nearer to `upper`
  reference: str = "edited"  # what the student is conditioned on; or "source"
  mapping: str = "resize"  # of latents to the teacher's grid; or "learned", a convolution
  unit: bool = False  # the teacher's difference is brought to unit size at each iteration
  average: float = 0.0  # decay of averaged weights of the student, which then take its own steps
  sdedit: float = 0.5  # with method="sdedit": the share of t_max to which the edits are noised


@dataclasses.dataclass(frozen=True)
class CoupleConfig:
  """Ways to combine the models without training: methods "coupled" and "collaborative"."""

  pull: float = 0.5  # coupled: how far each model's estimate moves to the other's; 0: not at all
  iterations: int = 60  # collaborative: of the views' latents
  rate: float = 0.005  # collaborative: Adam's; with 0.02 micro models end in noise


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  """AdamW and its learning rate: linear warm-up, cosine decay."""

  lr: float = 1e-4  # after the warm-up
  final_lr: float = 5e-5  # after the decay
  min_lr: float = 1e-9  # of the first iteration, with compat="authors"
  warmup: int = 200  # iterations
  clip: float = 0.5  # largest norm of the gradient
  b1: float = 0.9  # decay of the first moment
  b2: float = 0.999  # decay of the second moment
  eps: float = 1e-8  # added to the root of the second moment
  weight_decay: float = 0.01  # share of the learning rate
  max_skipped: int = 50  # updates in a row that are not finite, then the run stops; 0: never


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """How the devices are used: in rows of chips, each for one edit.

  One row of all chips is the default, also for a list of edits: it asks least of each chip's
  memory, and the first edit is there soonest. Several rows, where a row has room for an edit,
  exchange less among their chips.
  """

  edit: int = 1  # edits of a list at a time; -1: as many as the chips allow
  fsdp: int = -1  # chips that share one edit's weights and its work; -1: all that are left


@dataclasses.dataclass(frozen=True)
class OutputConfig:
  """What is made of the last prediction."""

  decoder: str = "student"  # views at the student's size; "teacher": at the teacher's, softer
  polish: float = 0.0  # share of its timesteps that the teacher goes over the result; 0: not at all
  polish_steps: int = 5  # in which it does so, all views looking at a key view in each
  colmap: bool = False  # also a COLMAP text model, cameras and shared points (needs pycolmap)
  state: bool = False  # a finished run keeps the states that it would have gone on from


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """One run. `resolve` leaves nothing open but what the seed decides."""

  instruction: str = ""  # what to do with the scene, as one says it: "turn him into a knight"
  source_caption: str = ""  # what the photographs show; without captions CLIP scores nothing
  edited_caption: str = ""  # what the edited views should show
  metric_clip: str = "weights/metric_clip"  # converted folder, for CLIP's scores
  seed: int = 42  # of every random number of the run
  mask: str = ""  # folder of PNGs by the views' names, white where the edit may change something
  run_dir: str = ""  # folder that the run writes; "": runs/SCENE-INSTRUCTION
  preview: bool = False  # edit only the reference view, at several guidance scales, and stop
  method: str = "distill"  # or another of README.md's "Other ways to combine the two models"
  compat: str = ""  # "authors": do as the authors' program does where ours does better
  dtype: str = ""  # of the arithmetic; "": float32 on CPUs, bfloat16 on GPUs and TPUs
  memory: str = "default"  # or "small", "smallest": less of it, for more arithmetic
  log_every: int = 50  # iterations in one call to the device; metrics come home after each call
  save_every: int = 500  # iterations between saved states, from which a stopped run goes on
  image_every: int = 500  # iterations between pictures in TensorBoard; 0: none
  scene: SceneConfig = SceneConfig()
  teacher: TeacherConfig = TeacherConfig()
  student: StudentConfig = StudentConfig()
  distill: DistillConfig = DistillConfig()
  couple: CoupleConfig = CoupleConfig()
  optim: OptimConfig = OptimConfig()
  mesh: MeshConfig = MeshConfig()
  output: OutputConfig = OutputConfig()

  @property
  def teacher_alone(self) -> bool:
    """Whether the run has no student."""
    return self.preview or self.method in _BY_TEACHER


_BY_TEACHER = ("teacher_only", "teacher_cross_view", "collaborative")
_METHODS = ("distill", *_BY_TEACHER, "student_only", "sdedit", "coupled")


def default() -> ConfigDict:
  """The defaults as a tree for config files; locked, so that a misspelt field is an error."""
  tree = dataclasses.asdict(RunConfig())
  tree["scene"]["frames"] = ""  # the tree holds what one types; `resolve` takes it apart
  return ConfigDict(tree).lock()


def pick(table: Mapping[str, Row], name: str) -> Row:
  """A row of a config file's table, as in --config=FILE:NAME. Raises ConfigError."""
  if name in table:
    return table[name]
  nearest = difflib.get_close_matches(name, table, n=1, cutoff=0.0)[0]
  raise ConfigError(f"{name!r} is not one of {', '.join(table)}; did you mean {nearest!r}?")


def describe(root: type = RunConfig, prefix: str = "") -> str:
  """Every field with its type, default and meaning, a line each, for --help."""
  nested = {f"{prefix}{field.name}.": field.type for field in dataclasses.fields(root)}
  groups = {prefix: root} | {k: v for k, v in nested.items() if dataclasses.is_dataclass(v)}
  lines = []
  for name, group in groups.items():
    commented = re.findall(r"^  (\w+: .+ = .+  # .+)$", inspect.getsource(group), re.MULTILINE)
    lines += [f"  --config.{name}{line}" for line in commented]
  return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Check:
  """What a setting must be. wanted: the same in words that follow "must be"."""

  holds: Callable[[Any], bool]
  wanted: str


def choice(*values: str) -> Check:
  """One of these texts."""
  return Check(lambda x: x in values, "one of " + ", ".join(repr(value) for value in values))


def between(low: float, high: float) -> Check:
  """A number from low to high, both allowed."""
  return Check(lambda x: low <= x <= high, f"from {low} to {high}")


def given(wanted: str) -> Check:
  """A text that is not empty."""
  return Check(lambda x: bool(x.strip()), wanted)


FOLDER = given("a folder that python -m convert_weights has written")
COUNT = Check(lambda x: x >= 1, "1 or more")
SOME_OR_ALL = Check(lambda x: x >= 1 or x == -1, "1 or more, or -1 for all")
NOT_NEGATIVE = Check(lambda x: 0 <= x < math.inf, "0 or more")
POSITIVE = Check(lambda x: 0 < x < math.inf, "more than 0")
MOMENT = Check(lambda x: 0 <= x < 1, "at least 0 and below 1")

_CHECKS = {
  "instruction": given('what to do, as one says it: "turn him into a knight"'),
  "seed": between(0, 2**31 - 1),
  "method": choice(*_METHODS),
  "compat": choice("", "authors"),
  "dtype": choice("", "float32", "bfloat16"),
  "memory": choice("default", "small", "smallest"),
  "mesh.edit": SOME_OR_ALL,
  "mesh.fsdp": SOME_OR_ALL,
  "log_every": COUNT,
  "save_every": COUNT,
  "image_every": NOT_NEGATIVE,
  "scene.path": given("the folder that holds transforms.json and the photographs"),
  "teacher.kind": given("instruct_pix2pix, controlnet or a Python file: docs/new_teacher.md"),
  "teacher.weights": FOLDER,
  "teacher.controlnet": FOLDER,
  "teacher.condition": given("depth, canny or a folder with a PNG under each view's name"),
  "teacher.size": COUNT,
  "teacher.width": NOT_NEGATIVE,
  "teacher.text_guidance": NOT_NEGATIVE,
  "teacher.image_guidance": NOT_NEGATIVE,
  "teacher.steps": between(1, 1000),
  "teacher.rescale": between(0, 1),
  "student.weights": FOLDER,
  "student.vae": FOLDER,
  "student.image_encoder": FOLDER,
  "student.size": COUNT,
  "student.width": NOT_NEGATIVE,
  "distill.t_max": between(0, 999),
  "distill.t_min": between(0, 999),
  "distill.dt": between(2, 999),
  "distill.iterations_first": NOT_NEGATIVE,
  "distill.iterations": NOT_NEGATIVE,
  "distill.teacher_t": choice("truncated_normal", "uniform", "matched"),
  "distill.upper": between(1, 999),
  "distill.fall": between(0, 999),
  "distill.shape_factor": POSITIVE,
  "distill.reference": choice("edited", "source"),
  "distill.mapping": choice("resize", "learned"),
  "distill.average": MOMENT,
  "distill.sdedit": between(0, 1),
  "couple.pull": between(0, 1),
  "couple.iterations": NOT_NEGATIVE,
  "couple.rate": POSITIVE,
  "optim.lr": POSITIVE,
  "optim.final_lr": NOT_NEGATIVE,
  "optim.min_lr": NOT_NEGATIVE,
  "optim.warmup": NOT_NEGATIVE,
  "optim.clip": POSITIVE,
  "optim.b1": MOMENT,
  "optim.b2": MOMENT,
  "optim.eps": POSITIVE,
  "optim.weight_decay": NOT_NEGATIVE,
  "optim.max_skipped": NOT_NEGATIVE,
  "output.decoder": choice("student", "teacher"),
  "output.polish": between(0, 1),
  "output.polish_steps": COUNT,
}


def check(
  config: ConfigDict, default: ConfigDict, checks: Mapping[str, Check], origin: str
) -> None:
  """Raises ConfigError for a field that is missing, unknown (to `origin`) or senseless."""
  found, known = flat(config), flat(default)
  for name in found.keys() ^ known.keys():
    wrong = _unknown(name, known) if name in found else "missing"
    raise ConfigError(f"{name} is {wrong}; get_config() must start from {origin}")
  for name, row in checks.items():
    if not row.holds(found[name]):
      raise ConfigError(f"--config.{name}={found[name]!r}: it must be {row.wanted}")


def resolve(config: ConfigDict, platform: str = "cpu") -> RunConfig:
  """The checked settings.

  platform: jax.default_backend(); decides the dtype where the tree leaves it open.
  Raises ConfigError for a field that is missing, unknown or senseless.
  """
  check(config, default(), _CHECKS, "imx2mx_jax.config.default()")
  distill = DistillConfig(**config.distill)
  if distill.t_min > distill.t_max:
    raise ConfigError(
      f"--config.distill.t_min={distill.t_min}: it must not be above t_max={distill.t_max}"
    )
  if distill.t_min < distill.t_max < distill.t_min + distill.dt - 1:
    raise ConfigError(
      f"--config.distill.dt={distill.dt}: it must be at most the way from t_max={distill.t_max} to "
      f"t_min={distill.t_min}, or t_min must be t_max"
    )
  if config.method == "collaborative" and distill.t_min > distill.upper:
    raise ConfigError(
      f"--config.distill.upper={distill.upper}: the teacher's timesteps are drawn from "
      f"t_min={distill.t_min} up to it; raise it or lower t_min"
    )
  if config.method == "collaborative" and config.teacher.kind not in KINDS:
    raise ConfigError(
      f"--config.method=collaborative: it takes the text out of {' or '.join(KINDS)}, and the "
      f"teacher is {config.teacher.kind}; take another method"
    )
  teacher, student = TeacherConfig(**config.teacher), StudentConfig(**config.student)
  _check_ratio(teacher, student, config.compat)
  instruction = config.instruction.strip()
  scene = SceneConfig(
    path=config.scene.path,
    frames=frame_names(config.scene.frames),
    reference=_frame(config.scene.reference),
    undistort=config.scene.undistort,
  )
  settled = {
    "instruction": instruction,
    "run_dir": config.run_dir or f"runs/{_slug(scene.path, instruction)}",
    "dtype": config.dtype or ("float32" if platform == "cpu" else "bfloat16"),
    "scene": scene,
    "teacher": teacher,
    "student": student,
    "distill": distill,
    "couple": CoupleConfig(**config.couple),
    "optim": OptimConfig(**config.optim),
    "mesh": MeshConfig(**config.mesh),
    "output": OutputConfig(**config.output),
  }
  return RunConfig(**{**config, **settled})


def _check_ratio(teacher: TeacherConfig, student: StudentConfig, compat: str) -> None:
  """Raises ConfigError unless both see the same part of the photographs."""
  (height, width), (rows, columns) = student.hw, teacher.hw
  if compat == "authors" and (height != width or rows != columns):
    raise ConfigError(
      f"--config.student.width={student.width}: the authors' program sees squares; leave "
      "student.width and teacher.width at 0, or compat empty"
    )
  if height * columns != width * rows:
    raise ConfigError(
      f"--config.teacher.width={teacher.width}: the teacher's pictures of {columns} x {rows} have "
      f"another ratio than the student's of {width} x {height}; give both the same"
    )


def frame_names(names: str) -> tuple[int | str, ...]:
  """What "3,0,2" or "a.jpg,b.jpg" names; positions as numbers."""
  return tuple(_frame(name) for name in names.split(",") if name.strip())


def from_flat(settings: Mapping[str, Any]) -> RunConfig:
  """A run's settings as its folder states them, {"distill.dt": 25, ..}.

  Raises TypeError or KeyError for a field that this version does not know.
  """
  groups: dict[str, dict[str, Any]] = {}
  for name, value in settings.items():
    group, _, field = name.rpartition(".")
    groups.setdefault(group, {})[field] = tuple(value) if isinstance(value, list) else value
  own = groups.pop("", {})
  types = {field.name: field.type for field in dataclasses.fields(RunConfig)}
  return RunConfig(**own, **{name: types[name](**fields) for name, fields in groups.items()})


def _frame(name: str) -> int | str:
  name = name.strip()
  return int(name) if re.fullmatch(r"-?\d+", name) else name


def _slug(scene: str, instruction: str) -> str:
  words = f"{pathlib.Path(scene).absolute().name} {instruction}".lower()
  return re.sub(r"\W+", "-", words).strip("-")[:80]


_USAGE = "give --config=FILE and any number of --config.FIELD=VALUE"


def parse(argv: Sequence[str]) -> ConfigDict:
  """The settings that a command line asks for.

  argv: the program's name, `--config=FILE` or `--config=FILE:ARGUMENT` (handed to get_config), and
  any number of `--config.FIELD=VALUE`. Raises ConfigError.
  """
  file = flags.FlagValues()
  flags.DEFINE_string("config", None, "the config file", flag_values=file)
  fields = flags.FlagValues()
  try:
    rest = file(argv, known_only=True)
    config = _read(file.config)
    known = flat(config)
    _check_names(rest[1:], known)
    config_flags.DEFINE_config_dict("config", config, flag_values=fields, sys_argv=rest)
    extra = fields(rest)[1:]
  except flags.UnrecognizedFlagError as error:
    raise ConfigError(f"--{error.flagname} is not an option; {_USAGE}") from None
  except flags.IllegalFlagValueError as error:
    raise ConfigError(_wrong_type(str(error), known)) from None
  except flags.Error as error:
    raise ConfigError(f"{error}; {_USAGE}") from None
  if extra:
    raise ConfigError(f"{extra[0]!r} is not an option; {_USAGE}")
  return config


def _read(argument: str | None) -> ConfigDict:
  if not argument:
    raise ConfigError("no config file is given; add --config=configs/default.py")
  path, *option = argument.split(":", 1)
  if not pathlib.Path(path).is_file():
    raise ConfigError(f"--config={path}: there is no such file; configs/default.py is one")
  try:
    config = runpy.run_path(path)["get_config"](*option)
    return config.lock()
  except UserError:
    raise
  except Exception as error:  # whatever the user's file raises
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == path]
    where = f"{path}, line {lines[-1]}" if lines else path
    misspelt = re.search(r'Did you mean "\w+" instead of "\w+"\?', str(error))
    reason = misspelt[0] if misspelt else f"{type(error).__name__}: {error}"
    raise ConfigError(f"{where}: {reason}") from error


def _check_names(arguments: Sequence[str], known: Mapping[str, Any]) -> None:
  for argument in arguments:
    found = re.match(r"--?(?:no)?config\.([^=]*)", argument)
    if found and found[1] not in known:
      raise ConfigError(f"--config.{found[1]} is {_unknown(found[1], known)}")


def _unknown(name: str, known: Mapping[str, Any]) -> str:
  group = [field for field in known if field.startswith(f"{name}.")]
  if group:
    return "a group of fields; set one of them: " + ", ".join(group)
  full = {field.rpartition(".")[2]: field for field in known} | {field: field for field in known}
  nearest = difflib.get_close_matches(name, full, n=1, cutoff=0.0)[0]
  return f"not a field; did you mean --config.{full[nearest]}?"


_KINDS = {
  int: "a whole number",
  float: "a number",
  bool: "true or false",
  str: "a text",
  tuple: "values in brackets",
}


def _wrong_type(message: str, known: Mapping[str, Any]) -> str:
  """absl's message starts with "flag --config.NAME=VALUE: "."""
  name = re.match(r"flag --config\.([\w.]+)", message)[1]
  value = known[name]
  given = message.removeprefix("flag ").split(": ")[0]
  return f"{given}: it must be {_KINDS[type(value)]}, as in --config.{name}={value}"


def flat(config: ConfigDict) -> dict[str, Any]:
  """{"distill.dt": 25, ..}: every field of a tree by its whole name."""
  fields = {}
  for key, value in config.items():
    inner = flat(value) if isinstance(value, ConfigDict) else {"": value}
    fields |= {f"{key}.{name}".rstrip("."): leaf for name, leaf in inner.items()}
  return fields
