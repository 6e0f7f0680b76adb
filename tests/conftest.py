"""Every test computes at the highest precision and checks types and shapes on its way."""

import functools
import os

# Most of the tests' time is compiling what runs once: leave out LLVM's optimisations.
_QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_QUICK}".strip()

os.environ["IMX2MX_CACHE"] = "off"  # tests write nothing outside their folders

import flax.struct
import jax
from jaxtyping import install_import_hook

jax.config.update("jax_default_matmul_precision", "highest")


def _unchecked(cls=None, **kwargs):
  """flax.struct.dataclass whose fields may hold what JAX puts there in passing, shapes for one."""
  if cls is None:
    return functools.partial(_unchecked, **kwargs)
  cls = _struct_dataclass(cls, **kwargs)
  cls.__no_type_check__ = True
  return cls


_struct_dataclass, flax.struct.dataclass = flax.struct.dataclass, _unchecked

# A Python int is fine where a float is asked for.
install_import_hook(
  ["imx2mx_jax", "convert_weights"],
  "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)
