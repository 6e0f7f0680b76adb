"""One piece of work at a time, whatever happens in one."""

import errno
import threading

import pytest

from imx2mx_jax.app import words
from imx2mx_jax.app.worker import Status, Worker
from imx2mx_jax.errors import SceneError

PATIENCE = 10  # seconds


@pytest.fixture
def worker():
  worker = Worker()
  yield worker
  worker.close()


class Gate:
  """Work that begins, shows that it has, and ends when it is let through or is stopped."""

  def __init__(self):
    self.begun, self.opened = threading.Event(), threading.Event()

  def __call__(self, job):
    self.begun.set()
    job.show(line="at the gate", share=0.5)
    while not self.opened.wait(0.01):
      if job.stop.heard:
        job.stop.obeyed = True
        return "half"
    return "whole"


def ended(job):
  waiter = threading.Event()
  for _ in range(PATIENCE * 100):
    if job.over:
      return job
    waiter.wait(0.01)
  raise AssertionError(job.status)


def test_jobs_are_done_one_after_another_in_their_order(worker):
  order, gate = [], Gate()
  first = worker.submit("a", gate)
  others = [worker.submit(name, lambda job: order.append(job.key)) for name in "bc"]
  assert gate.begun.wait(PATIENCE)
  assert first.status is Status.RUNNING and order == []
  assert [worker.before(job) for job in (first, *others)] == [0, 1, 2]
  assert words.line(others[0], 1) == "waiting: 1 job comes before this one"
  assert words.line(others[1], 2) == "waiting: 2 jobs come before this one"
  gate.opened.set()
  assert ended(others[1]).status is Status.DONE
  assert (first.result, order) == ("whole", ["b", "c"])


def test_the_same_work_is_not_put_in_the_row_twice(worker):
  gate = Gate()
  first = worker.submit("a", gate)
  assert worker.submit("a", gate) is first is worker.find("a") and worker.find("b") is None
  gate.opened.set()
  ended(first)
  assert worker.submit("a", gate) is not first


def test_a_running_job_stops_where_it_can_go_on(worker):
  gate = Gate()
  job = worker.submit("a", gate)
  assert gate.begun.wait(PATIENCE)
  worker.cancel(job)
  assert ended(job).status is Status.STOPPED and job.result == "half"
  assert words.line(job, 0).endswith("the same button goes on from here")


def test_work_asked_for_again_while_it_stops_comes_after_it(worker):
  stopping = threading.Event()
  job = worker.submit("a", lambda job: stopping.wait(PATIENCE))
  while job.status is not Status.RUNNING:
    pass
  worker.cancel(job)
  again = worker.submit("a", lambda job: "again")
  assert again is not job and worker.before(again) == 1
  stopping.set()
  assert ended(again).result == "again"


def test_a_waiting_job_that_is_cancelled_never_begins(worker):
  gate, begun = Gate(), []
  first, second = worker.submit("a", gate), worker.submit("b", begun.append)
  worker.cancel(second)
  assert second.status is Status.STOPPED and words.line(second, 0).startswith("taken out")
  gate.opened.set()
  ended(first)
  assert ended(worker.submit("c", lambda job: 1)).result == 1 and begun == []


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
  "error, said",
  [
    (SceneError("a.png: is not a picture"), "a.png: is not a picture"),
    (OSError(errno.ENOSPC, "", "/x"), "the disk is full (/x); free some space"),
    (ZeroDivisionError("0"), "the program has a mistake (ZeroDivisionError: 0); its terminal"),
  ],
)
def test_what_fails_is_told_in_a_sentence_and_the_next_job_begins(worker, error, said, capsys):
  def failing(job):
    raise error

  job = ended(worker.submit("a", failing))
  assert job.status is Status.FAILED and job.error.startswith(said)
  assert ("Traceback" in capsys.readouterr().err) == isinstance(error, ZeroDivisionError)
  assert ended(worker.submit("b", lambda job: "next")).result == "next"


def test_a_job_that_is_just_over_is_cancelled_without_effect(worker):
  job, gate = ended(worker.submit("a", lambda job: None)), Gate()
  running = worker.submit("b", gate)
  gate.begun.wait(PATIENCE)
  worker._row.append(job)  # as between its end and its leaving the row
  worker.cancel(job)
  assert worker._row.pop() is job and job.status is Status.DONE
  gate.opened.set()
  assert ended(running).result == "whole"


def test_closing_stops_the_running_job_and_drops_the_others():
  worker, gate, begun = Worker(), Gate(), []
  first, second = worker.submit("a", gate), worker.submit("b", begun.append)
  assert gate.begun.wait(PATIENCE)
  worker.close()
  assert (first.status, second.status, begun) == (Status.STOPPED, Status.STOPPED, [])


def test_the_page_shows_text_as_text(worker):
  def failing(job):
    raise SceneError("<script>alert(1)</script>: is no picture")

  told = words.of_job(ended(worker.submit("a", failing)), 0)
  assert "<script>" not in told and "&lt;script&gt;" in told and 'role="alert"' in told


def test_a_bar_shows_the_share_only_while_something_goes_on():
  assert 'aria-valuenow="50"' in words.status("half", 0.5, busy=True)
  assert "moving" in words.status("compiling", None, busy=True)
  assert "bar" not in words.status("done")
