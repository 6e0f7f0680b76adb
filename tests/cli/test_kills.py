"""A run that is killed again and again, while it saves too, ends as one that nothing disturbed."""

import random
import signal
import time

import pytest

from tests.cli import support
from tests.cli.test_resume import result

KILLS = 20


def killed_after_a_line(process, moments, lines):
  """Kills it up to half a second after one of its lines; a run that has fewer ends by itself."""
  for _ in range(moments.randrange(1, lines)):
    if not process.stdout.readline():
      break
  time.sleep(moments.uniform(0, 0.5))
  process.kill()


def killed_while_saving(process, moments, folder):
  """Kills it while a state is on its way to the disk; a run that saves no more ends by itself."""
  while process.poll() is None:
    if unfinished_states(folder):
      time.sleep(moments.uniform(0, 0.01))
      process.kill()
      return
    time.sleep(0.0005)


def unfinished_states(folder):
  """What lies among the states and is none."""
  state = folder / "state"
  if not state.exists():
    return []
  return [one.name for one in state.iterdir() if one.is_dir() and not one.name.isdigit()]


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_ends_as_one_that_was_not(finished, cache, tmp_path):
  moments, codes, torn = random.Random(1), [], 0
  folder = tmp_path / "0"

  def as_if_undisturbed():
    assert result(folder) == result(finished.folder)
    assert support.journal(folder) == support.journal(finished.folder)
    assert not unfinished_states(folder)

  while codes.count(-signal.SIGKILL) < KILLS:
    with support.started(cache, folder, save_every=1) as process:
      if len(codes) % 2:
        killed_after_a_line(process, moments, len(finished.lines))
      else:
        killed_while_saving(process, moments, folder)
      codes.append(process.wait())
    torn += bool(unfinished_states(folder))
    if (folder / "finished.json").exists():
      as_if_undisturbed()
      folder = tmp_path / str(len(codes))
  assert set(codes) <= {0, -signal.SIGKILL} and torn
  support.ran(cache, folder, save_every=1)
  as_if_undisturbed()
