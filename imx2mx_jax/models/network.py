"""A network as a plain pytree: a static graph and a flat dict of parameters."""

from typing import Any

import flax.struct
import jax
from flax import nnx

from imx2mx_jax.shapes import Params


@flax.struct.dataclass
class Network:
  """A network that can be passed to a jitted function.

  graphdef: the network without its weights; static, part of the compilation's key.
  params: {path: array}. Weights are arguments of a compiled function, never its constants.
  """

  graphdef: nnx.GraphDef = flax.struct.field(pytree_node=False)
  params: Params

  @property
  def module(self) -> Any:
    """The nnx module with these weights in it. Costs nothing inside a jitted function."""
    return nnx.merge(self.graphdef, unflatten(self.params))

  def __call__(self, *args, **kwargs):
    return self.module(*args, **kwargs)


def abstract(cls: type[nnx.Module], shape: Any, **kwargs) -> Network:
  """The network `cls(shape)` with ShapeDtypeStructs for parameters: no memory, no random numbers."""
  graphdef, state = nnx.split(nnx.eval_shape(lambda: cls(shape, rngs=nnx.Rngs(0), **kwargs)))
  return Network(graphdef, flatten(nnx.to_pure_dict(state)))


def initialise(cls: type[nnx.Module], shape: Any, seed: int, **kwargs) -> Network:
  """The network `cls(shape)` with fresh random parameters."""

  def make() -> Params:
    _, state = nnx.split(cls(shape, rngs=nnx.Rngs(seed), **kwargs))
    return flatten(nnx.to_pure_dict(state))

  return Network(abstract(cls, shape, **kwargs).graphdef, jax.jit(make)())


def flatten(tree: dict, prefix: str = "") -> Params:
  """{"a": {0: x}} -> {"a/0": x}."""
  flat = {}
  for key, value in tree.items():
    path = f"{prefix}{key}"
    flat |= flatten(value, f"{path}/") if isinstance(value, dict) else {path: value}
  return flat


def unflatten(params: Params) -> dict:
  """{"a/0": x} -> {"a": {0: x}}."""
  tree: dict = {}
  for path, value in params.items():
    *parents, leaf = (int(key) if key.isdigit() else key for key in path.split("/"))
    node = tree
    for key in parents:
      node = node.setdefault(key, {})
    node[leaf] = value
  return tree
