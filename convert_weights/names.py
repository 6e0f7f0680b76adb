"""Which released tensor becomes which of our parameters: tables, not a program.

A row is (pattern of our path, released name, transform). The pattern is a regular expression that
must match the whole path; the released name may use its groups (`\\1`), in which slashes become
dots. Exactly one row matches each of our parameters. Where checkpoints come in several spellings,
each has a table of its own (a dialect); the dialect that fits the source best is taken.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from imx2mx_jax.errors import UserError

Shape = tuple[int, ...]


class ConversionError(UserError):
  """The source and the network do not fit together; the message lists every reason."""


@dataclasses.dataclass(frozen=True)
class Transform:
  """A change of layout and its inverse; both are views: shapes can be computed without memory.

  third: of a released tensor that holds queries, keys and values one after another along its first
  axis, the one that `released` gives; None: it gives the whole.
  """

  ours: Callable[[np.ndarray], np.ndarray]
  released: Callable[[np.ndarray], np.ndarray]
  third: int | None = None


def _split_linear(third: int) -> Transform:
  return Transform(lambda x: np.split(x, 3, axis=0)[third].T, lambda x: x.T, third)


def _split_bias(third: int) -> Transform:
  return Transform(lambda x: np.split(x, 3, axis=0)[third], lambda x: x, third)


TRANSFORMS = {
  "same": Transform(lambda x: x, lambda x: x),
  "linear": Transform(lambda x: x.T, lambda x: x.T),  # [out, in] -> [in, out]
  "conv": Transform(
    lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
  ),  # OIHW -> HWIO
  "conv1x1_to_linear": Transform(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None]),
  # one released [3 D, ...] tensor holds queries, keys and values
  **{f"split_{n}_linear": _split_linear(i) for i, n in enumerate("qkv")},
  **{f"split_{n}_bias": _split_bias(i) for i, n in enumerate("qkv")},
}


@dataclasses.dataclass(frozen=True)
class Rule:
  """path: pattern of our parameter's path. released: template of the released name."""

  path: str
  released: str
  transform: str = "same"


@dataclasses.dataclass(frozen=True)
class Table:
  """How one network's released names are spelt.

  rules: one row for each kind of parameter. skip: released names that carry nothing for us, as
  patterns, each with its reason in a comment beside it.
  """

  rules: tuple[Rule, ...]
  skip: tuple[str, ...] = ()


def layer(path: str, released: str, transform: str = "linear") -> tuple[Rule, Rule]:
  """The two rows of a layer: kernel and bias."""
  return (
    Rule(f"{path}/kernel", f"{released}.weight", transform),
    Rule(f"{path}/bias", f"{released}.bias"),
  )


def norm(path: str, released: str) -> tuple[Rule, Rule]:
  """The two rows of a normalisation: scale and bias."""
  return Rule(f"{path}/scale", f"{released}.weight"), Rule(f"{path}/bias", f"{released}.bias")


@dataclasses.dataclass(frozen=True)
class Assignment:
  """One parameter's source: `path` (of `shape`) is `transform` of the tensor `released`."""

  path: str
  shape: Shape
  released: str
  released_shape: Shape
  transform: str

  def __call__(self, tensor: np.ndarray) -> np.ndarray:
    """The parameter, from its released tensor."""
    return TRANSFORMS[self.transform].ours(tensor)

  def back(self, parameter: np.ndarray) -> np.ndarray:
    """The released tensor, or the third of it that the parameter fills."""
    return TRANSFORMS[self.transform].released(parameter)

  @property
  def third(self) -> int:
    """How many parameters of its size precede it in its released tensor."""
    return TRANSFORMS[self.transform].third or 0


def assign(path: str, shape: Shape, table: Table) -> Assignment:
  """The released tensor of one of our parameters. Raises where not exactly one row matches."""
  matches = [(rule, found) for rule in table.rules if (found := re.fullmatch(rule.path, path))]
  if len(matches) != 1:
    rows = ", ".join(rule.path for rule, _ in matches) or "none"
    raise ConversionError(f"{path} must match one row of its table; it matches: {rows}")
  rule, found = matches[0]
  transform = TRANSFORMS[rule.transform]
  released_shape = transform.released(np.broadcast_to(np.zeros((), np.int8), shape)).shape
  if transform.third is not None:
    released_shape = (3 * released_shape[0], *released_shape[1:])
  released = found.expand(rule.released).replace("/", ".")
  return Assignment(path, shape, released, released_shape, rule.transform)


def assignments(targets: Mapping[str, Shape], table: Table) -> list[Assignment]:
  """One assignment for each of our parameters {path: shape}."""
  return [assign(path, tuple(shape), table) for path, shape in targets.items()]


def problems(plan: Iterable[Assignment], source: Mapping[str, Shape], table: Table) -> list[str]:
  """What keeps the source {released name: shape} from being this network: one line each."""
  wanted = {row.released: row.released_shape for row in plan}
  missing = [
    f"missing: {name} {list(shape)}" for name, shape in wanted.items() if name not in source
  ]
  misshapen = [
    f"misshapen: {name} is {list(source[name])}, wanted {list(shape)}"
    for name, shape in wanted.items()
    if name in source and tuple(source[name]) != shape
  ]
  unused = [
    f"unused: {name} {list(shape)}"
    for name, shape in source.items()
    if name not in wanted and not any(re.fullmatch(pattern, name) for pattern in table.skip)
  ]
  return missing + misshapen + unused


def plan(
  targets: Mapping[str, Shape], source: Mapping[str, Shape], dialects: Sequence[Table]
) -> list[Assignment]:
  """The assignments that turn the source into our parameters, in the dialect that fits best.

  Strict both ways: raises one ConversionError with every missing, misshapen and unused tensor.
  """
  attempts = []
  for table in dialects:
    rows = assignments(targets, table)
    attempts.append((problems(rows, source, table), rows))
  found, rows = min(attempts, key=lambda attempt: len(attempt[0]))
  if found:
    raise ConversionError("\n".join(found))
  return rows


def convert(
  rows: Iterable[Assignment], read: Callable[[str], np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
  """(path, array) for each assignment, one at a time; `read` gives a released tensor by name."""
  for row in rows:
    yield row.path, row(read(row.released))
