"""One piece of work at a time, the others in a row behind it: knows nothing of edits or pages."""

import dataclasses
import enum
import errno
import signal
import threading
import traceback
from collections.abc import Callable
from typing import Any

from imx2mx_jax import terminal
from imx2mx_jax.errors import UserError
from imx2mx_jax.shapes import np


class Status(enum.Enum):
  """What has become of a job."""

  WAITING = "waiting"
  RUNNING = "running"
  DONE = "done"
  STOPPED = "stopped"
  FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class Shown:
  """What a page shows of a job at one moment.

  line: how far it is, in words. share: the same from 0 to 1, None where it cannot be said.
  pictures: the views as they are now, uint8; replaced as a whole when there are new ones.
  """

  line: str = ""
  share: float | None = None
  pictures: tuple[np.ndarray, ...] = ()


class Job:
  """A piece of work and what has become of it.

  key: what it writes; no two jobs with the same key are in the row at once. work: is given the job,
  shows what it does by `show`, ends early once `stop.heard`, and then sets `stop.obeyed`. result:
  what it gave. error: a sentence, where it failed.
  """

  def __init__(self, key: str, work: Callable[["Job"], Any]):
    self.key = key
    self.work = work
    self.stop = terminal.Stop()
    self.status = Status.WAITING
    self.shown = Shown()
    self.result: Any = None
    self.error = ""

  @property
  def over(self) -> bool:
    """Whether nothing more will happen."""
    return self.status not in (Status.WAITING, Status.RUNNING)

  def show(self, **changes: Any) -> None:
    """Replaces fields of what is shown."""
    self.shown = dataclasses.replace(self.shown, **changes)


class Worker:
  """A thread that does the jobs in the order in which they came."""

  def __init__(self):
    self._row: list[Job] = []  # the first one is running
    self._changed = threading.Condition()
    self._closed = False
    self._thread = threading.Thread(target=self._run, daemon=True)
    self._thread.start()

  def submit(self, key: str, work: Callable[[Job], Any]) -> Job:
    """Puts a job at the end of the row, or gives the one that has this key and is in it already."""
    with self._changed:
      for job in self._row:
        if job.key == key and not job.stop.heard:
          return job
      job = Job(key, work)
      self._row.append(job)
      self._changed.notify_all()
      return job

  def find(self, key: str) -> Job | None:
    """The job with this key that is in the row, the last one."""
    with self._changed:
      return next((job for job in reversed(self._row) if job.key == key), None)

  def before(self, job: Job) -> int:
    """How many jobs come before this one; 0 when it runs, or is over."""
    with self._changed:
      return self._row.index(job) if job in self._row else 0

  def cancel(self, job: Job) -> None:
    """Takes a waiting job out of the row; has a running one stop as Ctrl-C would."""
    with self._changed:
      if job.status is Status.RUNNING:
        job.stop.heard = signal.SIGINT
      elif job.status is Status.WAITING:
        self._row.remove(job)
        job.status = Status.STOPPED

  def close(self) -> None:
    """Cancels all jobs and waits until the running one has saved what it goes on from."""
    with self._changed:
      self._closed = True
      row = list(self._row)
      self._changed.notify_all()
    for job in reversed(row):
      self.cancel(job)
    self._thread.join()

  def _run(self) -> None:
    while job := self._next():
      _do(job)
      with self._changed:
        self._row.remove(job)

  def _next(self) -> Job | None:
    with self._changed:
      self._changed.wait_for(lambda: self._row or self._closed)
      if self._closed:
        return None
      self._row[0].status = Status.RUNNING
      return self._row[0]


def _do(job: Job) -> None:
  """Does one job; whatever happens in it, the next one can begin."""
  try:
    job.result = job.work(job)
    job.status = Status.STOPPED if job.stop.obeyed else Status.DONE
  except Exception as error:
    job.error = _sentence(error)
    job.status = Status.FAILED


def _sentence(error: Exception) -> str:
  if isinstance(error, UserError):
    return str(error)
  if isinstance(error, OSError) and error.errno == errno.ENOSPC:
    return f"the disk is full ({error.filename}); free some space"
  traceback.print_exception(error)
  return f"the program has a mistake ({type(error).__name__}: {error}); its terminal says where"
