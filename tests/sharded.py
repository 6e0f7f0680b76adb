"""Prints what iterations on meshes of eight CPU devices come to, beside those on one device.

    python -m tests.sharded EDITSxCHIPS [PROCESS PROCESSES PORT]

A line of JSON: difference (largest, of the parameters' updates, relative to the largest update, of
the predictions and the losses, likewise) and spec (how a kernel lies on the mesh).
"""

import dataclasses
import json
import os
import sys

TOGETHER, COUNT = 8, 2


def main(mesh: str, process: str = "0", processes: str = "1", port: str = "") -> None:
  """Runs both and prints."""
  os.environ["JAX_PLATFORMS"] = "cpu"
  flags = f"--xla_force_host_platform_device_count={TOGETHER // int(processes)}"
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
  import jax

  if port:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", int(processes), int(process))
  _compare(*map(int, mesh.split("x")))


def _compare(edits: int, chips: int) -> None:
  import jax
  import jax.numpy as jnp
  import numpy as np

  from imx2mx_jax import distill, sharding

  method, state, teacher, cond = _edit()
  keys = [jax.random.key(seed) for seed in range(edits)]
  alone = [_alone(distill, method, state, teacher, cond, key) for key in keys]

  mesh = sharding.make_mesh(edits, chips)
  many = lambda tree: jax.tree.map(lambda x: np.stack([np.asarray(x)] * edits), tree)
  put = lambda tree, each: jax.device_put(tree, sharding.of_tree(mesh, tree, edits=each))
  count = jnp.int32(COUNT)
  with jax.set_mesh(mesh):
    if edits == 1:
      args = [put(tree, False) for tree in (state, teacher, cond)]
      results = distill.distill_steps(method, *args, keys[0], count, most=COUNT)
    else:
      shared = dataclasses.replace(
        put(many(dataclasses.replace(teacher, unet=None)), True), unet=put(teacher.unet, False)
      )
      args = put(many(state), True), shared, put(many(cond), True)
      keys = jnp.stack(keys)
      results = distill.distill_edits(method, mesh, *args, keys, count, most=COUNT)
  new, metrics = jax.tree.map(_whole, results)
  one = lambda tree, i: jax.tree.map(lambda x: x[i], tree) if edits > 1 else tree
  worst = [_difference(state, other[0], one(new, i)) for i, other in enumerate(alone)]
  losses = [
    np.abs(np.asarray(other[1].loss) / one(metrics, i).loss - 1).max()
    for i, other in enumerate(alone)
  ]
  spec = results[0].params["student"]["middle_block/0/conv1/kernel"].sharding.spec
  print(json.dumps({"difference": float(max(*worst, *losses)), "spec": list(spec)}))


def _alone(distill, method, state, teacher, cond, key):
  """The new state and the metrics of one edit on one device."""
  import jax
  import jax.numpy as jnp

  state = jax.tree.map(jnp.array, state)  # its buffers are given away
  args = state, teacher, cond, key, jnp.int32(COUNT)
  return jax.device_get(distill.distill_steps(method, *args, most=COUNT))


def _difference(before, one, other) -> float:
  """Of two new states: the largest, relative to how far the first has moved or to its size."""
  import numpy as np

  pairs = [
    (one.params["student"][path], other.params["student"][path], x)
    for path, x in before.params["student"].items()
  ]
  moved = max(np.abs(a - np.asarray(x)).max() for a, _, x in pairs)
  updates = max(np.abs(a - b).max() for a, b, _ in pairs) / max(moved, 1e-30)
  size = np.abs(one.prediction).max()
  return max(updates, np.abs(one.prediction - other.prediction).max() / size)


def _whole(x):
  from jax.experimental import multihost_utils

  return multihost_utils.process_allgather(x, tiled=True)


def _edit():
  """A method, a state, a teacher and a conditioning of tiny networks with random weights."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from imx2mx_jax import distill, optim, students, teachers
  from imx2mx_jax.models.network import initialise
  from imx2mx_jax.models.seva import Seva
  from imx2mx_jax.models.unet import UNet
  from tests import tiny

  seva, unet = initialise(Seva, tiny.SEVA, 0), initialise(UNet, tiny.UNET, 1)
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  # Without decay and with a large eps an update is the gradient's multiple, and with a large rate
  # it is not lost in the rounding of the weights.
  rate = optim.LearningRate.over(COUNT, peak=0.3, final=0.3, warmup=1)
  tx = optim.optimizer(rate, clip_norm=1.0, eps=1.0, weight_decay=0.0)
  method = distill.Method(students.Seva(seva.graphdef), rate, tx, (8, 8))
  cond = students.seva_conditioning(normal(16, 16, 4), normal(16), normal(4, 16, 16, 6))
  state = distill.init(method, seva.params, {}, normal(4, 16, 16, 4), 300)
  teacher = teachers.InstructPix2Pix(
    unet, normal(7, 16), normal(7, 16), normal(3, 8, 8, 4), jnp.float32(7), jnp.float32(1.5)
  )
  return method, *jax.device_get((state, teacher, cond))


if __name__ == "__main__":
  main(*sys.argv[1:])
