"""Goes on with a folder's last state on so many CPU devices, and saves it one step later.

    python -m tests.resharded FOLDER DEVICES

A line of JSON: step (0 where there was no state), digest (of all bits) and part (shape of
what one device has of the kernel).
"""

import contextlib
import hashlib
import json
import os
import sys

KERNEL = "block/conv1/kernel"  # divided by its outputs


def main(folder: str, devices: str) -> None:
  """Restores or begins, saves, prints."""
  os.environ["JAX_PLATFORMS"] = "cpu"
  os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
  import jax
  import numpy as np
  from etils import epath

  from imx2mx_jax import sharding
  from imx2mx_jax.resumable import Resumable

  class Folder(Resumable):
    _writing = contextlib.nullcontext

  mesh = sharding.make_mesh(1, int(devices))
  draw = np.random.default_rng(0).standard_normal
  state = {KERNEL: draw((3, 3, 8, 16), np.float32), "block/norm/scale": draw(5, np.float32)}
  place = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
  wanted = jax.tree.map(place, state, sharding.of_tree(mesh, state))
  kept = Folder(epath.Path(folder), save_every=1)
  found = kept.last_state(wanted)
  step, found = kept.step, sharding.put(mesh, state) if found is None else found
  kept.save(step + 1, found)
  kept.settle()
  bits = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(found))
  digest = hashlib.sha256(bits).hexdigest()
  part = found[KERNEL].sharding.shard_shape(found[KERNEL].shape)
  print(json.dumps({"step": step, "digest": digest, "part": part}))


if __name__ == "__main__":
  main(*sys.argv[1:])
