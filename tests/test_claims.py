"""A folder has one process at a time, whatever became of the one before."""

import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from imx2mx_jax import claims
from imx2mx_jax.errors import ClaimError

HOLD = """
import sys
from imx2mx_jax import claims
with claims.claimed(sys.argv[1]):
  print("held", flush=True)
  sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path):
  return tmp_path


def leave(folder, number=0, **changes):
  """The claim of a process that was killed, or of another one as `changes` say."""
  ended = subprocess.Popen([sys.executable, "-c", ""])
  ended.wait()
  claim = {"host": socket.gethostname(), "pid": ended.pid, "began": 0.0} | changes
  file = folder / f".claim.{number}"
  file.write_text(json.dumps(claim))
  return file


def age(file, seconds):
  then = file.stat().st_mtime - seconds
  os.utime(file, (then, then))


def test_a_folder_has_one_process_at_a_time(folder):
  holding = [sys.executable, "-c", HOLD, folder]
  with subprocess.Popen(holding, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(ClaimError, match=f"process {holder.pid} on {socket.gethostname()}"):
      claims.claimed(folder).__enter__()
    holder.stdin.close()
  assert holder.returncode == 0
  with claims.claimed(folder):
    pass
  assert not list(folder.iterdir())


def test_a_killed_process_leaves_its_folder_to_the_next(folder):
  holding = [sys.executable, "-c", HOLD, folder]
  with subprocess.Popen(holding, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
    assert holder.stdout.readline() == b"held\n"
    holder.kill()
  with claims.claimed(folder):
    assert [entry.name for entry in folder.iterdir()] == [".claim.1"]
  assert not list(folder.iterdir())


def test_a_process_number_that_is_used_again_holds_nothing(folder):
  leave(folder, pid=os.getpid())
  with claims.claimed(folder):
    pass


def test_a_process_elsewhere_holds_its_folder_while_it_gives_signs_of_life(folder):
  file = leave(folder, host="elsewhere")
  with pytest.raises(ClaimError, match="on elsewhere"):
    claims.claimed(folder).__enter__()
  age(file, 601)
  with claims.claimed(folder):
    pass


def test_a_claim_that_was_cut_off_is_waited_for_and_then_taken_over(folder):
  file = leave(folder)
  file.write_text('{"host": ')
  with pytest.raises(ClaimError):
    claims.claimed(folder).__enter__()
  age(file, 601)
  with claims.claimed(folder):
    pass


def test_a_holder_gives_signs_of_life(folder, monkeypatch):
  monkeypatch.setattr(claims, "_BEAT", 0.01)
  with claims.claimed(folder):
    (file,) = folder.iterdir()
    age(file, 1000)
    before = file.stat().st_mtime
    for _ in range(500):
      if file.stat().st_mtime > before:
        break
      threading.Event().wait(0.01)
    assert file.stat().st_mtime > before


def test_of_many_that_take_over_at_once_one_does(folder):
  leave(folder)
  start, end, taken = threading.Barrier(8), threading.Barrier(9), []

  def take():
    start.wait()
    try:
      with claims.claimed(folder):
        taken.append(1)
        end.wait()
    except ClaimError:
      end.wait()

  threads = [threading.Thread(target=take) for _ in range(8)]
  for thread in threads:
    thread.start()
  end.wait()
  for thread in threads:
    thread.join()
  assert taken == [1]
