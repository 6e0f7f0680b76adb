"""What a door shows to the person in front of it, and what it hears: progress, Ctrl-C."""

import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

import rich.progress

from imx2mx_jax.errors import RemoteError, UserError

TRY_AGAIN = os.EX_TEMPFAIL  # 75: the same command may do better later


def exit_code(work: Callable[[], int]) -> int:
  """What `work` gives; 1 after a mistake of the user or a full disk, which are told in a line.

  TRY_AGAIN where a folder elsewhere could not be reached.
  """
  try:
    return work()
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return TRY_AGAIN if isinstance(error, RemoteError) else 1
  except OSError as error:
    if error.errno != errno.ENOSPC:
      raise
    print(f"error: the disk is full ({error.filename}); free some space", file=sys.stderr)
  return 1


class Stop:
  """Ctrl-C and SIGTERM, heard at once and obeyed at the next safe point.

  Within the context the first signal is acknowledged and kept in `heard` (0 before); a second one
  ends the process on the spot. Who stops because of it sets `obeyed`. A thread listens, because the
  main thread runs no handler while it waits for a compilation or a device.
  """

  def __init__(self):
    self.heard = 0
    self.obeyed = False

  @property
  def exit_code(self) -> int:
    """0, or 128 + the signal where it was obeyed: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + self.heard if self.obeyed else 0

  def __enter__(self):
    self._ears, self._mouth = socket.socketpair()
    self._mouth.setblocking(False)
    self._wakeup = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
    self._handlers = {
      number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)
    }
    self._thread = threading.Thread(target=self._listen, daemon=True)
    self._thread.start()
    return self

  def __exit__(self, *_):
    for number, handler in self._handlers.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(self._wakeup)
    self._mouth.close()
    self._thread.join()
    self._ears.close()

  def _listen(self):
    while heard := self._ears.recv(1):
      if self.heard:
        os._exit(128 + heard[0])
      self.heard = heard[0]
      print("\nstopping as soon as the state can be saved; once more: at once", flush=True)


class Iterations:
  """Progress through the iterations: a bar on a terminal, a line after each call in a log.

  name: begins each line, where there are several edits at a time; there is no bar then.
  """

  def __init__(self, name: str = ""):
    self._name = f"{name}: " if name else ""
    self._first = self._total = 0
    self._seconds = 0.0
    self._bar = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._bar:
      self._bar.stop()

  def begin(self, done: int, total: int) -> None:
    """done: iterations of an earlier run that this one goes on from. total: of all."""
    self._first, self._total = done, total
    if sys.stdout.isatty() and not self._name:
      columns = (rich.progress.BarColumn(), rich.progress.TextColumn("{task.description}"))
      self._bar = rich.progress.Progress(*columns, transient=True)
      self._bar.add_task("compiling", total=total, completed=done)
      self._bar.start()
    elif total > done:
      print(f"{self._name}compiling; {total - done} iterations to go", flush=True)

  def compiled(self, seconds: float, held: str) -> None:
    """Before the first call; its time and the calls' times have nothing in common.

    held: of each device's memory, in words.
    """
    if self._bar:
      self._bar.update(self._bar.task_ids[0], description="the first iterations")
    else:
      print(f"{self._name}compiled in {seconds:.1f} s; holds {held} on each device", flush=True)

  def show(self, done: int, seconds: float, loss: float) -> None:
    """After a call. done: iterations so far. seconds: of this call. loss: of its last iteration."""
    self._seconds += seconds
    pace = self._seconds / (done - self._first)
    left = duration(pace * (self._total - done))
    line = f"iteration {done} of {self._total}, loss {loss:.3g}, {pace:.3g} s each, {left} left"
    if self._bar:
      self._bar.update(self._bar.task_ids[0], completed=done, description=line)
    else:
      print(f"{self._name}{line}", flush=True)


def gigabytes(size: float) -> str:
  """2.5 GB. size: in bytes."""
  return f"{size / 1e9:.3g} GB"


def duration(seconds: float) -> str:
  """1:05 (minutes) or 2:03:04 (hours)."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
