"""Whether the full-size step fits a TPU, and how fast it would be, by the TPU's own compiler.

    python -m benchmarks.tpu_fit --topology=v5e:2x4 --mesh=edit:1,fsdp:8 [--memory=small]

Needs no TPU but libtpu (`pip install -e ".[tpu]"`). Has one iteration of the method at the paper's
size (4 views, 576 px, bfloat16) optimised and laid out in memory for the topology, and prints the
memory per chip, the operations, and the time by a roofline: what the program computes, moves in its
memory and sends between chips, at stated shares of the chip's rates, which are assumptions. The
compiler is not waited for beyond that: making machine code of it takes all the cores of a TPU's
host, and changes none of these numbers. One option differs from a run's: products are not divided
into loops. --size=micro takes the bundled models' shapes in their place. The last line is a JSON
object: topology, mesh, memory, hbm_gb_per_chip, hbm_gb_limit, flops_per_chip, model_flops (of an
iteration of one edit), seconds_per_iteration, share_of_peak, minutes (of the 2150 iterations of a
run alone) and edits (that it finishes).
--mesh=data:8 lays out a step of the student's training in its place, a set of five views on each
chip; then model_flops is that of one set, and sets_per_second takes the place of the last two.
--table LOG... prints what several runs have printed as one table.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import re
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
os.environ |= {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-8"}
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # nothing runs on a chip

import jax
import jaxlib._hlo
import jaxlib._jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import hlo
from benchmarks.step import (
  ITERATIONS,
  SIZES,
  VIEWS,
  arguments,
  model_flops,
  training,
  training_flops,
)
from imx2mx_jax import distill, sharding
from imx2mx_jax.train import loop


@dataclasses.dataclass(frozen=True)
class Chip:
  """Published rates of a chip. flops: TFLOP/s in bfloat16. hbm: GiB that a program may use.

  bandwidth: GB/s of its memory. link: GB/s of one link to a neighbour, in one direction.
  """

  flops: float
  hbm: float
  bandwidth: float
  link: float


CHIPS = {
  "v4": Chip(275, 31.25, 1228, 50),
  "v5e": Chip(197, 15.75, 819, 50),
  "v5p": Chip(459, 95.0, 2765, 100),
  "v6e": Chip(918, 31.25, 1640, 112),
}
"""From Google's pages on each TPU; a link's rate is the chip's divided by its six or four links."""

COMPUTE, MEMORY, LINKS = 0.6, 0.7, 0.6
"""The shares of these rates that programs are assumed to reach."""


def links(devices: Sequence[Any]) -> int:
  """To how many of the chips that share an edit each has a link, at least. A host has no torus."""
  places = [np.array(device.coords) for device in devices]
  apart = lambda one, other: int(np.abs(one - other).sum())
  return min(sum(apart(one, other) == 1 for other in places) for one in places)


def lower_step(method: distill.Method, args: tuple, mesh: Mesh) -> jax.stages.Lowered:
  """An iteration of as many edits as the mesh has, traced."""
  edits = mesh.shape[sharding.EDIT]

  def iterate(state, teacher, cond, key):
    drawn = distill.draws(method, key, state.step, state.tau, VIEWS)
    return distill.distill_step(method, state, teacher, cond, drawn)

  if edits == 1:
    step, placed = iterate, _placed(args, sharding.of_tree(mesh, args))
  else:
    step, placed = functools.partial(distill.for_each_edit, mesh, iterate), _stacked(args, mesh)
  with jax.set_mesh(mesh):
    return jax.jit(step, donate_argnums=0).lower(*placed)


def lower_training(program: loop.Program, args: tuple) -> jax.stages.Lowered:
  """A step of a training, traced."""
  state, given, batch, rate, key = args
  mesh = program.mesh
  rows = jax.tree.map(lambda _: NamedSharding(mesh, P(sharding.DATA)), batch)
  state, given, rate, key = (
    _placed(tree, loop.shardings(mesh, tree)) for tree in (state, given, rate, key)
  )
  places = jax.tree.map(lambda x: x.sharding, state), NamedSharding(mesh, P())
  step = jax.jit(
    functools.partial(loop.train_step, program), donate_argnums=0, out_shardings=places
  )
  with jax.set_mesh(mesh):
    return step.lower(state, given, _placed(batch, rows), rate, key)


def _stacked(args: tuple, mesh: Mesh) -> tuple:
  """The arguments of as many edits as the mesh has; they share the teacher's network."""
  state, teacher, cond, key = args
  network = _placed(teacher.unet, sharding.of_tree(mesh, teacher.unet))
  alone = dataclasses.replace(teacher, unet=None)
  edits = mesh.shape[sharding.EDIT]
  stacked = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((edits, *x.shape), x.dtype), (state, alone, cond, key)
  )
  state, alone, cond, key = _placed(stacked, sharding.of_tree(mesh, stacked, edits=True))
  return state, dataclasses.replace(alone, unet=network), cond, key


def _placed(tree, places):
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, places
  )


@dataclasses.dataclass(frozen=True)
class Program:
  """What the compiler has decided before it makes machine code.

  text: the optimised program. held: bytes on a chip, arguments and temporaries. arguments: those
  that it is called with.
  """

  text: str
  held: int
  arguments: int


def lay_out(lowered: jax.stages.Lowered, folder: pathlib.Path) -> Program:
  """Has a program optimised and laid out in memory; its compilation goes on in a thread.

  folder: for what the compiler writes. Raises what it raises where the program does not fit.
  """
  options = {"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True, **_AS_COUNTED}
  failures = []

  def compile_it():
    try:
      lowered.compile(options)
    except Exception as error:
      failures.append(error)

  compiling = threading.Thread(target=compile_it, daemon=True)
  compiling.start()
  # Begun when the program and its layout, which are read here, are whole.
  while not list(folder.glob("*buffer-assignment-values.txt")):
    if failures:
      raise failures[0]
    if not compiling.is_alive():
      raise RuntimeError(f"this libtpu wrote no layout to {folder}")
    time.sleep(0.5)
  read = lambda ending: next(folder.glob(f"*after_optimizations{ending}.txt")).read_text()
  allocations = _ALLOCATION.findall(read("-buffer-assignment"))
  sizes = [int(size) for size, rest in allocations if "color" not in rest]  # those are of HBM
  arguments = [int(size) for size, rest in allocations if " parameter " in rest]
  return Program(read(""), sum(sizes), sum(arguments))


_AS_COUNTED = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": 1_000_000}
"""Else products and transfers are divided into loops, of which one round would be counted."""

_ALLOCATION = re.compile(r"^allocation \d+: size (\d+)(.*)$", re.MULTILINE)


def computed_flops(text: str) -> float:
  """Operations of a chip, by XLA's own analysis, and those of attention's kernels besides."""
  module = jaxlib._hlo.hlo_module_from_text(text)
  found = jaxlib._jax.hlo_module_cost_analysis(jax.devices("cpu")[0].client, module)
  return found["flops"] + kernel_flops(text)


_KERNEL = re.compile(r"%splash_mha_(fwd|dkv)\w*[.\d]* = .*operand_layout_constraints=(.*)")
_KERNELS_OPERAND = re.compile(r"(?:bf16|f32)\[(\d+),(\d+),(\d+)\]")
_PRODUCTS = {"fwd": 2, "dkv": 5}  # each of q by k; the gradients' kernel makes the scores again


def kernel_flops(text: str) -> int:
  """Of attention's kernels in a compiled program's text, of which the compiler counts nothing."""
  total = 0
  for name, operands in _KERNEL.findall(text):
    (heads, queries, width), (_, keys, _) = _KERNELS_OPERAND.findall(operands)[:2]
    total += 2 * _PRODUCTS[name] * int(heads) * int(queries) * int(keys) * int(width)
  return total


def main() -> None:
  """Compiles and prints."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--topology", default="v5e:2x4")
  parser.add_argument("--mesh", default="edit:1,fsdp:8")
  parser.add_argument("--memory", default="default", choices=("default", "small", "smallest"))
  parser.add_argument("--size", default="full", choices=tuple(SIZES))
  parser.add_argument("--keep", default="", help="a folder for all that the compiler writes")
  parser.add_argument(
    "--table", nargs="+", metavar="LOG", help="prints what was printed as a table"
  )
  args = parser.parse_args()
  if args.table:
    print(table([json.loads(pathlib.Path(log).read_text().splitlines()[-1]) for log in args.table]))
    return
  kind, size = args.topology.split(":")[0], SIZES[args.size]
  shape = re.fullmatch(r"edit:(\d+),fsdp:(\d+)|data:([1-9]\d*)", args.mesh)
  if kind not in CHIPS or not shape:
    parser.error(
      f"--topology begins with one of {', '.join(CHIPS)}; --mesh is as edit:1,fsdp:8 or data:8"
    )
  if args.keep and list(pathlib.Path(args.keep).glob("*")):
    parser.error(f"--keep={args.keep} is not empty; name another folder")
  options = {"chip_config_name": "megacore"} if kind == "v4" else {}
  topology = topologies.get_topology_desc(args.topology, "tpu", **options)
  edits, chips, devices = (int(count or 0) for count in shape.groups())
  began = time.monotonic()
  if not devices and not 0 < edits * chips <= len(topology.devices):
    parser.error(f"--mesh={args.mesh}: {args.topology} has {len(topology.devices)} devices")
  if devices > len(topology.devices):
    parser.error(f"--mesh={args.mesh}: {args.topology} has {len(topology.devices)} devices")
  if devices and args.memory != "default":
    parser.error(f"--memory={args.memory} is for edits; leave it out")
  if devices:
    mesh, model = loop.make_mesh(topology.devices[:devices]), training_flops(size)
    lowered = lower_training(*training(size, mesh))
  else:
    mesh, model = sharding.make_mesh(edits, chips, topology.devices), model_flops(size)
    lowered = lower_step(*arguments(size, args.memory), mesh)
  print(f"traced in {time.monotonic() - began:.0f} s", flush=True)
  began = time.monotonic()
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    program = lay_out(lowered, pathlib.Path(args.keep or folder))
  took = time.monotonic() - began
  print(f"laid out for {args.topology} in {took:.0f} s", flush=True)
  report(args, CHIPS[kind], program, mesh, model)
  sys.stdout.flush()
  os._exit(0)  # the compiler's threads heed nothing else


def table(found: Sequence[Mapping[str, Any]]) -> str:
  """Markdown of the JSON objects that runs of this have printed."""
  lines = [
    "| topology | mesh | memory | GB a chip | of | ms a step | share of peak | edits | minutes |",
    "|---|---|---|---:|---:|---:|---:|---:|---:|",
  ]
  for one in found:
    where = f"{one['topology']} | {one['mesh']} | {one['memory']}"
    held = f"{one['hbm_gb_per_chip']:.1f} | {one['hbm_gb_limit']:.1f}"
    pace = f"{one['seconds_per_iteration'] * 1e3:.0f} | {one['share_of_peak']:.0%}"
    lines.append(f"| {where} | {held} | {pace} | {one['edits']} | {one['minutes']:.2f} |")
  return "\n".join(lines)


def report(args: argparse.Namespace, chip: Chip, program: Program, mesh: Mesh, model: int) -> None:
  """Prints what a step takes, and the line of JSON. model: of one edit, or of one set."""
  data = mesh.shape.get(sharding.DATA)
  chips = data or mesh.shape[sharding.CHIPS]
  model *= data or 1
  operations, lines = computed_flops(program.text), list(hlo.instructions(program.text))
  moved, sent = hlo.moved_bytes(lines), hlo.sent(lines, chips)
  many = links(mesh.devices.reshape(-1, chips)[0])
  total, limit = program.held / 1e9, chip.hbm * 2**30 / 1e9
  temporaries = (program.held - program.arguments) / 1e9
  print(
    f"memory per chip: {program.arguments / 1e9:.2f} GB weights and state, {temporaries:.2f} GB "
    f"temporaries, {total:.2f} GB in all, of {limit:.2f}: "
    f"{'fits' if total <= limit else 'does not fit'}"
  )
  compute = operations / (chip.flops * 1e12 * COMPUTE)
  memory = moved / (chip.bandwidth * 1e9 * MEMORY)
  beside, alone = (
    size / (max(many, 1) * chip.link * 1e9 * LINKS) for size in (sent.beside, sent.alone)
  )
  ratio = operations * chips / model
  print(
    f"compute: {operations / 1e12:.3f} TFLOP a chip, {compute * 1e3:.1f} ms at {COMPUTE:.0%} "
    f"of {chip.flops} TFLOP/s; in all {ratio:.2f} x the model's {model / 1e12:.2f} TFLOP"
  )
  print(
    f"memory: {moved / 1e9:.1f} GB, {memory * 1e3:.1f} ms at {MEMORY:.0%} of "
    f"{chip.bandwidth} GB/s; what stays on the chip is left out"
  )
  print(
    f"links: {sent.beside / 1e9:.2f} GB beside computation, {beside * 1e3:.1f} ms, and "
    f"{sent.alone / 1e9:.2f} GB alone, {alone * 1e3:.1f} ms, "
    f"at {LINKS:.0%} of {many} x {chip.link} GB/s"
  )
  seconds = max(compute, memory, beside) + alone
  print(
    f"an iteration: {seconds * 1e3:.0f} ms, the largest of compute, memory and what is sent beside "
    "them, and what is sent alone"
  )
  found = {
    "topology": args.topology,
    "mesh": args.mesh,
    "memory": args.memory,
    "hbm_gb_per_chip": round(total, 2),
    "hbm_gb_limit": round(limit, 2),
    "flops_per_chip": operations,
    "model_flops": model // (data or 1),
    "seconds_per_iteration": round(seconds, 4),
    "share_of_peak": round(model / (seconds * chips * chip.flops * 1e12), 3),
  }
  if data:
    found["sets_per_second"] = round(data / seconds, 2)
  else:
    found["minutes"] = round(seconds * ITERATIONS / 60, 2)
    found["edits"] = mesh.shape[sharding.EDIT]
  print(json.dumps(found))


if __name__ == "__main__":
  main()
