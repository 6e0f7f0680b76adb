"""What a program that a TPU's compiler has optimised moves: in its memory, and between chips.

XLA's own analysis counts an array wherever it lies. A TPU's compiler keeps most of them on the
chip, which it writes as S(1) into their layouts, and divides a transfer among several fusions, all
with one channel's number, so that it runs beside them. These functions count what is left. They
want programs without loops around what matters: of a loop one round is counted.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

_INSTRUCTION = re.compile(
  r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>\((?:[^()]|\([^()]*\))*\)|\S+) "
  r"(?P<kind>[\w\-]+)\((?P<rest>.*)"
)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"calls=%?([\w.\-]+)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_BYTES = {"bf16": 2, "f16": 2, "pred": 1, "s8": 1, "u8": 1}
_NOTHING = {
  "parameter",
  "constant",
  "tuple",
  "get-tuple-element",
  "bitcast",
  "while",
  "conditional",
}
_COLLECTIVES = {"all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"}


@dataclasses.dataclass(frozen=True)
class Instruction:
  """A line of the program. type: of its result, with the layout. rest: operands and attributes."""

  computation: str
  name: str
  type: str
  kind: str
  rest: str

  @property
  def operands(self) -> list[str]:
    """Their names."""
    return _OPERAND.findall(self.rest.partition("), ")[0])


@dataclasses.dataclass(frozen=True)
class Sent:
  """Bytes that a chip sends. beside: of transfers that run beside computation. alone: of others."""

  beside: float
  alone: float


def instructions(text: str) -> Iterator[Instruction]:
  """All lines of all computations."""
  computation = ""
  for line in text.splitlines():
    if found := _COMPUTATION.match(line):
      computation = found[1]
    elif found := _INSTRUCTION.match(line):
      yield Instruction(computation, *found.group("name", "type", "kind", "rest"))


def moved(text: str) -> int:
  """Bytes that a chip reads from its memory and writes to it.

  Of what is not inside a fusion: operands and results that do not lie on the chip. A slice reads no
  more than it gives.
  """
  lines = list(instructions(text))
  types = {(line.computation, line.name): line.type for line in lines}
  fused = {name for line in lines if line.kind == "fusion" for name in _CALLED.findall(line.rest)}
  total = 0
  for line in lines:
    if line.computation in fused or line.kind in _NOTHING or line.kind.endswith("-done"):
      continue
    read = [_in_memory(types.get((line.computation, name), "")) for name in line.operands]
    if "slice" in line.kind and "update" not in line.kind:
      read = [min(max(read, default=0), _size(line.type))]
    given = _in_memory(line.type)
    if line.kind.endswith("-start"):  # a pair of operand and result
      given = max(0, given - sum(read))
    total += sum(read) + given
  return total


def sent(text: str, chips: int) -> Sent:
  """Of all transfers between so many chips, each once. A sum is sent twice, as parts and whole."""
  channels: dict[str, list[Instruction]] = {}
  for line in instructions(text):
    if line.kind.removesuffix("-start") in _COLLECTIVES:
      channel = _CHANNEL.search(line.rest)
      channels.setdefault(channel[1] if channel else line.name, []).append(line)
  beside = alone = 0.0
  for lines in channels.values():
    size = _sent_by(lines[0], chips)
    if len(lines) > 1 or lines[0].kind.endswith("-start"):
      beside += size
    else:
      alone += size
  return Sent(beside, alone)


def _sent_by(line: Instruction, chips: int) -> float:
  kind, sizes = line.kind.removesuffix("-start"), [_bytes(*one) for one in _arrays(line.type)]
  size = max(sizes) if line.kind.endswith("-start") else sum(sizes)
  if kind == "collective-permute":
    return size
  factor = {"all-reduce": 2, "reduce-scatter": chips}.get(kind, 1)  # of the last, a part is known
  return factor * size * (chips - 1) / chips


def _arrays(type: str) -> list[tuple[str, str]]:
  return [(dtype, shape) for dtype, shape, _ in _ARRAY.findall(type)]


def _bytes(dtype: str, shape: str) -> int:
  return _BYTES.get(dtype, 4) * math.prod(int(side) for side in shape.split(",") if side)


def _size(type: str) -> int:
  return sum(_bytes(*one) for one in _arrays(type))


def _in_memory(type: str) -> int:
  """Bytes of a type's arrays that do not lie on the chip, in S(1) or another of its memories."""
  return sum(_bytes(dtype, shape) for dtype, shape, how in _ARRAY.findall(type) if "S(" not in how)
