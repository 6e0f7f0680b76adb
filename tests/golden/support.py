"""Golden tensors: find cases, rebuild their inputs and parameters, compare.

The format is described in golden/README.md of the set. Nothing here knows a case by name:
whatever differs between cases is read from the JSON file beside the tensors, so that another set
in the same format runs unchanged (GOLDEN_DIR).
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from safetensors.numpy import load_file

from convert_weights import names
from imx2mx_jax.models.network import Network, abstract

REPOSITORY = pathlib.Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared"
BUNDLED = pathlib.Path(__file__).parent / "data"


def _folder() -> pathlib.Path:
  if "GOLDEN_DIR" in os.environ:
    return pathlib.Path(os.environ["GOLDEN_DIR"]).resolve()
  return SHARED / "golden" if (SHARED / "golden").is_dir() else BUNDLED


GOLDEN = _folder()


def scenes_folder() -> pathlib.Path:
  """The published scenes; the test is skipped where they are not at hand."""
  for folder in (GOLDEN.parent / "scenes", SHARED / "scenes"):
    if folder.is_dir():
      return folder
  pytest.skip("the published scenes are not beside this clone (../shared/scenes)")


def cases(item: str, quick: int | None = None):
  """Parametrises a test over every case of an item; the test receives a `case`.

  quick: how many are not `slow`; `-m golden` runs all of them. None: all.
  """
  found = sorted(path.stem for path in GOLDEN.glob(f"{item}_*.json"))
  if not found:
    missing = pytest.mark.skip(reason=f"no {item}_* in {GOLDEN.name}")
    return pytest.mark.parametrize("case", [pytest.param(None, id="none", marks=missing)])
  slow = [] if quick is None else found[quick:]
  given = [
    pytest.param(Case(name), id=name, marks=[pytest.mark.slow] * (name in slow)) for name in found
  ]
  return pytest.mark.parametrize("case", given)


def single(item: str) -> "Case":
  """The one case of an item without tags; the test is skipped where the set lacks it."""
  if not (GOLDEN / f"{item}.json").exists():
    pytest.skip(f"no {item} in {GOLDEN.name}")
  return Case(item)


@dataclasses.dataclass(frozen=True)
class Case:
  name: str

  @functools.cached_property
  def json(self) -> dict:
    return json.loads((GOLDEN / f"{self.name}.json").read_text())

  @functools.cached_property
  def stored(self) -> dict[str, np.ndarray]:
    return load_file(GOLDEN / f"{self.name}.safetensors")

  def __getitem__(self, key: str):
    return self.json[key]

  def tensor(self, key: str) -> np.ndarray:
    return self.stored[key]

  def tolerance(self, key: str) -> float:
    return self.json["tolerance"][key]

  def input(self, key: str) -> np.ndarray:
    """An input, in the layout in which it is specified (feature maps N C H W)."""
    spec = self.json["inputs"][key]
    recipe = spec["recipe"]
    if recipe == "stored":
      return self.stored[spec["tensor"]]
    if recipe == "scene_crop":
      raise NotImplementedError("scene_crop inputs are cut by the test that wants them")
    drawn = normal(self.json["salt"], f"input:{key}", spec["shape"])
    if recipe == "uint8":
      values = spec["mean"] + spec["std"] * drawn.astype(np.float64)
      return np.clip(np.rint(values), 0, 255).astype(np.uint8)
    if recipe != "normal":
      raise ValueError(f"{self.name}: unknown recipe {recipe!r} of input {key}")
    values = np.float32(spec["offset"]) + np.float32(spec["scale"]) * drawn
    return np.clip(values, *spec["clip"]) if "clip" in spec else values

  def network(
    self, cls, shape, dialects, *, prefix: str = "", names_have: str = "", **kwargs
  ) -> Network:
    """`cls(shape)` filled by the case's recipe; see `filled`."""
    salt, gain = self.json["salt"], self.json.get("gain", 1.0)
    return filled(
      cls, shape, dialects, salt, gain=gain, prefix=prefix, names_have=names_have, **kwargs
    )

  def check_fingerprints(self, group: str, ours: dict[str, np.ndarray], tau: float, leave_out=()):
    """Compares tensors, keyed by fingerprint name and in the PyTorch layout, in the listed order.

    The first name that differs is the first place where the computation goes wrong.
    """
    spec = self.json["fingerprints"][group]
    for name, shape, wanted in zip(
      spec["names"], spec["shapes"], self.stored[spec["tensor"]], strict=True
    ):
      if name in leave_out:
        continue
      assert name in ours, f"{self.name}: {name} was not computed"
      assert tuple(np.shape(ours[name])) == tuple(shape), f"{self.name}: {name} has another shape"
      error = fingerprint_error(name, self.json["salt"], ours[name], wanted)
      assert error <= tau, (
        f"{self.name}: first wrong at {name}: {error:.2e} relative, allowed {tau:.0e}"
      )


def normal(salt: str, name: str, shape) -> np.ndarray:
  key = np.frombuffer(hashlib.sha256(f"{salt}:{name}".encode()).digest()[:16], dtype="<u8")
  return np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, dtype=np.float32)


def parameter(salt: str, name: str, shape, gain: float = 1.0) -> np.ndarray:
  drawn = normal(salt, name, shape)
  if len(shape) >= 2:
    return drawn * np.float32(gain / np.sqrt(np.prod(shape[1:])))
  if len(shape) == 1 and name.endswith(".weight"):
    return np.float32(1) + np.float32(0.1) * drawn
  return np.asarray(np.float32(0.02) * drawn)  # a scalar stays an array


def filled(
  cls, shape, dialects, salt, *, gain: float = 1.0, prefix: str = "", names_have: str = "", **kwargs
) -> Network:
  """`cls(shape)` filled by the recipe, through the shipped conversion tables.

  prefix: put before each released name in the recipe's strings. names_have: a prefix that the
  tables' names have and the recipe's do not.
  """
  network = abstract(cls, shape, **kwargs)
  targets = {path: leaf.shape for path, leaf in network.params.items()}
  rows = names.assignments(targets, dialects[0])
  shapes = {row.released: row.released_shape for row in rows}
  read = functools.lru_cache(maxsize=3)(
    lambda name: parameter(salt, prefix + name.removeprefix(names_have), shapes[name], gain)
  )
  params = {path: jnp.asarray(array) for path, array in names.convert(rows, read)}
  return Network(network.graphdef, params)


def fingerprint_error(name: str, salt: str, ours: np.ndarray, wanted: np.ndarray) -> float:
  """The smallest tau at which [sum, L2, probe] of ours passes; infinite where it cannot."""
  x = np.ascontiguousarray(ours, dtype=np.float64)
  total, l2, dot = wanted
  norm = np.sqrt(np.sum(x * x))
  if not np.all(np.isfinite(x)):
    return np.inf
  if l2 == 0:
    return 0.0 if norm == 0 else np.inf
  probe = normal(salt, f"probe:{name}", x.shape).astype(np.float64)
  return max(
    abs(norm - l2) / l2,
    abs(np.sum(x * probe) - dot) / (5 * l2),
    abs(x.sum() - total) / (l2 * np.sqrt(x.size)),
  )


def rel_l2(ours, theirs) -> float:
  ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def assert_close(ours, theirs, *, atol: float = 0.0, rtol: float = 0.0, what: str = ""):
  """|ours - theirs| <= atol + rtol |theirs|, saying where it first goes wrong."""
  ours, theirs = np.asarray(ours), np.asarray(theirs)
  assert ours.shape == theirs.shape, f"{what}: shape {ours.shape}, wanted {theirs.shape}"
  error = np.abs(ours.astype(np.float64) - theirs)
  wrong = ~(error <= atol + rtol * np.abs(theirs))
  if wrong.any():
    first = tuple(int(i) for i in np.argwhere(wrong)[0])
    raise AssertionError(
      f"{what}: {wrong.sum()} of {wrong.size} elements differ, first at {first}: "
      f"{ours[first]} instead of {theirs[first]}; largest error {error.max():.2e}"
    )


def released(params: dict[str, np.ndarray], table: names.Table) -> dict[str, np.ndarray]:
  """Our parameters (or their gradients) under their released names and in the released layout."""
  rows = names.assignments({path: leaf.shape for path, leaf in params.items()}, table)
  return {
    row.released: names.TRANSFORMS[row.transform].released(np.asarray(params[row.path]))
    for row in rows
  }


@contextlib.contextmanager
def record(module: nnx.Module, pattern: str = ".*"):
  """{path: output} of the layers whose path matches, filled while the module runs.

  Works inside a jitted function too, where the outputs are traced and must be returned from it.
  """
  outputs: dict = {}
  layers = {
    "/".join(map(str, path)): layer for path, layer in nnx.iter_modules(module) if callable(layer)
  }
  layers = {path: layer for path, layer in layers.items() if re.fullmatch(pattern, path)}
  for path, layer in layers.items():
    layer.__class__ = _recording(type(layer), path, outputs)
  try:
    yield outputs
  finally:
    for layer in layers.values():
      layer.__class__ = type(layer).__base__


def _recording(cls: type[nnx.Module], path: str, outputs: dict) -> type[nnx.Module]:
  def __call__(self, *args, **kwargs):
    outputs[path] = cls.__call__(self, *args, **kwargs)
    return outputs[path]

  return type(cls)(cls.__name__, (cls,), {"__call__": __call__})


def nhwc(x: np.ndarray) -> np.ndarray:
  """N C H W -> N H W C."""
  return np.moveaxis(np.asarray(x), -3, -1)


def nchw(x) -> np.ndarray:
  """N H W C -> N C H W."""
  return np.moveaxis(np.asarray(x), -1, -3)


def write_scene(case: Case, folder: pathlib.Path) -> pathlib.Path:
  """A synthetic scene as the case describes it: transforms.json and its pictures."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "transforms.json").write_text(json.dumps(case["transforms"]))
  for image in case["images"]:
    path = folder / image["file_path"]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(case.input(image["input"])).save(path)
  return folder
