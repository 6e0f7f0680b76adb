"""Where arrays live: the mesh, one table of rules for parameters and one for activations.

The mesh has two axes: "edit", along which edits are independent of each other, and "fsdp", whose
chips share one edit. Where the student's weights outweigh its maps of features, the maps are whole
on every chip and, between the two layers of a block, divided by channels or by heads: the first
layer's kernel is divided by its outputs, the second one's by its inputs, and its results are added
up (arXiv 1909.08053). So the computation is divided as the weights are, and with them their
gradients and moments.

Sums of large maps would take longer than the computation. So these are divided: a transformer is
computed `in_parts` of their cells, a residual block in their "lines", and the weights are gathered.
The editor does not learn and is whole on every chip; each computes some of its rows (`in_rows`).

All this concerns speed and memory; without a mesh, or on one chip, nothing here does anything.
"""

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from imx2mx_jax.shapes import Array, Params

EDIT, CHIPS = "edit", "fsdp"

DATA = "data"
"""The axis of a training's mesh, whose devices have rows of the batch each."""

PARAMETERS = (
  # An editor's and a ControlNet's (what an autoencoder calls so has something in front).
  (r"((down|mid|up)_blocks?|conv_(in|out)|time_embedding|hint|(down|mid)_residuals?)/.*", None),
  (r".*\b(conv1|time|q|k|v|conv|linear1|conv_in|proj_in)/(kernel|bias)", -1),
  (r".*\b(conv2|skip|out|linear2|proj_out|conv_out)/kernel", -2),
  (r".*\bff(_in)?/proj/kernel", -1),
  (r".*", None),
)
"""(pattern of a path, the axis that is divided among the chips). The first full match counts."""

ACTIVATIONS: Mapping[str, int | None] = {
  "whole": None,
  "channels": -1,
  "heads": 2,  # [B L heads d]
  "rows": 0,
  "lines": 1,  # [B h w C]
  "tokens": 1,
}
"""{name of a layout: the axis that is divided among the chips}."""


def make_mesh(edits: int, chips: int, devices: Sequence[Any] | None = None) -> Mesh:
  """A mesh of edits x chips of the devices; -1 for one of both takes what is left.

  Raises ValueError where the devices do not suffice.
  """
  devices = jax.devices() if devices is None else devices
  edits = len(devices) // chips if edits == -1 else edits
  chips = len(devices) // edits if chips == -1 else chips
  if min(edits, chips) < 1 or edits * chips > len(devices):
    raise ValueError(f"{edits} x {chips} chips, of which there are {len(devices)}")
  grid = np.array(devices[: edits * chips]).reshape(edits, chips)
  return Mesh(grid, (EDIT, CHIPS), axis_types=(AxisType.Auto,) * 2)


def row(mesh: Mesh, edit: int) -> Mesh:
  """The chips of one edit."""
  return Mesh(mesh.devices[edit : edit + 1], mesh.axis_names, axis_types=mesh.axis_types)


def is_default(mesh: Mesh) -> bool:
  """Whether a mesh is the one device that JAX takes where nothing is said."""
  return mesh.size == 1 and mesh.devices.item() == jax.devices()[0]


def on(mesh: Mesh) -> contextlib.AbstractContextManager:
  """The context in which functions are traced, compiled and called for a mesh."""
  return contextlib.nullcontext() if mesh.size == 1 else jax.set_mesh(mesh)


def put(mesh: Mesh, tree: Any) -> Any:
  """A pytree, laid out on a mesh by `of_tree`; for the default device as it is."""
  return tree if is_default(mesh) else jax.device_put(tree, of_tree(mesh, tree))


def chips() -> int:
  """Among how many chips the compiler divides what is traced here; 1 without a mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  return mesh.shape[CHIPS] if CHIPS in mesh.auto_axes else 1


def is_part() -> bool:
  """Whether what is traced here is one chip's part of an edit (`in_parts`, `in_rows`)."""
  return CHIPS in jax.sharding.get_abstract_mesh().manual_axes


def in_rows(function: Callable[[Any, Any], Any], shared: Any, rows: Any) -> Any:
  """function(shared, rows), of whose rows each chip computes its part.

  rows, and what comes out: pytrees of arrays with equally many rows in front. Where the chips do
  not divide them, rows of zeros are added, whose results are left out.
  """
  count = len(jax.tree.leaves(rows)[0])
  missing = -count % chips()
  fill = lambda x: jnp.pad(x, ((0, missing), *[(0, 0)] * (x.ndim - 1)))
  results = on_chips(function, (P(), P(CHIPS)), P(CHIPS))(shared, jax.tree.map(fill, rows))
  return jax.tree.map(lambda x: x[:count], results)


def in_parts(
  function: Callable[[Params, Any, Array], Array], params: Params, shared: Any, x: Array, axis: int
) -> Array:
  """function(params, shared, x), of which each chip computes a part along one of x's axes.

  The parameters are gathered for it, and each chip is given its part of their gradient's sum.
  """
  specs = {path: parameter_spec(path, value.shape, chips()) for path, value in params.items()}

  def on_a_chip(params: Params, shared: Any, x: Array) -> Array:
    return function({k: _gathered(v, specs[k]) for k, v in params.items()}, shared, x)

  divided = _divided(axis, x.ndim)
  return on_chips(on_a_chip, (specs, P(), divided), divided)(params, shared, x)


def of_rows(function: Callable, *xs: Array) -> Array:
  """function(*xs), which each device of a training computes of its rows, where they divide them."""
  mesh = jax.sharding.get_abstract_mesh()
  devices = mesh.shape[DATA] if DATA in mesh.auto_axes else 1
  if devices == 1 or any(len(x) % devices for x in xs):
    return function(*xs)
  return on_chips(function, P(DATA), P(DATA), DATA)(*xs)


def on_chips(function: Callable, in_specs: Any, out_specs: Any, axis: str = CHIPS) -> Callable:
  """A function that each chip along an axis computes on its parts of the arrays."""
  return jax.shard_map(
    function,
    in_specs=in_specs,
    out_specs=out_specs,
    axis_names={axis},
    check_vma=False,  # kernels do not say which axes they vary along
  )


def _gathered(x: Array, spec: P) -> Array:
  return gather(x, tuple(spec).index(CHIPS)) if CHIPS in spec else x


def gather(x: Array, axis: int) -> Array:
  """The chips' parts of an array one behind the other."""
  return jax.lax.all_gather(x, CHIPS, axis=axis, tiled=True)


def is_divided() -> bool:
  """Whether what is traced here is one chip's part, of which the compiler divides nothing more."""
  mesh = jax.sharding.get_abstract_mesh()
  return all(mesh.shape[axis] == 1 for axis in mesh.auto_axes)


def by_itself(function: Callable) -> Callable:
  """A function of arrays where the mesh `is_divided`, which then holds for axes of one chip too."""
  left = jax.sharding.get_abstract_mesh().auto_axes
  if not left:
    return function
  return jax.shard_map(function, in_specs=P(), out_specs=P(), axis_names=set(left), check_vma=False)


def lay(x: Array, name: str) -> Array:
  """x laid out by a row of ACTIVATIONS, where the chips divide its axis; else as it is."""
  axis = ACTIVATIONS[name]
  if chips() == 1 or (axis is not None and x.shape[axis] % chips()):
    return x
  return jax.lax.with_sharding_constraint(x, spec(name, x.ndim))


def spec(name: str, ndim: int) -> P:
  """The layout of an array of `ndim` axes by a row of ACTIVATIONS."""
  return _divided(ACTIVATIONS[name], ndim)


def rule(path: str) -> int:
  """Which row of PARAMETERS decides about a parameter."""
  return next(i for i, (pattern, _) in enumerate(PARAMETERS) if re.fullmatch(pattern, path))


def parameter_spec(path: str, shape: Sequence[int], chips: int) -> P:
  """The layout of a parameter. An axis that the chips do not divide stays whole."""
  _, axis = PARAMETERS[rule(path)]
  if axis is None or len(shape) < -axis or shape[axis] % chips:
    return P()
  return _divided(axis, len(shape))


def _divided(axis: int | None, ndim: int) -> P:
  return P(*[CHIPS if axis is not None and i == axis % ndim else None for i in range(ndim)])


def lay_tree(tree: Any) -> Any:
  """A pytree whose leaves are named by parameters, each laid out as its parameter is."""
  if chips() == 1:
    return tree
  lay = lambda path, x: jax.lax.with_sharding_constraint(x, _spec(path, x.shape, chips()))
  return jax.tree_util.tree_map_with_path(lay, tree)


def of_tree(mesh: Mesh, tree: Any, *, edits: bool = False) -> Any:
  """The sharding of each leaf of a pytree, by the last keys of its path, which name a parameter.

  Moments and gradients lie as their parameters do. edits: all leaves have an axis of edits in
  front.
  """
  size = mesh.shape[CHIPS]

  def place(path: tuple, leaf: Any) -> NamedSharding:
    if not edits:
      return NamedSharding(mesh, _spec(path, leaf.shape, size))
    return NamedSharding(mesh, P(EDIT, *_spec(path, leaf.shape[1:], size)))

  return jax.tree_util.tree_map_with_path(place, tree)


def _spec(path: tuple, shape: Sequence[int], chips: int) -> P:
  """Of a leaf: the last dict key on its way, as networks have their parameters in flat dicts."""
  keys = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
  return parameter_spec(keys[-1], shape, chips) if keys else P()
