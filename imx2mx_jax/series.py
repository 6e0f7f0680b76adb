"""A list of edits, whatever becomes of one of them, and the table of what became of all.

Each edit has a folder of its own beside the others, with its result or the state to go on from.
What the last attempt at it came to is in records/NAME.json; summary.md and summary.json are made of
all records, so that several processes that share a list write the same table.
"""

import contextlib
import dataclasses
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from imx2mx_jax import remote, run_folder, terminal
from imx2mx_jax.config import RunConfig
from imx2mx_jax.errors import ClaimError, RemoteError, RunFolderError, UserError
from imx2mx_jax.jobs import Job

FINISHED, FAILED, STOPPED, BUSY, WAITING = "finished", "failed", "stopped", "busy", "waiting"

Alike = Callable[[RunConfig], tuple[int, Hashable] | None]
Edits = Callable[[list[RunConfig], list[str], terminal.Stop], Sequence[Iterator[None]]]


@dataclasses.dataclass(frozen=True)
class Record:
  """What an attempt came to. status: finished, failed, stopped, or busy: in another process.

  passing: whether the same attempt may do better later, with nothing mended.
  """

  status: str
  seconds: float = 0.0
  error: str = ""
  passing: bool = False


def share(jobs: Sequence[Job], host: int, hosts: int) -> list[Job]:
  """The jobs of one of several hosts; no two have one in common."""
  return list(jobs[host::hosts])


def groups(jobs: Sequence[Job], alike: Alike) -> list[list[Job]]:
  """The jobs that are worked at together, in the list's order, as many at a time as can be.

  alike: as of session.alike. What is finished takes no place among the others.
  """
  found: list[list[Job]] = []
  filling: dict[Hashable, list[Job]] = {}
  for job in jobs:
    with contextlib.suppress(UserError):  # which the attempt will tell
      together = None if run_folder.finished(job.run) else alike(job.run)
      if together:
        count, kind = together
        if len(filling.get(kind, ())) % count == 0:
          filling[kind] = []
          found.append(filling[kind])
        filling[kind].append(job)
        continue
    found.append([job])
  return found


def run(
  jobs: Sequence[Job],
  mine: Sequence[Sequence[Job]],
  out: epath.Path,
  edits: Edits,
  stop: terminal.Stop,
) -> list[Record]:
  """Works through the groups `mine` and gives what became of each job that was attempted.

  jobs: all of the list, for the table. edits: as of session.edits; an edit that ends because of a
  signal sets `stop.obeyed`. Raises RunFolderError or RemoteError where the table cannot be written
  at the end; before, that stops no edit.
  """
  records = {}
  places = _places(mine)
  for group in mine:
    for job, record in _attempts(group, edits, stop, places):
      told = f": {record.error}" if record.error else f" in {terminal.duration(record.seconds)}"
      print(f"line {job.line} {record.status}{told}", flush=True)
      records[job] = record
      try:
        with _writing(out):
          if _keep(out, job, record):
            write_summary(jobs, out)
      except UserError as error:
        print(error, file=sys.stderr)
  with _writing(out):
    for job, record in records.items():
      _keep(out, job, record)  # what could not be kept before
    written = None
    while written != (now := [_kept(out, job) for job in jobs]):  # as another process ends too
      write_summary(jobs, out)
      written = now
  return [*records.values()]


def _places(mine: Sequence[Sequence[Job]]) -> dict[Job, str]:
  ours = [job for group in mine for job in group]
  return {job: f"{place} of {len(ours)}" for place, job in enumerate(ours, 1)}


def _attempts(
  group: Sequence[Job], edits: Edits, stop: terminal.Stop, places: Mapping[Job, str]
) -> Iterator[tuple[Job, Record]]:
  """Lets each edit of a group go on in turn, until all have ended."""
  works = edits([job.run for job in group], [f"line {job.line}" for job in group], stop)
  going = {
    job: _attempt(job, work, stop, places[job]) for job, work in zip(group, works, strict=True)
  }
  while going:
    for job, attempt in list(going.items()):
      try:
        next(attempt)
      except StopIteration as end:
        del going[job]
        if end.value:
          yield job, end.value


def _attempt(
  job: Job, work: Iterator[None], stop: terminal.Stop, place: str
) -> Generator[None, None, Record | None]:
  """Pauses where the work does. None: it was not begun, because of a signal."""
  if stop.heard:
    stop.obeyed = True
    return None
  print(f"edit {place} (line {job.line}): {job.run.instruction}", flush=True)
  began = time.monotonic()
  passed = lambda: round(time.monotonic() - began, 1)
  try:
    if run_folder.finished(job.run):
      return Record(FINISHED)
    yield from work
    return Record(FINISHED if run_folder.finished(job.run) else STOPPED, passed())
  except ClaimError as error:
    return Record(BUSY, error=str(error), passing=True)
  except RemoteError as error:
    return Record(FAILED, passed(), str(error), passing=True)
  except UserError as error:
    return Record(FAILED, passed(), str(error))
  except Exception as error:  # whatever ends one edit must not end the others
    traceback.print_exc(file=sys.stderr)
    first = str(error).partition("\n")[0]
    return Record(FAILED, passed(), f"{type(error).__name__}: {first}")


# --- what is on disk -------------------------------------------------------------------------


def exit_code(records: Sequence[Record]) -> int:
  """0 where all are finished, terminal.TRY_AGAIN where what is not may be later, else 1."""
  ended = [record for record in records if record.status in (FAILED, BUSY)]
  if any(record.passing for record in ended):
    return terminal.TRY_AGAIN
  return int(bool(ended))


def write_summary(jobs: Sequence[Job], out: epath.Path) -> None:
  """Writes summary.md and summary.json: a row for each job of the list."""
  rows = [{**_row(job), **dataclasses.asdict(_kept(out, job))} for job in jobs]
  counts = {status: sum(row["status"] == status for row in rows) for status in _ORDER}
  told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
  lines = [
    f"{len(rows)} edits: {told}.\n",
    "| line | scene | instruction | status | minutes | |",
    "|---|---|---|---|---|---|",
    *map(_markdown, rows),
  ]
  content = json.dumps({"edits": rows, "counts": counts}, indent=1, ensure_ascii=False)
  _write(out / "summary.json", content + "\n")
  _write(out / "summary.md", "\n".join(lines) + "\n")


_ORDER = (FINISHED, FAILED, STOPPED, WAITING)


def _row(job: Job) -> dict[str, Any]:
  run = job.run
  return {
    "line": job.line,
    "scene": run.scene.path,
    "instruction": run.instruction,
    "folder": job.name,
  }


def _markdown(row: dict[str, Any]) -> str:
  cell = lambda text: " ".join(str(text).split()).replace("|", "\\|")
  shown = f"[result]({row['folder']}/grid.png)" if row["status"] == FINISHED else row["error"]
  minutes = f"{row['seconds'] / 60:.1f}" if row["seconds"] else ""
  cells = (row["line"], row["scene"], row["instruction"], row["status"], minutes, shown)
  return f"| {' | '.join(map(cell, cells))} |"


def _kept(out: epath.Path, job: Job) -> Record:
  file = out / "records" / f"{job.name}.json"
  try:
    return Record(**json.loads(file.read_text()))
  except (FileNotFoundError, ValueError, TypeError):  # none, or not what `_keep` writes
    return Record(WAITING)


def _keep(out: epath.Path, job: Job, record: Record) -> bool:
  """Whether there was anything new. What was finished before keeps the time that it took."""
  before = _kept(out, job)
  if record in (before, Record(FINISHED)) and before.status == record.status:
    return False
  if record.status == BUSY:  # another process keeps its own
    return False
  _write(out / "records" / f"{job.name}.json", json.dumps(dataclasses.asdict(record)) + "\n")
  return True


def _write(file: epath.Path, content: str) -> None:
  """Whole or not at all; several processes may write the same file."""
  if remote.is_remote(file):  # where nothing is ever half there
    file.write_text(content)
    return
  file.parent.mkdir(parents=True, exist_ok=True)
  temporary = file.with_name(f".{file.name}.{os.uname().nodename}.{os.getpid()}.tmp")
  temporary.write_text(content)
  temporary.replace(file)


@contextlib.contextmanager
def _writing(out: epath.Path) -> Iterator[None]:
  try:
    with remote.reaching(out):
      yield
  except OSError as error:
    raise RunFolderError(
      f"{out} cannot be written ({error.strerror}); mend that, then the same command goes on"
    ) from error
