"""What a program that a TPU's compiler has optimised moves: in its memory, and between chips.

XLA's own analysis counts an array wherever it lies, and as if it had no padding. A TPU's compiler
keeps most of them in memories of the chip, which it writes as S(1) or another S into their layouts,
pads what lies in the large memory to tiles, and carries on one transfer in several fusions, a
chain, so that it runs beside them. This is counted here. A fusion that reads a part of an array is
charged all of it. Of a loop one round is counted.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_NAME = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
_KIND = re.compile(r"\s*([\w\-]+)\((.*)")
_ARRAY = re.compile(r"\b(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_TILE = re.compile(r"T\((?:(\d+),)?(\d+)\)")
_REFERENCE = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"calls=%?([\w.\-]+)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_CHAIN = re.compile(r'chain_id="(\d+)"')
_ALIASING = re.compile(r"output_to_operand_aliasing=\{(.*?)\}, ")
_ALIAS = re.compile(r"\{(\d*)\}: \((\d+)")

_NOTHING = {
  *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"),
  *("opt-barrier", "after-all", "add-dependency", "partition-id", "iota"),
  *("async-start", "async-update", "async-done"),  # what they call is counted
}
_COLLECTIVES = {"all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"}
_BITS = {
  **dict.fromkeys(("s64", "u64", "f64", "c64"), 64),
  **dict.fromkeys(("s32", "u32", "f32"), 32),
  **dict.fromkeys(("s16", "u16", "f16", "bf16"), 16),
  **dict.fromkeys(("s8", "u8", "pred", "f8e4m3fn", "f8e5m2"), 8),
  "token": 0,
}


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
    return _REFERENCE.findall(self.rest.partition("), ")[0])

  @property
  def transfer(self) -> str:
    """The collective that it is, "" for none."""
    kind = self.kind.removesuffix("-start")
    return kind if kind in _COLLECTIVES else ""


@dataclasses.dataclass(frozen=True)
class Sent:
  """Bytes that a chip sends. beside: of transfers that run beside computation. alone: of others."""

  beside: float
  alone: float


def instructions(text: str) -> Iterator[Instruction]:
  """All lines of all computations. Raises ValueError for a line that is none."""
  computation = ""
  for line in text.splitlines():
    if found := _COMPUTATION.match(line):
      computation = found[1]
    elif found := _NAME.match(line):
      end = _end_of_type(line, found.end())
      called = _KIND.match(line, end)
      if not called:
        raise ValueError(f"not an instruction: {line[:200]}")
      yield Instruction(computation, found[1], line[found.end() : end], *called.groups())


def moved_bytes(lines: Sequence[Instruction]) -> int:
  """That a chip reads from its large memory and writes to it.

  Of what is not inside a fusion: operands and results that lie there. A slice reads no more than it
  gives; what a fusion hands through is not moved.
  """
  types = {(line.computation, line.name): line.type for line in lines}
  fused = {name for line in lines if line.kind == "fusion" for name in _CALLED.findall(line.rest)}
  total = 0
  for line in lines:
    if line.computation in fused or line.kind in _NOTHING or line.kind.endswith("-done"):
      continue
    through = _handed_through(line)
    read = [
      _in_memory(types.get((line.computation, name), ""))
      for place, name in enumerate(line.operands)
      if place not in through.values()
    ]
    if "slice" in line.kind and "update" not in line.kind:
      read = [min(max(read, default=0), _size(line.type))]
    given = _in_memory(line.type, without=through.keys())
    if line.kind.endswith("-start"):  # a pair of operand and result
      given = max(0, given - sum(read))
    total += sum(read) + given
  return total


def sent(lines: Sequence[Instruction], chips: int) -> Sent:
  """Of all transfers between so many chips, each once."""
  chains: dict[tuple, list[Instruction]] = collections.defaultdict(list)
  for line in lines:
    if line.transfer:
      chain, channel = _CHAIN.findall(line.rest), _CHANNEL.findall(line.rest)
      chains[(*channel, *chain) if chain else (line.computation, line.name)].append(line)
  beside = alone = 0.0
  for first, *others in chains.values():
    size = _sent_by(first, chips)
    if others or first.kind.endswith("-start"):
      beside += size
    else:
      alone += size
  return Sent(beside, alone)


def _sent_by(line: Instruction, chips: int) -> float:
  """Of a ring's algorithms. A sum is sent as parts and then as a whole, unless parts are wanted."""
  sizes = [_bytes(dtype, shape) for dtype, shape, _ in _ARRAY.findall(line.type)]
  size = max(sizes) if line.kind.endswith("-start") else sum(sizes)
  if line.transfer == "collective-permute":
    return size
  scattered = line.computation.startswith("all-reduce-scatter")
  factor = {"all-reduce": 1 if scattered else 2, "reduce-scatter": chips}.get(line.transfer, 1)
  return factor * size * (chips - 1) / chips


def _end_of_type(line: str, start: int) -> int:
  """Where a type ends: a tuple at its parenthesis, an array at the space behind it."""
  if line[start] != "(":
    return line.index(" ", start)
  depth = 0
  for place in range(start, len(line)):
    depth += (line[place] == "(") - (line[place] == ")")
    if depth == 0:
      return place + 1
  raise ValueError(f"not an instruction: {line[:200]}")


def _handed_through(line: Instruction) -> dict[int, int]:
  """{place in the result: operand that it is}, of a fusion that carries on a chain."""
  found = _ALIASING.search(line.rest)
  pairs = _ALIAS.findall(found[1]) if found else []
  return {int(place or 0): int(operand) for place, operand in pairs}


def _size(type: str) -> int:
  return sum(_bytes(dtype, shape) for dtype, shape, _ in _ARRAY.findall(type))


def _in_memory(type: str, without=()) -> int:
  """Bytes of a type's arrays that lie in no memory of the chip, with what their tiles add."""
  arrays = enumerate(_ARRAY.findall(type))
  return sum(_padded(*array) for i, array in arrays if i not in without and "S(" not in array[2])


def _bytes(dtype: str, shape: str) -> int:
  return _BITS[dtype] * math.prod(int(side) for side in shape.split(",") if side) // 8


def _padded(dtype: str, shape: str, layout: str) -> int:
  """Tiles cover the two axes that change fastest, which the layout names first."""
  sides = [int(side) for side in shape.split(",") if side]
  tile = _TILE.search(layout)
  if not tile or not sides:
    return _bytes(dtype, shape)
  order = [int(axis) for axis in layout.partition(":")[0].split(",")]
  for axis, unit in zip(order, [int(tile[2]), int(tile[1] or 1)], strict=False):
    sides[axis] = -(-sides[axis] // unit) * unit
  return _BITS[dtype] * math.prod(sides) // 8
