"""Every released tensor becomes a parameter, and every parameter has its tensor: shapes only."""

import functools
import json
import math

import pytest

from convert_weights import names, reader, sources
from convert_weights.names import ConversionError
from imx2mx_jax.models.network import abstract
from imx2mx_jax.weights import NETWORKS
from tests.golden import support

pytestmark = pytest.mark.golden

# What the files that a set lists are called begins so.
NETWORK_OF = {
  "seva": "seva",
  "unet": "unet",
  "controlnet": "controlnet",
  "vae": "vae",
  "clip_vit_l14_text": "text_encoder",
  "clip_vit_l14": "clip",
  "openclip": "vision",
}

FILES = sorted((support.GOLDEN / "names").glob("*.json"))


@pytest.fixture(params=FILES, ids=[file.stem for file in FILES])
def released(request) -> dict:
  return json.loads(request.param.read_text())


def network_of(released: dict) -> str:
  fits = [start for start in NETWORK_OF if released["name"].startswith(start)]
  return NETWORK_OF[max(fits, key=len)]


def shapes_of(released: dict) -> dict[str, tuple[int, ...]]:
  return {name: tuple(tensor["shape"]) for name, tensor in released["tensors"].items()}


@functools.cache
def targets(network: str, shape) -> dict[str, tuple[int, ...]]:
  params = abstract(NETWORKS[network][0], shape).params
  return {path: leaf.shape for path, leaf in params.items()}


def plan(released: dict, source: dict) -> list[names.Assignment]:
  network = network_of(released)
  shape = reader.TABLES[network].shape(released["config"])
  return names.plan(targets(network, shape), source, reader.TABLES[network].DIALECTS)


def test_every_tensor_is_matched_both_ways(released):
  source = shapes_of(released)
  rows = plan(released, source)
  assert {row.released: row.released_shape for row in rows} == source
  assert len(source) == released["number_of_tensors"]


def test_the_released_shape_is_known(released):
  network = network_of(released)
  shape = reader.TABLES[network].shape(released["config"])
  assert shape in [row.shapes[network] for row in sources.SOURCES if network in row.shapes]


def test_older_spellings_are_matched_too(released):
  if "old_names" not in released:
    pytest.skip(f"{released['name']} has one spelling")
  older = {present: old for old, present in released["old_names"].items()}
  source = {older.get(name, name): shape for name, shape in shapes_of(released).items()}
  assert not source.keys() >= set(older)
  rows, present = plan(released, source), plan(released, shapes_of(released))
  assert [(row.path, row.released) for row in rows] == [
    (row.path, older.get(row.released, row.released)) for row in present
  ]


def test_every_misfit_is_listed_at_once(released):
  source = shapes_of(released)
  first, second, *_ = source
  source["another.tensor"] = (3,)
  source[second] = (*source[second], 2)
  del source[first]
  with pytest.raises(ConversionError) as error:
    plan(released, source)
  for line in (f"missing: {first} [", f"misshapen: {second} is [", "unused: another.tensor [3]"):
    assert line in str(error.value)
  assert str(error.value).count("\n") == 2


def test_position_ids_of_older_files_are_passed_over(released):
  source = shapes_of(released)
  towers = {name.partition(".")[0] for name in source} & {"text_model", "vision_model"}
  if not towers:
    pytest.skip(f"{released['name']} has no such buffers")
  buffers = {f"{tower}.embeddings.position_ids": (1, 77) for tower in towers}
  assert plan(released, source | buffers) == plan(released, source)


@pytest.mark.parametrize("source", sources.SOURCES, ids=lambda source: source.name)
def test_the_table_of_sources_counts_parameters_right(source):
  shapes = (targets(network, shape) for network, shape in source.shapes.items())
  counted = sum(math.prod(shape) for arrays in shapes for shape in arrays.values())
  assert counted == source.parameters
