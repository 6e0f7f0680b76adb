"""Who may import whom. A new module needs a row here, which is where its place is decided."""

import ast
import pathlib
import subprocess
import sys
import warnings

import pytest

REPOSITORY = pathlib.Path(__file__).parents[1]

# Each row: a module of imx2mx_jax (or a folder of them), and which others it may import. `shapes`
# and `errors` are everybody's, but leaves take `shapes` alone.
LEAVES = {
  "cameras",
  "checkpoint",
  "diffusion",
  "flops",
  "matches",
  "optim",
  "paths",
  "pictures",
  "sharding",
  "sheets",
}
MAY_IMPORT = {
  "shapes": set(),
  "errors": set(),
  **{leaf: set() for leaf in LEAVES},
  "models": {"models", "sharding"},
  "remote": set(),
  "claims": {"remote"},
  "config": set(),
  "terminal": set(),
  "micro": {"diffusion", "micro", "models", "pictures", "terminal"},
  "tokenizer": set(),
  "metrics": {"cameras", "matches", "models", "tokenizer"},
  "colmap": {"remote"},
  "scene": {"cameras", "colmap", "remote"},
  "masks": {"remote", "scene"},
  "doubts": {"cameras", "matches", "scene"},
  "scene_check": {"cameras", "doubts", "matches", "pictures", "scene"},
  "inspect_scene": {
    "cameras",
    "config",
    "pictures",
    "scene",
    "scene_check",
    "sheets",
  },
  "mapping": {"colmap", "matches"},
  "poses": {"colmap", "mapping", "scene", "scene_check", "terminal"},
  "depth": {"config", "pictures", "remote", "scene", "sheets", "terminal"},
  "weights": {"checkpoint", "models", "remote"},
  "report": {"config", "matches", "remote", "report", "scene", "sheets", "terminal"},
  "evaluate": {
    "evaluate",
    "masks",
    "metrics",
    "pictures",
    "report",
    "scene",
    "sheets",
    "terminal",
    "tokenizer",
    "weights",
  },
  "teachers": {"diffusion", "models", "sharding"},
  "students": {"cameras", "diffusion", "models"},
  "conditions": {"cameras", "pictures", "remote", "scene"},
  "editors": {"conditions", "config", "models", "scene", "teachers", "weights"},
  "distill": {"diffusion", "models", "optim", "sharding", "students", "teachers"},
  "couplings": {"diffusion", "distill", "teachers"},
  "seats": {"distill", "flops", "models", "sharding", "teachers"},
  "sampler": {"diffusion", "models", "students", "teachers"},
  "edit": {
    "cameras",
    "couplings",
    "config",
    "diffusion",
    "distill",
    "editors",
    "masks",
    "models",
    "optim",
    "pictures",
    "scene",
    "seats",
    "sharding",
    "students",
    "teachers",
    "tokenizer",
    "weights",
  },
  "estimates": {"config", "edit", "flops", "remote", "terminal", "weights"},
  "journal": {"sheets"},
  "resumable": {"checkpoint", "remote"},
  "run_folder": {
    "colmap",
    "conditions",
    "checkpoint",
    "claims",
    "config",
    "journal",
    "pictures",
    "remote",
    "resumable",
    "scene",
    "sheets",
    "weights",
  },
  "session": {
    "colmap",
    "masks",
    "config",
    "edit",
    "estimates",
    "evaluate",
    "flops",
    "report",
    "run_folder",
    "scene",
    "scene_check",
    "seats",
    "sharding",
    "sheets",
    "terminal",
  },
  "compilation": set(),
  "main": {"compilation", "config", "session", "terminal"},
  "jobs": {"config", "remote"},
  "series": {"config", "jobs", "remote", "run_folder", "terminal"},
  "batch": {"compilation", "edit", "jobs", "series", "session", "terminal", "weights"},
  "doctor": {"compilation", "config", "edit", "estimates", "scene", "terminal", "weights"},
  "render": {
    "cameras",
    "checkpoint",
    "config",
    "edit",
    "models",
    "paths",
    "pictures",
    "remote",
    "render",
    "resumable",
    "sampler",
    "scene",
    "sharding",
    "sheets",
    "students",
    "teachers",
    "terminal",
    "weights",
  },
  "app": {
    "app",
    "compilation",
    "config",
    "edit",
    "micro",
    "pictures",
    "poses",
    "render",
    "report",
    "resumable",
    "run_folder",
    "scene",
    "scene_check",
    "session",
    "terminal",
    "weights",
  },
  "train": {
    "cameras",
    "checkpoint",
    "compilation",
    "conditions",
    "config",
    "diffusion",
    "journal",
    "micro",
    "models",
    "optim",
    "pictures",
    "remote",
    "resumable",
    "scene",
    "sharding",
    "sheets",
    "students",
    "teachers",
    "terminal",
    "tokenizer",
    "train",
    "weights",
  },
}
CONVERTER_MAY_IMPORT = {"checkpoint", "errors", "models", "weights"}
FOREIGN = {"torch", "torchvision", "tensorflow", "open_clip", "kornia", "diffusers"}


def files(package):
  found = sorted((REPOSITORY / package).rglob("*.py"))
  assert found
  return found


def imported(path):
  """The dotted names of all that a file imports, wherever in the file."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path.name}: relative import"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(path):
  """The modules of imx2mx_jax that a file imports: the first name below the package."""
  names = [name.split(".") for name in imported(path)]
  return {parts[1] for parts in names if parts[0] == "imx2mx_jax"} - {"__version__"}


@pytest.mark.parametrize("path", files("imx2mx_jax"), ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_modules_import_only_what_is_below_them(path):
  place = path.relative_to(REPOSITORY / "imx2mx_jax").with_suffix("").parts
  module = place[0]
  if module == "__init__":
    allowed = set()
  else:
    assert module in MAY_IMPORT, f"{module} has no row in MAY_IMPORT"
    everybody = {"shapes"} if module in LEAVES else {"shapes", "errors"}
    allowed = MAY_IMPORT[module] | everybody
  assert ours(path) <= allowed


@pytest.mark.parametrize(
  "path", files("convert_weights"), ids=lambda p: str(p.relative_to(REPOSITORY))
)
def test_the_converter_knows_networks_and_weights_only(path):
  assert ours(path) <= CONVERTER_MAY_IMPORT


def test_the_table_has_no_cycles():
  order = list(MAY_IMPORT)
  for module, allowed in MAY_IMPORT.items():
    for other in allowed - {module, "sharding"}:
      assert order.index(other) < order.index(module), f"{module} and {other}"


@pytest.mark.parametrize("path", [*files("imx2mx_jax"), *files("convert_weights")], ids=str)
def test_no_file_imports_the_reference_libraries(path):
  roots = {name.split(".")[0] for name in imported(path)}
  assert not roots & FOREIGN
  assert path.is_relative_to(REPOSITORY / "convert_weights") or "convert_weights" not in roots


STARTS = {
  "main": "import imx2mx_jax.main, imx2mx_jax.session",
  "tokenizer": (
    "import pathlib, sys; from imx2mx_jax import tokenizer; from tests.golden.tokenizer import *;"
    "tokenizer.encode(tokenizer.load(write(pathlib.Path(sys.argv[1]))), ['a cat'])"
  ),
  "converter": "import convert_weights.__main__",
}


@pytest.mark.parametrize("start", STARTS)
def test_nothing_on_the_way_loads_the_reference_libraries(start, tmp_path):
  """In a process of its own. main imports session once its first line is out."""
  program = f"{STARTS[start]}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
  run = subprocess.run(
    [sys.executable, "-W", "error", "-c", program, tmp_path],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
  )
  assert run.returncode == 0, run.stderr
  loaded = set(run.stdout.split())
  assert {"jax", "imx2mx_jax"} & loaded
  assert not loaded & FOREIGN


def test_warnings_are_errors():
  with pytest.raises(DeprecationWarning, match="old"):
    warnings.warn("old", DeprecationWarning, stacklevel=1)
