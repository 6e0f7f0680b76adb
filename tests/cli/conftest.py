"""One finished edit, made once; what was compiled for it serves the other processes."""

import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
import time

import pytest

from tests import tiny
from tests.cli import support


@dataclasses.dataclass(frozen=True)
class Finished:
  """A run that nothing disturbed: its folder, what it printed, seconds to the first line."""

  folder: pathlib.Path
  lines: list[str]
  seconds_to_first_line: float


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> pathlib.Path:
  """A folder that all of pytest-xdist's workers have in common."""
  base = tmp_path_factory.getbasetemp()
  return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def cache(shared) -> pathlib.Path:
  folder = shared / "cache"
  folder.mkdir(exist_ok=True)
  return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, str]:
  """The settings that name models which compile sooner than the bundled ones."""
  return tiny.models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def finished(shared, cache) -> Finished:
  """Made by the worker that asks first, while others that ask wait."""
  folder, told = shared / "finished" / "runs" / "edit", shared / "finished.json"
  with (shared / "finished.lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not told.exists():
      shutil.rmtree(folder, ignore_errors=True)  # of an attempt that failed
      told.write_text(json.dumps(_run(cache, folder)))
  return Finished(folder, *json.loads(told.read_text()))


def _run(cache, folder) -> tuple[list[str], float]:
  """What it printed, and the seconds to the first line."""
  began = time.monotonic()
  with support.started(cache, folder) as process:
    first = process.stdout.readline()
    seconds = time.monotonic() - began
    rest, error = process.communicate()
    assert (process.returncode, error) == (0, "")
  return [first.rstrip(), *rest.splitlines()], seconds
