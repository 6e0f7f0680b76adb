"""One finished edit, made once; what was compiled for it serves the other processes."""

import dataclasses
import pathlib
import time

import pytest

from tests.cli import support


@dataclasses.dataclass(frozen=True)
class Finished:
  """A run that nothing disturbed: its folder, what it printed, seconds to the first line."""

  folder: pathlib.Path
  lines: list[str]
  seconds_to_first_line: float


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def finished(tmp_path_factory, cache) -> Finished:
  folder = tmp_path_factory.mktemp("finished") / "runs" / "edit"
  began = time.monotonic()
  with support.started(cache, folder) as process:
    first = process.stdout.readline()
    seconds = time.monotonic() - began
    rest, error = process.communicate()
    assert (process.returncode, error) == (0, "")
  return Finished(folder, [first.rstrip(), *rest.splitlines()], seconds)
