import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from imx2mx_jax import terminal

SHOW = """
from imx2mx_jax.terminal import Iterations
with Iterations() as iterations:
  iterations.begin(10, 40)
  iterations.show(20, 30.0, 0.5)
"""
WAIT = """
import hashlib
from imx2mx_jax.terminal import Stop
with Stop() as stop:
  print("ready", flush=True)
  hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes in C, as a compilation
"""


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_remembered_and_decides_the_exit_code(number, code, capsys):
  before = signal.getsignal(number)
  with terminal.Stop() as stop:
    os.kill(os.getpid(), number)
    while not stop.heard:
      time.sleep(0.01)
    assert stop.exit_code == 0
    stop.obeyed = True
  assert stop.exit_code == code
  assert signal.getsignal(number) is before
  assert "stopping" in capsys.readouterr().out


def test_the_second_signal_ends_a_process_that_is_busy():
  process = subprocess.Popen([sys.executable, "-c", WAIT], stdout=subprocess.PIPE, text=True)
  with process:
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "\n"
    assert "stopping" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130


def test_a_log_gets_a_line_with_the_time_left():
  shown = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True)
  assert shown.stdout.splitlines() == [
    "compiling; 30 iterations to go",
    "iteration 20 of 40, loss 0.5, 3 s each, 1:00 left",
  ]


def test_a_terminal_gets_a_bar_that_goes_away():
  ours, theirs = pty.openpty()
  environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
  subprocess.run([sys.executable, "-c", SHOW], stdout=theirs, env=environment, check=True)
  shown = os.read(ours, 100_000).decode()
  os.close(ours)
  os.close(theirs)
  assert "1:00 left" in shown
  assert shown.rstrip().endswith("\x1b[2K")  # the last thing is an erased line


@pytest.mark.parametrize(
  "seconds, text",
  [(0, "0:00"), (5, "0:05"), (65.4, "1:05"), (3599.6, "1:00:00"), (7384, "2:03:04")],
)
def test_durations_read_as_on_a_clock(seconds, text):
  assert terminal.duration(seconds) == text
