"""What the folders of runs and of trainings have in common: whole files, states to go on from."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from imx2mx_jax import checkpoint, remote
from imx2mx_jax.errors import RunFolderError

STATE = "state"
_KEPT = 2  # states: the last one, and the one before for the case that the last is damaged


class Resumable:
  """A folder in which each file appears whole and the last states lie under state/<steps>.

  path: the folder. step: that of the last state that is saved. A subclass's `_writing` is the
  context in which its files are written; it turns a failure into a sentence.
  """

  def __init__(self, path: epath.Path, save_every: int):
    self.path = path
    self.step = 0
    self._save_every = save_every
    self._saving: tuple[int, checkpoint.Saving] | None = None

  def due(self, step: int) -> bool:
    """Whether the state after `step` steps should be saved."""
    begun = self._saving[0] if self._saving else self.step
    return step - begun >= self._save_every

  def save(self, step: int, state: Any) -> None:
    """Begins to save the state after `step` steps; it may be given away when this returns.

    A failure is told by the next `save` or `settle`.
    """
    self.settle()
    with self._writing():
      folder = self.path / STATE / str(step)
      folder.rmtree(missing_ok=True)  # a damaged one
      self._saving = step, checkpoint.begin(folder, flat_tree(state))

  def settle_if_whole(self) -> None:
    """Settles a state that has been saved in the meantime; waits for none."""
    if self._saving and (self.path / STATE / str(self._saving[0])).exists():
      self.settle()

  def settle(self) -> None:
    """Waits for the state that is being saved; the oldest goes when this one is whole."""
    if self._saving is None:
      return
    (step, saving), self._saving = self._saving, None
    with self._writing():
      saving.wait()
      self.step = step
      kept = {step, *[one for one in self._steps() if one <= step][:_KEPT]}
      for other in (self.path / STATE).iterdir():  # also those that a kill left half written
        if other.is_dir() and other.name not in map(str, kept):
          other.rmtree()

  def last_state(self, wanted: Any) -> Any | None:
    """The last state that can be read, None before the first; `step` is then its number.

    wanted: a tree of ShapeDtypeStructs. A state that cannot be read is named.
    """
    steps = self._steps()
    for step in steps:
      folder = self.path / STATE / str(step)
      try:
        state = _restore(folder, wanted)
      except checkpoint.CheckpointError as error:
        if step == steps[-1]:
          raise RunFolderError(
            f"{folder} cannot be read ({error}); delete {self.path} and start anew"
          ) from error
        print(f"{folder} cannot be read ({error}); trying the state before", flush=True)
      else:
        self.step = step
        return state
    return None

  def _steps(self) -> list[int]:
    """Of the saved states, the last first. One that a bucket got in part is none."""
    if not (self.path / STATE).exists():
      return []
    found = [entry for entry in (self.path / STATE).iterdir() if entry.name.isdigit()]
    whole = [int(entry.name) for entry in found if (entry / checkpoint.LAST).exists()]
    return sorted(whole, reverse=True)

  def _write(self, name: str, content: bytes) -> None:
    remote.write_bytes(self.path / name, content)

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    raise NotImplementedError


def read_json(file: epath.Path) -> dict[str, Any]:
  """What a folder's file says. Raises RunFolderError where that is no object."""
  try:
    return dict(json.loads(file.read_text()))
  except (ValueError, TypeError, FileNotFoundError) as error:
    raise RunFolderError(
      f"{file} is damaged ({error}); delete {file.parent} and start anew"
    ) from error


def flat_settings(settings: Any) -> dict[str, Any]:
  """A dataclass of dataclasses as {"distill.dt": 25, ..}, of types that JSON knows."""

  def flat(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
      if isinstance(value, dict):
        yield from flat(value, f"{prefix}{name}.")
      else:
        yield prefix + name, value

  return dict(flat(json.loads(json.dumps(dataclasses.asdict(settings))), ""))


def flat_tree(tree: Any) -> dict[str, Any]:
  """{path: leaf}, as checkpoints name arrays."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _restore(folder: epath.Path, wanted: Any) -> Any:
  flat = flat_tree(wanted)
  found = checkpoint.contents(folder)
  if {k: v.shape for k, v in found.items()} != {k: v.shape for k, v in flat.items()}:
    raise checkpoint.CheckpointError("it holds other arrays than this version of the program")
  arrays = checkpoint.restore(folder, flat)
  return jax.tree.unflatten(jax.tree.structure(wanted), [arrays[name] for name in flat])
