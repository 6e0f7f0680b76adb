"""Who works in a folder: a file that one process makes and every other one sees.

Claims are numbered files, `.claim.0`, `.claim.1`, ..; the highest one counts. To take a folder
over from a process that is gone is to make the next number, which succeeds for one process only.
"""

import contextlib
import json
import os
import pathlib
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator

import psutil

from imx2mx_jax import remote
from imx2mx_jax.errors import ClaimError

_BEAT = 30.0  # seconds between the signs of life that a claim's holder gives
_SILENCE = 600.0  # seconds after which a holder on another machine counts as gone
_NAME = re.compile(r"\.claim\.(\d+)")


class Claim:
  """A folder that this process has."""

  def __init__(self, shelf: "_Disk | _Bucket", number: int):
    self._shelf, self._number = shelf, number

  def check(self) -> None:
    """Raises ClaimError where another process has taken the folder over: this one was silent."""
    if max(self._shelf.claims(), default=-1) != self._number:
      raise ClaimError(
        f"{self._shelf.folder} was taken over by another process while this one gave no sign of "
        "life; leave it to that one"
      )


@contextlib.contextmanager
def claimed(folder: str | os.PathLike) -> Iterator[Claim]:
  """Keeps a folder, which must exist where it is not in a bucket, for this process alone.

  Raises ClaimError where a living process has it. One on this machine is alive while its process
  is, one on another machine while it gives signs of life.
  """
  shelf = _Bucket(folder) if remote.is_remote(folder) else _Disk(folder)
  number = _claim(shelf)
  done = threading.Event()
  beating = threading.Thread(target=_beat, args=(shelf, number, done), daemon=True)
  beating.start()
  try:
    yield Claim(shelf, number)
  finally:
    done.set()
    beating.join()
    with contextlib.suppress(Exception):  # one that is left behind is soon taken for what it is
      shelf.delete(number)


def _claim(shelf: "_Disk | _Bucket") -> int:
  own = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "began": _began()})
  while True:
    last = max(shelf.claims(), default=-1)
    if last >= 0:
      _refuse_living(shelf, last)
    number = last + 1
    try:
      shelf.create(number, own)
    except FileExistsError:  # another process was quicker
      continue
    if max(shelf.claims()) > number:  # the number had been used, and given up, before
      shelf.delete(number)
      continue
    for older in range(number):
      shelf.delete(older)
    return number


def _refuse_living(shelf: "_Disk | _Bucket", number: int) -> None:
  try:
    content, silent = shelf.read(number)
  except FileNotFoundError:  # given up a moment ago
    return
  try:
    holder = json.loads(content)
  except ValueError:  # being written, or its writer was killed over it
    holder = {"host": "another machine", "pid": "?"}
  if holder["host"] == socket.gethostname():
    alive = _lives(holder["pid"], holder["began"])
  else:
    alive = silent < _SILENCE
  if alive:
    raise ClaimError(
      f"{shelf.folder} is being written by process {holder['pid']} on {holder['host']}; wait for "
      "it, or choose another folder with --config.run_dir=..."
    )


def _lives(pid: int, began: float) -> bool:
  """Whether the process that had this number is still there; numbers are used again."""
  try:
    return abs(psutil.Process(pid).create_time() - began) < 1
  except psutil.NoSuchProcess:
    return False


def _began() -> float:
  return psutil.Process().create_time()


def _beat(shelf: "_Disk | _Bucket", number: int, done: threading.Event) -> None:
  while not done.wait(_BEAT):
    with contextlib.suppress(Exception):  # a folder that was deleted is its owner's business
      shelf.touch(number)


class _Disk:
  """The claims in a folder of this machine's filesystem, or of one that machines share."""

  def __init__(self, folder: str | os.PathLike):
    self.folder = pathlib.Path(folder)

  def claims(self) -> list[int]:
    """Their numbers."""
    return _numbers(entry.name for entry in self.folder.iterdir())

  def create(self, number: int, content: str) -> None:
    """Raises FileExistsError where it is there."""
    with self._file(number).open("x") as stream:
      stream.write(content)

  def read(self, number: int) -> tuple[str, float]:
    """What it says, and the seconds since its last sign of life."""
    file = self._file(number)
    return file.read_text(), time.time() - file.stat().st_mtime

  def touch(self, number: int) -> None:
    """A sign of life."""
    os.utime(self._file(number))

  def delete(self, number: int) -> None:
    """It need not be there."""
    self._file(number).unlink(missing_ok=True)

  def _file(self, number: int) -> pathlib.Path:
    return self.folder / f".claim.{number}"


class _Bucket:
  """The same in a bucket, whose objects are made by one writer only, and dated when written."""

  def __init__(self, folder: str | os.PathLike):
    self.folder = os.fspath(folder)
    self._fs, self._root = remote.filesystem(folder)

  def claims(self) -> list[int]:
    self._fs.invalidate_cache()
    with remote.reaching(self.folder):
      try:
        found = self._fs.ls(self._root, detail=False)
      except FileNotFoundError:
        return []
    return _numbers(pathlib.PurePath(path).name for path in found)

  def create(self, number: int, content: str) -> None:
    with remote.reaching(self.folder, FileExistsError):
      self._fs.pipe_file(self._file(number), content.encode(), mode="create")

  def read(self, number: int) -> tuple[str, float]:
    file = self._file(number)
    with remote.reaching(self.folder, FileNotFoundError):
      return self._fs.cat_file(file).decode(), time.time() - self._fs.modified(file).timestamp()

  def touch(self, number: int) -> None:
    self._fs.pipe_file(self._file(number), self._fs.cat_file(self._file(number)))

  def delete(self, number: int) -> None:
    there = remote.reaching(self.folder, FileNotFoundError)
    with contextlib.suppress(FileNotFoundError), there:
      self._fs.rm_file(self._file(number))

  def _file(self, number: int) -> str:
    return f"{self._root.rstrip('/')}/.claim.{number}"


def _numbers(names: Iterable[str]) -> list[int]:
  found = [_NAME.fullmatch(name) for name in names]
  return [int(match[1]) for match in found if match]
