"""What an edit takes, told before it begins: memory, disk, time, and whose weights it uses."""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import psutil
from jax.sharding import Mesh

from imx2mx_jax import edit, flops, remote, weights
from imx2mx_jax.config import RunConfig
from imx2mx_jax.errors import ConfigError, RunFolderError
from imx2mx_jax.shapes import Params
from imx2mx_jax.terminal import duration as clock
from imx2mx_jax.terminal import gigabytes

PRESETS = ("default", "small", "smallest")
"""Settings of `memory`, each needing less than the one before."""

SHARE = {"cpu": 0.3}
"""{platform: the share of a device's rate that an edit is assumed to reach}; 0.25 for others."""

_BRANCHES = {"instruct_pix2pix": 3, "controlnet": 2}  # of guidance
_LARGE = 400e6  # bytes of a teacher, from which on an edit takes long
_OWN_LICENCE = "Apache-2.0"
_PICTURES = 50e6  # bytes at least, for pictures, journal and report


@dataclasses.dataclass(frozen=True)
class Needs:
  """Bytes. device: the least that each chip must hold. disk: the most that the folder takes."""

  device: int
  disk: int


def needs(run: RunConfig, views: int, mesh: Mesh | None = None) -> Needs:
  """Of an edit of so many views, from the descriptions of its models alone.

  mesh: its chips; None: those of an edit by itself.

  What a chip holds: weights, gradients and optimizer state; the networks' activations come on top.
  Raises what `edit.check_models` raises.
  """
  models = edit.load_models(run, load=weights.described)
  networks = [net for net in vars(models).values() if hasattr(net, "params")]
  if run.teacher_alone:
    return Needs(sum(_bytes(net.params) for net in networks), int(_PICTURES))
  state = edit.abstract_state(run, views, models, mesh)
  total = edit.total_iterations(run)
  gradients = _share(state.params) if total else 0
  shared = sum(_bytes(net.params) for net in (models.vae, models.student_vae))
  frozen = [net for net in (models.unet, models.controlnet) if net is not None]
  looping = _share(state) + gradients + shared + sum(_bytes(net.params) for net in frozen)
  loading = _share(state) + sum(_bytes(n.params) for n in networks if n is not models.student)
  saved = min(3, -(-total // run.save_every))  # two are kept, and one is being written
  student = _bytes(state.params) if total else 0
  return Needs(max(looping, loading), saved * _bytes(state) + student + int(_PICTURES))


def check(run: RunConfig, views: int, mesh: Mesh | None = None) -> Iterator[str]:
  """What the edit takes, a line each. Raises where it surely does not fit. mesh: as for `needs`.

  ConfigError names the setting that would do with the memory at hand, RunFolderError the disk.
  """
  wanted, (device, *_) = needs(run, views, mesh), jax.local_devices()
  limit = memory_of(device)
  held = _sharers(run) * wanted.device
  if held > limit:
    raise ConfigError(
      f"--config.memory={run.memory}: this edit holds at least {gigabytes(held)} on each "
      f"{device.device_kind}, which has {gigabytes(limit)}; {_remedy(run, views, limit, mesh)}"
    )
  _check_disk(run, wanted.disk)
  yield (
    f"it holds at least {gigabytes(held)} of this {device.device_kind}'s {gigabytes(limit)} and "
    f"writes up to {gigabytes(wanted.disk)} to {run.run_dir}"
  )
  if _is_long(run):
    yield _time(run, views, mesh or edit.make_mesh(run))
  yield from licences(run)


def _is_long(run: RunConfig) -> bool:
  """Whether it is worth the seconds to count what an edit takes before it begins."""
  if run.preview or run.teacher.kind not in _BRANCHES:
    return False
  return _bytes(edit.load_models(run, load=weights.described).unet.params) >= _LARGE


def _time(run: RunConfig, views: int, mesh: Mesh) -> str:
  count, devices = operations(run, views), mesh.devices.ravel().tolist()
  seconds, assumed = duration(count, devices)
  counted = f"{count / 1e15:.3g} PFLOP, {assumed}"
  return f"it takes about {clock(seconds)} ({counted}) and what compiling takes"


def operations(run: RunConfig, views: int) -> int:
  """Of the networks in an edit of so many views: its reference and its iterations.

  A teacher alone: its steps. A student's own sampling, a ControlNet and autoencoders are left out.
  """
  models = edit.load_models(run, load=weights.described)
  networks = weights.read_info(run.teacher.weights, "teacher").networks
  shape, grid = networks["unet"].shape, networks["vae"].shape.grid(run.teacher.hw)
  text, branches = networks["text_encoder"].shape, _BRANCHES[run.teacher.kind]
  tokens = (text.positions, text.width)
  teacher = lambda views: flops.of_teacher(models.unet, shape, views, branches, grid, tokens)
  sampling = run.teacher.steps * teacher(1)
  if run.teacher_alone:
    return views * sampling
  seva = weights.read_info(run.student.weights, "student").networks["seva"].shape
  cells = models.student_vae.module.shape.grid(run.student.hw)
  student = flops.of_student(models.student, seva, views + 1, cells)
  each = flops.of_iteration(student, teacher(views))
  return sampling + edit.total_iterations(run) * each


def by_preset(run: RunConfig, views: int) -> str:
  """Which settings of `memory` the first device has room for, in words."""
  limit = memory_of(jax.local_devices()[0])
  held = {preset: _held(dataclasses.replace(run, memory=preset), views) for preset in PRESETS}
  told = ", ".join(f"{gigabytes(size)} ({preset})" for preset, size in held.items())
  fit = [preset for preset, size in held.items() if size <= limit]
  return f"holds at least {told} of {gigabytes(limit)}; memory={fit[0] if fit else 'none'} fits"


def licences(run: RunConfig) -> Iterator[str]:
  """A line for each of the run's models, but for those under this project's own licence."""
  models = edit.models_of(run)
  if weights.is_converted(run.metric_clip):
    models |= {"metric_clip": run.metric_clip}
  for kind, folder in models.items():
    info = weights.read_info(folder, kind)
    if info.terms or info.licence != _OWN_LICENCE:
      yield f"{kind} ({folder}): {info.licence}. {info.terms}".rstrip(" ")


def duration(count: int, devices: Sequence[Any]) -> tuple[float, str]:
  """Seconds that so many operations take on equal devices, and in words what that assumes."""
  share = SHARE.get(devices[0].platform, 0.25)
  if peak := flops.peak(devices):
    return count / (peak * 1e12 * share), f"at {share:.0%} of the devices' peak"
  rate = _measured_rate()
  return count / (rate * share), f"at {share:.0%} of the {rate / 1e9:.3g} GFLOP/s of a product here"


def memory_of(device: Any) -> int:
  """Bytes that a device may hold; of a CPU, the machine's."""
  return (device.memory_stats() or {}).get("bytes_limit", psutil.virtual_memory().total)


def _remedy(run: RunConfig, views: int, limit: int, mesh: Mesh | None) -> str:
  for preset in smaller(run.memory):
    if (held := _held(dataclasses.replace(run, memory=preset), views, mesh)) <= limit:
      return f"--config.memory={preset} holds {gigabytes(held)}"
  return "no preset holds so little: it wants more devices (--config.mesh.fsdp=-1) or larger ones"


def smaller(memory: str) -> tuple[str, ...]:
  """The presets that hold less than this one."""
  return PRESETS[PRESETS.index(memory) + 1 :]


def _held(run: RunConfig, views: int, mesh: Mesh | None = None) -> int:
  """In one device's memory."""
  return _sharers(run) * needs(run, views, mesh).device


def _sharers(run: RunConfig) -> int:
  """Devices that hold in the same memory, as a CPU's do."""
  return edit.mesh_of_edits(run).size if jax.default_backend() == "cpu" else 1


def _check_disk(run: RunConfig, wanted: int) -> None:
  """On the disk of the folder, or of its copy on this machine."""
  away = remote.is_remote(run.run_dir)
  path = remote.Copy(run.run_dir).path if away else pathlib.Path(run.run_dir).expanduser()
  path = path.absolute()
  there = next(folder for folder in (path, *path.parents) if folder.exists())
  own = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
  free = psutil.disk_usage(str(there)).free
  if wanted > free + own:
    raise RunFolderError(
      f"{run.run_dir}: the run writes up to {gigabytes(wanted)} and its disk has "
      f"{gigabytes(free)} free; free some space or choose another folder with --config.run_dir=..."
    )


def _bytes(tree: Any) -> int:
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if leaf.size)


def _share(tree: Params | Any) -> int:
  """Bytes on each chip of a tree that says how it is laid out."""

  def part(leaf: jax.ShapeDtypeStruct) -> int:
    if leaf.sharding is None:
      return _bytes(leaf)
    shape = leaf.sharding.shard_shape(leaf.shape)
    return _bytes(jax.ShapeDtypeStruct(shape, leaf.dtype))

  return sum(map(part, jax.tree.leaves(tree)))


@functools.cache
def _measured_rate() -> float:
  """Operations in a second of a matrix product on the first device."""
  side = 1024
  product, x = jax.jit(lambda x: x @ x), jnp.ones((side, side))
  product(x).block_until_ready()
  times = []
  for _ in range(3):
    began = time.perf_counter()
    product(x).block_until_ready()
    times.append(time.perf_counter() - began)
  return 2 * side**3 / min(times)
