"""A list of edits: a JSON file with one edit a line, read whole and checked before the first.

    {"scene": "data/bear", "instruction": "make it a panda"}
    {"scene": "data/bear", "instruction": "make it a panda", "overrides": {"seed": 7}}

scene and instruction are scene.path and instruction of the settings; overrides holds any other
fields by their whole names. Empty lines count, but say nothing.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from imx2mx_jax import config, remote
from imx2mx_jax.config import RunConfig
from imx2mx_jax.errors import JobsError, RemoteError, UserError

_DECIDED = ("run_dir", "preview", "scene.path", "instruction")  # not by a line's overrides


@dataclasses.dataclass(frozen=True)
class Job:
  """One edit of the list. line: its number in the file, from 1. name: its folder's."""

  line: int
  name: str
  run: RunConfig


def read(
  file: epath.Path,
  base: Sequence[str],
  out: epath.Path,
  platform: str,
  check: Callable[[RunConfig], None],
) -> list[Job]:
  """The edits of a jobs file.

  base: the command line whose settings the lines change. out: the folder above the run folders.
  platform: as for config.resolve. check: raises a UserError for a run that cannot work.
  Raises JobsError, which names every line that is wrong.
  """
  try:
    lines = remote.read_bytes(file).decode().split("\n")  # JSON's texts may hold other separators
  except (OSError, UnicodeDecodeError) as error:
    raise JobsError(f"{file} cannot be read ({error}); give a file with an edit a line") from error
  jobs: dict[str, Job] = {}
  wrong = []
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      job = _job(number, line, base, out, platform)
      if job.name in jobs:
        raise JobsError(f"it is line {jobs[job.name].line} once more; change or delete it")
      check(job.run)
      jobs[job.name] = job
    except RemoteError:
      raise
    except UserError as error:
      wrong.append(f"line {number}: {error}")
  if wrong:
    raise JobsError(f"{file}: nothing was begun\n" + "\n".join(f"  {one}" for one in wrong))
  if not jobs:
    raise JobsError(f"{file} holds no edit; write one a line: {_EXAMPLE}")
  return list(jobs.values())


_EXAMPLE = '{"scene": "data/bear", "instruction": "make it a panda"}'


def _job(number: int, line: str, base: Sequence[str], out: epath.Path, platform: str) -> Job:
  settings = _settings(line)
  fields = [f"--config.{field}={_typed(field, value)}" for field, value in settings.items()]
  tree = config.parse([*base, *fields])
  if tree.preview:
    raise JobsError("--config.preview is for python -m imx2mx_jax.main; leave it out")
  if remote.is_remote(tree.scene.path):
    remote.filesystem(tree.scene.path)  # a sentence where epath has a traceback
  scene = epath.Path(tree.scene.path).resolve().name
  words = re.sub(r"\W+", "-", f"{scene} {tree.instruction}".lower()).strip("-")[:60]
  digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
  name = f"{words}-{digest}"  # the same whatever becomes of the other lines
  tree.run_dir = str(out / name)
  return Job(number, name, config.resolve(tree, platform))


def _settings(line: str) -> dict[str, Any]:
  """{field: value} of a line."""
  try:
    found = json.loads(line, object_pairs_hook=_unique)
    json.dumps(found, ensure_ascii=False).encode()  # which half a character cannot be
  except (ValueError, RecursionError) as error:
    raise JobsError(f"it is not JSON ({error}); write it like {_EXAMPLE}") from None
  if not isinstance(found, dict) or not isinstance(found.get("overrides", {}), dict):
    raise JobsError(f"it must be an object, and so must its overrides, like {_EXAMPLE}")
  if unknown := found.keys() - {"scene", "instruction", "overrides"}:
    raise JobsError(f'{min(unknown)!r} is none of its fields; settings go into "overrides"')
  for name in ("scene", "instruction"):
    if not isinstance(found.get(name), str):
      raise JobsError(f"its {name} is missing or no text; write it like {_EXAMPLE}")
  overrides = found.get("overrides", {})
  for name in overrides:
    if name in _DECIDED:
      raise JobsError(f"{name} is not for its overrides; delete it there")
    if not re.fullmatch(r"[\w.]+", name):
      raise JobsError(f"{name!r} is no setting's name; write it like {_EXAMPLE}")
  return {"scene.path": found["scene"], "instruction": found["instruction"], **overrides}


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    raise ValueError(f"{[name for name, _ in pairs]} has a name twice")
  return found


def _typed(field: str, value: Any) -> str:
  """A value as one types it."""
  if isinstance(value, str):
    return value
  if value is None or isinstance(value, dict):
    raise JobsError(f"the value of {field} must be a text, a number, true or false")
  if isinstance(value, list):
    return ",".join(map(str, value))
  return json.dumps(value)
