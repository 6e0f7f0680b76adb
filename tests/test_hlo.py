"""What is counted of a TPU's program is what one counts by hand."""

from benchmarks import hlo

PROGRAM = """HloModule step

%fused (p: bf16[8,16]) -> bf16[8,16] {
  %p = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %all-gather.1 = bf16[64,16]{1,0} all-gather(%p), channel_id=3, dimensions={0}
  ROOT %r = bf16[8,16]{1,0} negate(%p)
}

%fused.2 (q: bf16[8,16]) -> bf16[8,16] {
  %q = bf16[8,16]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[64,16]{1,0} all-gather(%q), channel_id=3, dimensions={0}
}

ENTRY %main (a: f32[100,10], b: bf16[8,16]) -> f32[100,10] {
  %a = f32[100,10]{1,0:T(8,128)} parameter(0)
  %b = bf16[8,16]{1,0} parameter(1)
  %one = bf16[8,16]{1,0:T(8,128)(2,1)S(1)} fusion(%b), kind=kLoop, calls=%fused
  %two = bf16[8,16]{1,0} fusion(%one), kind=kLoop, calls=%fused.2
  %part = f32[10,10]{1,0:S(1)} slice(%a), slice={[0:10], [0:10]}
  %out = (f32[100,10]{1,0:S(1)}, f32[100,10]{1,0}, u32[]{:S(2)}) copy-start(%a)
  %copy = f32[100,10]{1,0:S(1)} copy-done(%out)
  %sum = f32[100,10]{1,0:S(1)} all-reduce(%copy), channel_id=4, to_apply=%add
  ROOT %result = f32[100,10]{1,0} add(%sum, %copy)
}
"""


def test_what_stays_on_the_chip_is_not_moved():
  b, a, part = 8 * 16 * 2, 100 * 10 * 4, 10 * 10 * 4
  fusions, slices, copies, added = b + b, part, a, a
  assert hlo.moved(PROGRAM) == fusions + slices + copies + added


def test_a_transfer_that_fusions_carry_on_is_one_and_runs_beside_them():
  found = hlo.sent(PROGRAM, chips=8)
  assert found.beside == 64 * 16 * 2 * 7 / 8
  assert found.alone == 2 * 100 * 10 * 4 * 7 / 8  # parts, then the whole
