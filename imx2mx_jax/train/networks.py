"""The networks of a training: which parameters learn, which do not, and where they come from."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from imx2mx_jax import remote, weights
from imx2mx_jax import tokenizer as tokens
from imx2mx_jax.errors import ConfigError, WeightsError
from imx2mx_jax.micro import readout
from imx2mx_jax.models.clip_text import ClipText
from imx2mx_jax.models.clip_vision import ClipVision
from imx2mx_jax.models.network import Network, abstract, initialise
from imx2mx_jax.shapes import Params
from imx2mx_jax.train.settings import TrainConfig

TRAINED = {
  "vae": "vae",
  "clip": "clip",
  "teacher": "unet",
  "controlnet": "controlnet",
  "student": "seva",
}
"""{model: the network that its `shape` describes}."""

_FROZEN = {  # {model: {network: the setting that names its folder}}
  "vae": {},
  "clip": {},
  "teacher": {"vae": "vae", "text_encoder": "text_encoder"},
  "controlnet": {"vae": "vae", "text_encoder": "text_encoder", "unet": "unet"},
  "student": {"vae": "vae", "vision": "image_encoder"},
}
_KINDS = {  # {network: the kinds of folder that hold it}
  "vae": ("student_vae", "teacher"),
  "clip": ("metric_clip",),
  "unet": ("teacher",),
  "controlnet": ("controlnet",),
  "text_encoder": ("metric_clip", "teacher"),
  "vision": ("image_encoder", "metric_clip"),
  "seva": ("student",),
}
_TOWERS = {"text_encoder": (ClipText, "text"), "vision": (ClipVision, "vision")}  # within a CLIP


@dataclasses.dataclass(frozen=True)
class Parts:
  """All networks of a training, their parameters in one dict of "network/path" each.

  params: those that learn. frozen: the others. masks: 0 where an element of a parameter that
  learns is fixed all the same. tokenizer: the folder of the text tower's, if there is one.
  """

  graphdefs: dict[str, nnx.GraphDef]
  shapes: dict[str, Any]
  params: Params
  frozen: Params
  masks: Params
  tokenizer: pathlib.Path | None


def load(run: TrainConfig) -> Parts:
  """Reads or initialises every network of the training.

  Raises WeightsError for a folder that is not the right model or that does not fit the others,
  ConfigError for a shape, a size or a pattern that makes no sense.
  """
  dtype = jnp.dtype("float32" if run.dtype == "tensorfloat32" else run.dtype)
  name = TRAINED[run.model]
  frozen = _FROZEN[run.model]
  networks = {
    part: _read(getattr(run.frozen, field), part, dtype) for part, field in frozen.items()
  }
  tokenizer = _tokenizer(run)
  networks[name] = _read(run.start, name, dtype) if run.start else _fresh(run, tokenizer, dtype)
  if name == "controlnet" and not run.start:
    networks[name] = _beside(networks["unet"][1], *networks[name])
  shapes = {part: shape for part, (shape, _) in networks.items()}
  _check_fit(run, shapes)

  params = {
    f"{part}/{path}": x for part, (_, net) in networks.items() for path, x in net.params.items()
  }
  fixed = {}
  if run.readout:
    params, fixed = _read_out(run, shapes[name], params)
  try:
    learns = re.compile(run.learns)
  except re.error as error:
    raise ConfigError(f"--config.learns={run.learns!r}: it is no pattern ({error})") from error
  learning = {path: x for path, x in params.items() if learns.fullmatch(path)}
  learning = {path: x for path, x in learning.items() if path not in fixed or not fixed[path].all()}
  if not learning:
    raise ConfigError(
      f"--config.learns={run.learns!r} matches no parameter; one of them is {min(params)}"
    )
  return Parts(
    {part: net.graphdef for part, (_, net) in networks.items()},
    shapes,
    learning,
    {path: x for path, x in params.items() if path not in learning},
    {path: jnp.asarray(1 - x) for path, x in fixed.items() if path in learning},
    tokenizer,
  )


def assemble(
  graphdefs: Mapping[str, nnx.GraphDef], params: Params, *, remat: bool = False
) -> dict[str, Network]:
  """The networks with these parameters in them. remat: see Network."""
  return {
    name: Network(graphdef, within(params, name), remat) for name, graphdef in graphdefs.items()
  }


def within(params: Params, name: str) -> Params:
  """The parameters below a name, by what follows it."""
  return {k.removeprefix(f"{name}/"): x for k, x in params.items() if k.startswith(f"{name}/")}


def kind_of(folder: str) -> str:
  """The kind of model in a converted folder; "" where there is none."""
  file = pathlib.Path(folder) / weights.INFO
  try:
    return json.loads(file.read_text())["kind"]
  except (OSError, ValueError, KeyError):
    return ""


def _read(folder: str, name: str, dtype) -> tuple[Any, Network]:
  """The shape and the network of that name in a converted folder, or the tower of a CLIP there."""
  kinds = _KINDS[name]
  kind = kind_of(folder) if kind_of(folder) in kinds else kinds[0]
  info = weights.read_info(folder, kind)
  networks = weights.load(folder, kind, dtype=dtype)
  if name in networks:
    return info.networks[name].shape, networks[name]
  cls, tower = _TOWERS[name]
  shape = getattr(info.networks["clip"].shape, tower)
  return shape, Network(
    abstract(cls, shape, dtype=dtype).graphdef, within(networks["clip"].params, tower)
  )


def _tokenizer(run: TrainConfig) -> pathlib.Path | None:
  if run.model == "clip":  # one that goes on learning keeps its words
    own = remote.here(run.start) / weights.TOKENIZER if run.start else run.frozen.tokenizer
    return pathlib.Path(own)
  if run.model in ("teacher", "controlnet"):
    return pathlib.Path(run.frozen.text_encoder) / weights.TOKENIZER
  return None


def _fresh(run: TrainConfig, tokenizer: pathlib.Path | None, dtype) -> tuple[Any, Network]:
  """The trained network from scratch, as the settings shape it."""
  name, shape = TRAINED[run.model], run.shape
  if name == "clip":
    words = tokens.load(tokenizer)
    text = dataclasses.replace(shape.text, vocabulary=len(words), positions=words.model_max_length)
    shape = dataclasses.replace(shape, text=text, end_token=words.eos_token_id)
  network = initialise(weights.NETWORKS[name][0], shape, run.seed, dtype=dtype)
  if name in ("unet", "seva"):
    network = Network(network.graphdef, _quiet(network.params))
  return shape, network


def _quiet(params: Params) -> Params:
  """With every residual branch at zero, as diffusion models begin."""
  branch = re.compile(r".*/(conv2|proj_out)/kernel")
  return {path: x * 0 if branch.fullmatch(path) else x for path, x in params.items()}


def _beside(unet: Network, shape: Any, controlnet: Network) -> tuple[Any, Network]:
  """A ControlNet that begins as the UNet's way down and that adds nothing yet.

  Raises ConfigError where their shapes differ.
  """
  silent = re.compile(r"(down_residuals/\d+|mid_residual|hint/conv_out)/.*")
  params = {}
  for path, x in controlnet.params.items():
    params[path] = x * 0 if silent.fullmatch(path) else unet.params.get(path, x)
    if params[path].shape != x.shape:
      raise ConfigError(
        f"--config.shape: {path} is {list(x.shape)} and {list(params[path].shape)} in the UNet of "
        "--config.frozen.unet; give both the same channels, layers, heads and context_width"
      )
  return shape, Network(controlnet.graphdef, params)


def _read_out(run: TrainConfig, shape: Any, params: Params) -> tuple[Params, dict[str, Any]]:
  """With the hand-made read-out, and where it must not learn."""
  name = TRAINED[run.model]
  if name not in ("unet", "seva"):
    raise ConfigError(f"--config.readout=True: a {run.model} has none")
  own = within(params, name)
  try:
    made = readout.read_out(shape, jax.device_get(own))
  except ValueError as error:
    raise ConfigError(f"--config.readout=True: {error}") from error
  ends = [path for path in made.fixed if path.startswith(("norm_out/", "conv_out/"))]
  if run.start and any((own[path] != made.params[path]).any() for path in ends):
    raise ConfigError(f"--config.readout=True: {run.start} has none; leave it out")
  new = readout.enlarge(shape, own, 1 / readout.ENLARGEMENT) if run.start else made.params
  in_network = lambda tree: {f"{name}/{path}": x for path, x in tree.items()}
  return params | in_network(jax.tree.map(jnp.asarray, new)), in_network(made.fixed)


def _check_fit(run: TrainConfig, shapes: Mapping[str, Any]) -> None:
  """Whether the networks fit together, and whether the pictures' size divides."""
  pairs = {
    "teacher": ("unet", "text_encoder", "width"),
    "controlnet": ("unet", "text_encoder", "width"),
    "student": ("seva", "vision", "embed_width"),
  }
  if run.model in pairs:
    name, encoder, field = pairs[run.model]
    wanted, found = shapes[name].context_width, getattr(shapes[encoder], field)
    if wanted != found:
      raise WeightsError(
        f"--config.frozen: the {encoder} writes embeddings of width {found} and the {name} reads "
        f"{wanted}; give another one or --config.shape.context_width={found}"
      )
  multiple = shapes["vae"].cell if "vae" in shapes else 1
  if run.model == "student":
    multiple *= 2 ** (len(shapes["seva"].channel_mult) - 1)
  sizes = {"data.size": run.data.size}
  if run.model == "vae":
    sizes["loss.small"] = run.loss.small
  for field, size in sizes.items():
    if size % multiple:
      raise ConfigError(f"--config.{field}={size}: it must be a multiple of {multiple}")
