"""An edit on many chips is the edit on one; the rule tables fit the networks."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from imx2mx_jax import optim, sharding
from imx2mx_jax.models.network import abstract
from imx2mx_jax.models.seva import Seva, SevaShape
from imx2mx_jax.models.unet import UNet, UNetShape

REPOSITORY = pathlib.Path(__file__).parents[1]
CLOSE = 1e-5
NETWORKS = {"seva": (Seva, SevaShape()), "unet": (UNet, UNetShape())}


def started(mesh, *processes):
  command = [sys.executable, "-m", "tests.sharded", mesh, *map(str, processes)]
  return subprocess.Popen(
    command, cwd=REPOSITORY, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
  )


def compared(*runs):
  """What the last of the processes printed."""
  for run in runs:
    printed, errors = run.communicate(timeout=900)
    assert run.returncode == 0, errors.decode()[-2000:]
  return json.loads(printed.splitlines()[-1])


@pytest.mark.slow
def test_networks_that_chips_share_compute_what_one_computes():
  command = [sys.executable, "-m", "tests.on_chips"]
  found = json.loads(subprocess.check_output(command, cwd=REPOSITORY).splitlines()[-1])
  assert len(found) == 7 and max(found.values()) < CLOSE, found


@pytest.mark.parametrize("mesh", ["2x2", pytest.param("2x4", marks=pytest.mark.slow)])
def test_two_edits_on_chips_of_their_own_come_out_as_alone(mesh):
  found = compared(started(mesh))
  assert found["difference"] < CLOSE
  assert found["spec"] == ["edit", None, None, None, "fsdp"]


_DIVIDED = """
import jax
from imx2mx_jax import config, edit
from tests.cli.support import arguments
run = config.resolve(config.parse(["main", *arguments("run")]))
params = edit.load_models(run).student.params.values()
parts = dict.fromkeys(jax.devices(), 0)
for shard in (shard for array in params for shard in array.addressable_shards):
  parts[shard.device] += shard.data.nbytes
whole = sum(array.nbytes for array in params)
print(len(parts), max(parts.values()) / whole, min(parts.values()) / whole)
"""


def test_a_student_is_read_in_parts_by_the_chips_that_share_it():
  environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
  command = [sys.executable, "-W", "error", "-c", _DIVIDED]
  printed = subprocess.check_output(command, cwd=REPOSITORY, env=environment, text=True)
  chips, most, least = map(float, printed.split())
  assert chips == 4
  assert 0.25 <= least == most < 0.5  # norms and biases are whole on every chip


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["1x8", "8x1", "1x3"])
def test_other_meshes_come_out_as_one_device(mesh):
  assert compared(started(mesh))["difference"] < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["1x8", "2x4", "8x1"])
def test_two_processes_of_four_devices_come_out_as_one_device(mesh):
  with socket.create_server(("127.0.0.1", 0)) as server:
    port = server.getsockname()[1]
  found = compared(*[started(mesh, place, 2, port) for place in range(2)])
  assert found["difference"] < CLOSE


@pytest.mark.parametrize("chips", [4, 8])
def test_the_chips_hold_equal_parts_of_nearly_all_weights_of_a_student(chips):
  params = abstract(Seva, SevaShape()).params
  held = 0
  for path, x in params.items():
    divided = any(sharding.parameter_spec(path, x.shape, chips))
    held += x.size / (chips if divided else 1)
  assert held < 1.1 * sum(x.size for x in params.values()) / chips


def test_an_editor_is_whole_on_every_chip():
  params = abstract(UNet, UNetShape()).params
  assert not any(any(sharding.parameter_spec(path, x.shape, 4)) for path, x in params.items())


def test_every_rule_for_parameters_has_a_parameter():
  paths = [path for cls, shape in NETWORKS.values() for path in abstract(cls, shape).params]
  used = {sharding.rule(path) for path in paths}
  assert used == set(range(len(sharding.PARAMETERS)))


def test_an_axis_that_the_chips_do_not_divide_stays_whole():
  assert not any(sharding.parameter_spec("a/conv1/kernel", (3, 3, 8, 12), 8))
  assert tuple(sharding.parameter_spec("a/conv1/kernel", (3, 3, 8, 16), 8))[3] == "fsdp"


def test_without_a_mesh_nothing_is_laid_out():
  x = np.ones((4, 4))
  assert sharding.lay(x, "channels") is x and sharding.lay_tree([x])[0] is x


@pytest.mark.parametrize("mesh", [(1, -1), (-1, 1), (1, 1)])
def test_a_mesh_takes_what_is_left(mesh):
  assert sharding.make_mesh(*mesh).shape == {"edit": 1, "fsdp": 1}


def test_a_mesh_of_more_chips_than_there_are_is_refused():
  with pytest.raises(ValueError, match="2 x 4 chips, of which there are 1"):
    sharding.make_mesh(2, 4)


def test_smaller_memories_keep_less_beside_the_weights():
  params = {"kernel": np.ones((256, 256), np.float32)}
  rate = optim.LearningRate.over(10, peak=1e-3, final=1e-3, warmup=1)

  def kept(memory):
    state = jax.eval_shape(optim.optimizer(rate, memory=memory).init, params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))

  whole = params["kernel"].nbytes
  assert kept("default") // whole == 2
  assert kept("small") / whole == pytest.approx(1.5, abs=0.01)
  assert kept("smallest") / whole < 0.02


@pytest.mark.parametrize("memory", ["default", "small", "smallest"])
def test_every_memory_goes_downhill(memory):
  rate = optim.LearningRate.over(200, peak=0.05, final=0.01, warmup=1)
  tx = optim.optimizer(rate, memory=memory, weight_decay=0.0)
  wanted = jax.random.normal(jax.random.key(0), (128, 128))
  loss = lambda x: jax.numpy.square(x["kernel"] - wanted).mean()

  @jax.jit
  def step(_, carry):
    params, state = carry
    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return {"kernel": params["kernel"] + updates["kernel"]}, state

  params = {"kernel": jax.numpy.zeros((128, 128))}
  params, _ = jax.lax.fori_loop(0, 200, step, (params, tx.init(params)))
  assert loss(params) < 0.05
