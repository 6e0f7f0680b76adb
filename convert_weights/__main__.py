r"""Converts released PyTorch weights into folders that imx2mx_jax reads, and back.

    python -m convert_weights --model=teacher --src=timbrooks/instruct-pix2pix --dst=weights/teacher
    python -m convert_weights --to=torch --model=student --src=runs/day --dst=weights/torch/student

--src is a local folder, a .safetensors file, or a repository on the Hugging Face hub. --explain
shows which tensor becomes which parameter, and where the released weights are. With --to=torch,
--src is a converted folder, or the folder of a run or a training that keeps one.
"""

import os
import pathlib
import signal
import sys

import jax
from absl import app, flags, logging

from convert_weights import disk, export, reader, sources, verify, writer
from imx2mx_jax.errors import ConfigError, UserError
from imx2mx_jax.weights import FORMATS, KINDS

_TO = flags.DEFINE_enum("to", "jax", ["jax", "torch"], "Whose layout to write.")
_MODEL = flags.DEFINE_enum("model", None, list(KINDS), "What to convert.", required=True)
_SRC = flags.DEFINE_string("src", None, "Released weights: a folder, a file or a hub id.")
_DST = flags.DEFINE_string("dst", None, "The folder to write.")
_REVISION = flags.DEFINE_string("revision", None, "A hub id's branch, tag or commit.")
_FORCE = flags.DEFINE_bool("force", False, "Replace a folder that is converted already.")
_VERIFY = flags.DEFINE_bool("verify", False, "Compare --dst with --src, bit for bit, and stop.")
_EXPLAIN = flags.DEFINE_bool("explain", False, "Print the map without converting; needs no --src.")
_DTYPE = flags.DEFINE_enum(
  "dtype", "float32", [*disk.STORED, disk.AS_SOURCE], "How numbers are stored."
)
_FORMAT = flags.DEFINE_enum("format", "orbax", FORMATS, "How arrays are stored.")
_LICENCE = flags.DEFINE_string("licence", "", "The licence, for weights of your own.")
_NOTICE = flags.DEFINE_string("notice", "", "Whom to name, for weights of your own.")
_TO_JAX_ONLY = (_REVISION, _FORCE, _VERIFY, _EXPLAIN, _FORMAT, _LICENCE, _NOTICE)


def main(argv: list[str]) -> int:
  """Runs one command; returns the exit code."""
  logging.set_verbosity(logging.WARNING)  # or every request to the hub is a line
  try:
    if len(argv) > 1:
      raise ConfigError(f"{argv[1]!r} belongs to no flag; write --flag=value")
    _run(_MODEL.value)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  except KeyboardInterrupt as interrupt:
    print("interrupted; nothing was written", file=sys.stderr)
    return 128 + interrupt.args[0]
  return 0


def _run(kind: str) -> None:
  if _TO.value == "torch":
    _export(kind)
    return
  if _EXPLAIN.value:
    _explain(kind)
    return
  src, dst = _required("src", _SRC.value), _path("dst", _DST.value)
  if not _VERIFY.value:
    writer.check_destination(dst, _FORCE.value)
  model = reader.open_model(kind, src, _REVISION.value)
  for remark in model.remarks:
    print(remark)
  if _VERIFY.value:
    equal, rounded = verify.verify(model, dst)
    note = f" ({rounded:,} of them rounded when they were stored)" if rounded else ""
    print(f"{dst} equals {model.source} bit for bit: {equal:,} numbers{note}")
    return
  options = writer.Options(_DTYPE.value, _FORMAT.value, _LICENCE.value, _NOTICE.value)
  writer.write(model, dst, options)
  print(f"{model.source} is converted; use it as\n{dst}")


def _export(kind: str) -> None:
  for flag in _TO_JAX_ONLY:
    if flag.present:
      raise ConfigError(f"--{flag.name} has no meaning with --to=torch; leave it out")
  src, dst = _path("src", _SRC.value), _path("dst", _DST.value)
  export.export(kind, src, dst, _DTYPE.value)
  print(f"{src} is written for PyTorch; it lies in\n{dst}")


def _explain(kind: str) -> None:
  lines = []
  for source in (row for row in sources.SOURCES if row.kind == kind):
    where = ", ".join((f"{source.hub}{' (withdrawn)' * source.gone}", *source.mirrors))
    lines.append(f"{source.name}: {where}; {source.licence}, {source.licence_url}")
  for name, rows in reader.explain(kind, _SRC.value, _REVISION.value).items():
    lines.append(f"\n{name}: {len(rows)} arrays; ours <- change of layout, released")
    lines += [
      f"{row.path} {list(row.shape)} <- {row.transform} {row.released} {list(row.released_shape)}"
      for row in rows
    ]
  try:
    print("\n".join(lines), flush=True)
  except BrokenPipeError:  # `| head` has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _required(flag: str, value: str | None) -> str:
  if not value:
    raise ConfigError(f"--{flag} is missing; see python -m convert_weights --help")
  return value


def _path(flag: str, value: str | None) -> pathlib.Path:
  return pathlib.Path(_required(flag, value)).expanduser()


def _interrupt(number: int, _) -> None:
  raise KeyboardInterrupt(number)


if __name__ == "__main__":
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, _interrupt)
  jax.config.update("jax_platforms", "cpu")  # an accelerator's memory is of no use here
  app.run(main)
