"""A network as a plain pytree: a static graph and a flat dict of parameters."""

import functools
from typing import Any

import flax.struct
import jax
from flax import nnx

from imx2mx_jax.shapes import Params

KEPT = "layer"
"""The name of what every layer passes on: enough to make all else again in a backward pass."""


@flax.struct.dataclass
class Network:
  """A network that can be passed to a jitted function.

  graphdef: the network without its weights; static, part of the compilation's key.
  params: {path: array}. Weights are arguments of a compiled function, never its constants.
  remat: the backward pass computes again what happens inside layers, so that it need not be kept.
  """

  graphdef: nnx.GraphDef = flax.struct.field(pytree_node=False)
  params: Params
  remat: bool = flax.struct.field(pytree_node=False, default=False)

  @classmethod
  def of(cls, module: nnx.Module) -> "Network":
    """A module taken apart: `Network.of(network.module)` is the network."""
    graphdef, state = nnx.split(module)
    return cls(graphdef, flatten(nnx.to_pure_dict(state)))

  @property
  def module(self) -> Any:
    """The nnx module with these weights in it. Costs nothing inside a jitted function."""
    return nnx.merge(self.graphdef, unflatten(self.params))

  def held_in(self, dtype: Any) -> "Network":
    """The same with its kernels in another dtype, for a network that does not learn.

    What computes in float32 at any dtype stays as it is: norms, biases, the last convolution.
    """

    def cast(path: str, x: Any) -> Any:
      if x.ndim < 2 or path.startswith("conv_out/"):
        return x
      return x.update(dtype=dtype) if isinstance(x, jax.ShapeDtypeStruct) else x.astype(dtype)

    return self.replace(params={path: cast(path, x) for path, x in self.params.items()})

  def __call__(self, *args, **kwargs):
    if not self.remat:
      return self.module(*args, **kwargs)
    call = lambda params, *args: Network(self.graphdef, params)(*args, **kwargs)
    policy = jax.checkpoint_policies.save_only_these_names(KEPT)
    return jax.checkpoint(call, policy=policy)(self.params, *args)


class _Keys(nnx.Rngs):
  """Random keys that are quick to trace and to compile.

  nnx.Rngs counts its draws in an array, which makes tracing quadratic in the number of parameters:
  38 s for SEVA, where counting in Python takes one. The `rbg` generator compiles four times faster
  than the default one; its numbers may differ between kinds of devices.
  """

  def __init__(self, seed: int):
    self.key, self.drawn = jax.random.key(seed, impl="rbg"), 0

  def params(self) -> jax.Array:
    self.drawn += 1
    return jax.random.fold_in(self.key, self.drawn)


def abstract(cls: type[nnx.Module], shape: Any, **kwargs) -> Network:
  """The network `cls(shape)` with ShapeDtypeStructs for parameters: no memory, no numbers."""
  graphdef, params = _described(cls, shape, **kwargs)
  return Network(graphdef, dict(params))


@functools.cache
def _described(cls: type[nnx.Module], shape: Any, **kwargs) -> tuple[nnx.GraphDef, dict[str, Any]]:
  """Seconds where a network is large, and an edit asks several times before it begins."""
  network = Network.of(nnx.eval_shape(lambda: cls(shape, rngs=_Keys(0), **kwargs)))
  return network.graphdef, network.params


def initialise(cls: type[nnx.Module], shape: Any, seed: int, **kwargs) -> Network:
  """The network `cls(shape)` with fresh random parameters."""

  def make() -> Params:
    return Network.of(cls(shape, rngs=_Keys(seed), **kwargs)).params

  return Network(abstract(cls, shape, **kwargs).graphdef, jax.jit(make)())


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
  """{"a": {0: x}} -> {"a/0": x}."""
  flat = {}
  for key, value in tree.items():
    path = f"{prefix}{key}"
    flat |= flatten(value, f"{path}/") if isinstance(value, dict) else {path: value}
  return flat


def unflatten(params: dict[str, Any]) -> dict:
  """{"a/0": x} -> {"a": {0: x}}."""
  tree: dict = {}
  for path, value in params.items():
    *parents, leaf = (int(key) if key.isdigit() else key for key in path.split("/"))
    node = tree
    for key in parents:
      node = node.setdefault(key, {})
    node[leaf] = value
  return tree
