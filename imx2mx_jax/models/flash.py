"""Attention by kernels that keep the scores on the chip: splash on TPUs, cuDNN's on GPUs.

Neither takes every shape. What is missing is padded with zeros, and cropped from the result.
"""

import functools
from collections.abc import Callable

import jax
import jax.extend
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention

from imx2mx_jax import sharding
from imx2mx_jax.shapes import Array, Float

FEWEST_KEYS = 1024
"""With fewer, all scores of some queries are soon made, and padding would cost more."""

WIDEST = 128
"""The widest head that every GPU's kernel takes. Wider ones occur with few keys only."""

MOST_KEYS = 2816
"""Of which splash keeps all, with their gradients, on the chip in the backward pass."""

BLOCKS = (512, 384, 256)
"""Queries or keys that splash takes at once: multiples of 128, large ones first as the faster."""


def kernels(q: Float[Array, "B L n d"], k: Float[Array, "B M n d"]) -> dict[str, Callable]:
  """{platform: kernel} for those that take q and k where this is traced, and pay.

  A kernel has q, k and v of `attention` and its result. Compilers do not divide kernels among
  chips, so there are none where a mesh leaves them anything to divide.
  """
  if k.shape[1] < FEWEST_KEYS or q.shape[3] > WIDEST or not sharding.is_divided():
    return {}
  found = {"tpu": splash}
  if q.dtype in (jnp.bfloat16, jnp.float16) and _has_cudnn():
    found["cuda"] = cudnn
  return {platform: sharding.by_itself(kernel) for platform, kernel in found.items()}


def _has_cudnn() -> bool:
  """Whether this machine's GPUs have cuDNN's attention, which can be traced nowhere else."""
  if "cuda" not in jax.extend.backend.get_backend().platform_version:
    return False
  return float(jax.local_devices()[0].compute_capability) >= 8


def cudnn(
  q: Float[Array, "B L n d"],
  k: Float[Array, "B M n d"],
  v: Float[Array, "B M n d"],
  *,
  kernel: Callable = functools.partial(jax.nn.dot_product_attention, implementation="cudnn"),
) -> Float[Array, "B L n d"]:
  """softmax(q k^T / sqrt(d)) v in half precision; the kernel's heads are multiples of 8 wide."""
  width = q.shape[3]
  padded = [_pad(x, axis=3, multiple=8) for x in (q, k, v)]
  return kernel(*padded, scale=width**-0.5)[..., :width]


def splash(
  q: Float[Array, "B L n d"],
  k: Float[Array, "B M n d"],
  v: Float[Array, "B M n d"],
  *,
  interpret: bool = False,
) -> Float[Array, "B L n d"]:
  """softmax(q k^T / sqrt(d)) v on a TPU; interpret: anywhere, slowly."""
  rows, queries, heads, width = q.shape
  scaled = (q.astype(jnp.float32) * width**-0.5).astype(q.dtype)
  of_queries, of_keys = _block(queries), _block(k.shape[1])
  blocks = (of_queries, of_keys, of_keys)
  padded = [
    _pad(x.swapaxes(1, 2).reshape(rows * heads, -1, width), axis=1, multiple=block)
    for x, block in zip((scaled, k, v), blocks, strict=True)
  ]
  size = padded[0].shape[1], padded[1].shape[1]
  attend = splash_attention.make_splash_mha_single_device(
    splash_attention.MultiHeadMask([splash_attention.FullMask(size)] * (rows * heads)),
    block_sizes=_block_sizes(of_queries, of_keys, size[1]),
    interpret=interpret,
  )
  # Padded queries see the keys as well, so that no softmax is empty; they are cropped.
  of_one = jnp.zeros(size[0], int), (jnp.arange(size[1]) >= k.shape[1]).astype(int)
  y = attend(*padded, segment_ids=splash_attention.SegmentIds(*of_one))
  return y[:, :queries].reshape(rows, heads, queries, width).swapaxes(1, 2)


def _block(length: int) -> int:
  """The block that needs the least padding, the largest of such."""
  return min(BLOCKS, key=lambda block: -length % block)


def _block_sizes(of_queries: int, of_keys: int, keys: int) -> splash_attention.BlockSizes:
  """One kernel for all gradients makes the scores once; each large block adds a part of q's."""
  parts = next(n for n in range(1, keys) if keys % (n * of_keys) == 0 and keys // n <= MOST_KEYS)
  return splash_attention.BlockSizes(
    block_q=of_queries,
    block_kv=of_keys,
    block_q_dkv=of_queries,
    block_kv_dkv=keys // parts,
    block_kv_dkv_compute=of_keys,
    use_fused_bwd_kernel=True,
  )


def _pad(x: Array, *, axis: int, multiple: int) -> Array:
  """x with zeros behind, up to a multiple along an axis."""
  missing = -x.shape[axis] % multiple
  return jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])
