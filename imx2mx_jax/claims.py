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
from collections.abc import Iterator

import psutil

from imx2mx_jax.errors import ClaimError

_BEAT = 30.0  # seconds between the signs of life that a claim's holder gives
_SILENCE = 600.0  # seconds after which a holder on another machine counts as gone
_NAME = re.compile(r"\.claim\.(\d+)")


@contextlib.contextmanager
def claimed(folder: str | os.PathLike) -> Iterator[None]:
  """Keeps a folder, which must exist, for this process alone.

  Raises ClaimError where a living process has it. One on this machine is alive while its process
  is, one on another machine while it gives signs of life.
  """
  file = _claim(pathlib.Path(folder))
  done = threading.Event()
  beating = threading.Thread(target=_beat, args=(file, done), daemon=True)
  beating.start()
  try:
    yield
  finally:
    done.set()
    beating.join()
    file.unlink(missing_ok=True)


def _claim(folder: pathlib.Path) -> pathlib.Path:
  while True:
    last = max(_claims(folder), default=-1)
    if last >= 0:
      _refuse_living(folder / f".claim.{last}")
    file = folder / f".claim.{last + 1}"
    try:
      with file.open("x") as stream:
        json.dump({"host": socket.gethostname(), "pid": os.getpid(), "began": _began()}, stream)
    except FileExistsError:  # another process was quicker
      continue
    if max(_claims(folder)) > last + 1:  # the number had been used, and given up, before
      file.unlink()
      continue
    for older in range(last + 1):
      (folder / f".claim.{older}").unlink(missing_ok=True)
    return file


def _claims(folder: pathlib.Path) -> list[int]:
  found = [_NAME.fullmatch(entry.name) for entry in folder.iterdir()]
  return [int(match[1]) for match in found if match]


def _refuse_living(file: pathlib.Path) -> None:
  try:
    content = file.read_text()
    silent = time.time() - file.stat().st_mtime
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
      f"{file.parent} is being written by process {holder['pid']} on {holder['host']}; wait for "
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


def _beat(file: pathlib.Path, done: threading.Event) -> None:
  while not done.wait(_BEAT):
    with contextlib.suppress(OSError):  # a folder that was deleted is its owner's business
      os.utime(file)
