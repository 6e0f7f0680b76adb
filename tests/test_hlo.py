"""What is counted of a TPU's program is what one counts by hand."""

import pytest

from benchmarks import hlo

PROGRAM = """HloModule step

%async_collective_fusion.1 (p: bf16[8,16]) -> bf16[8,16] {
  %p = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %all-gather.1 = bf16[64,16]{1,0} all-gather(%p), channel_id=3, frontend_attributes={chain_id="7"}
  ROOT %r = bf16[8,16]{1,0} negate(%p)
}

%async_collective_fusion.2 (q: bf16[8,16]) -> bf16[8,16] {
  %q = bf16[8,16]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[64,16]{1,0} all-gather(%q), channel_id=3, frontend_attributes={chain_id="7"}
}

%all-reduce-scatter.3 (q: f32[80]) -> f32[10] {
  %q = f32[80]{0} parameter(0)
  %sum = f32[80]{0} all-reduce(%q), channel_id=1, to_apply=%add
  ROOT %part = f32[10]{0} dynamic-slice(%sum), dynamic_slice_sizes={10}
}

%async_computation.4 (p: f32[100,10]) -> f32[10,10] {
  %p = f32[100,10]{1,0:T(8,128)} parameter(0)
  ROOT %part = f32[10,10]{1,0:T(8,128)S(1)} slice(%p), slice={[0:10], [0:10]}
}

ENTRY %main (a: f32[100,10], b: bf16[8,16]) -> f32[100,10] {
  %a = f32[100,10]{1,0:T(8,128)} parameter(0)
  %b = bf16[8,16]{1,0} parameter(1)
  %one = (bf16[8,16]{1,0:T(8,128)(2,1)S(1)}, bf16[8,16]{1,0}) fusion(%b), kind=kLoop, output_to_operand_aliasing={{1}: (0, {})}, calls=%async_collective_fusion.1
  %on = bf16[8,16]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%one), index=0
  %two = bf16[8,16]{1,0:T(8,128)(2,1)} fusion(%on), kind=kLoop, calls=%async_collective_fusion.2
  %three = f32[10]{0:S(1)} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.3
  %part = ((f32[100,10]{1,0:T(8,128)}), f32[10,10]{1,0:T(8,128)S(1)}, u32[]{:S(2)}) async-start(%a), calls=%async_computation.4
  %half = f32[10,10]{1,0:T(8,128)S(1)} async-done(%part)
  %out = (f32[100,10]{1,0:S(1)}, f32[100,10]{1,0}, u32[]{:S(2)}) copy-start(%a)
  %copy = f32[100,10]{1,0:S(1)} copy-done(%out)
  %sum = f32[100,10]{1,0:S(1)} all-reduce(%copy), channel_id=1, to_apply=%add
  %both = (f32[10]{0:S(1)}, f32[20]{0:S(1)}) all-reduce(%three, %half), channel_id=1, to_apply=%add
  %sent = (f32[10]{0:S(1)}, f32[10]{0:S(1)}, u32[]{:S(2)}) collective-permute-start(%three), channel_id=1
  ROOT %result = f32[100,10]{1,0} add(%sum, %copy)
}
"""  # noqa: E501
LINES = list(hlo.instructions(PROGRAM))


def test_what_stays_on_the_chip_or_is_handed_through_is_not_moved():
  tiled, part, whole = 104 * 128 * 4, 10 * 10 * 4, 100 * 10 * 4  # of a, of its slice, untiled
  second = 8 * 128 * 2  # the first fusion's operand goes through it, its result stays
  assert hlo.moved_bytes(LINES) == second + tiled + part + tiled + whole


def test_a_transfer_that_fusions_carry_on_is_one_and_runs_beside_them():
  found = hlo.sent(LINES, chips=8)
  assert found.beside == 64 * 16 * 2 * 7 / 8 + 10 * 4


def test_a_sum_is_sent_as_parts_and_whole_unless_parts_are_wanted():
  found = hlo.sent(LINES, chips=8)
  assert found.alone == (80 * 4 + 2 * 1000 * 4 + 2 * 30 * 4) * 7 / 8


def test_a_line_that_is_not_understood_is_refused():
  with pytest.raises(ValueError, match="not an instruction"):
    list(hlo.instructions("ENTRY %main (a: f32[1]) -> f32[1] {\n  %a = f32[1]{0} ?\n}"))
