"""What the page says of a job, as text and as HTML that holds nothing but escaped text."""

import html

from imx2mx_jax.app.worker import Job, Status


def line(job: Job, before: int) -> str:
  """Where a job is, in a sentence. before: how many jobs come before it."""
  match job.status:
    case Status.WAITING:
      return f"waiting: {before} {'job comes' if before == 1 else 'jobs come'} before this one"
    case Status.RUNNING if job.stop.heard:
      return f"{job.shown.line}; stopping as soon as what is done can be kept"
    case Status.RUNNING:
      return job.shown.line or "beginning"
    case Status.STOPPED if job.stop.obeyed:
      return "stopped, and the state is saved; the same button goes on from here"
    case Status.STOPPED:
      return "taken out of the row; nothing was begun"
    case Status.FAILED:
      return job.error
    case Status.DONE:
      return "done"


def of_job(job: Job, before: int) -> str:
  """The same with a bar, as HTML."""
  failed = job.status is Status.FAILED
  busy = not job.over
  return status(line(job, before), job.shown.share if busy else None, failed=failed, busy=busy)


def status(
  text: str, share: float | None = None, *, failed: bool = False, busy: bool = False
) -> str:
  """A sentence as HTML, above a bar while something goes on. share: from 0 to 1, or unknown."""
  kind = "failed" if failed else "busy" if busy else ""
  bar = ""
  if busy:
    known = "" if share is None else f' aria-valuenow="{100 * share:.0f}"'
    width = 100 if share is None else 100 * share
    moving = " moving" if share is None else ""
    bar = (
      f'<div class="bar{moving}" role="progressbar" aria-valuemin="0" aria-valuemax="100"{known}>'
      f'<span style="width: {width:.1f}%"></span></div>'
    )
  role = "alert" if failed else "status"
  return f'<div class="told {kind}" role="{role}"><p>{html.escape(text)}</p>{bar}</div>'


def code(text: str) -> str:
  """A command to copy, as HTML."""
  return f"<pre class='command'><code>{html.escape(text)}</code></pre>"
