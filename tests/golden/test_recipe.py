"""Parameters and inputs come from their names exactly as in the reference set."""

import hashlib

import numpy as np
import pytest

from tests.golden import support

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def case() -> support.Case:
  return support.single("recipe")


def test_a_name_becomes_the_generators_key(case):
  example = case["key_example"]
  digest = hashlib.sha256(example["string"].encode()).digest()
  assert digest.hex() == example["sha256_hex"]
  assert np.frombuffer(digest[:16], dtype="<u8").tolist() == example["key_uint64"]
  generator = np.random.Philox(key=example["key_uint64"])
  drawn = generator.random_raw(len(example["first_raw_uint64"]))
  assert drawn.tolist() == example["first_raw_uint64"]


def test_many_normals_are_equal_to_the_last_bit(case):
  big = case["big"]
  drawn = support.normal(case["salt"], big["name"], big["shape"])
  assert drawn.ravel()[:5].tolist() == big["first5"]
  assert drawn.ravel()[-5:].tolist() == big["last5"]
  assert drawn.sum(dtype=np.float64) == pytest.approx(big["sum_float64"], rel=1e-12)
  assert hashlib.sha256(drawn.tobytes()).hexdigest() == big["sha256_of_float32_bytes"]


def test_normals_and_parameters_equal_the_vectors(case):
  for vector in case["vectors"]:
    index, name, shape = vector["index"], vector["name"], tuple(vector["shape"])
    drawn = support.normal(case["salt"], name, shape)
    assert np.array_equal(drawn, case.tensor(f"normal.{index}")), name
    parameter = support.parameter(case["salt"], name, shape, vector["gain"])
    np.testing.assert_allclose(parameter, case.tensor(f"param.{index}"), rtol=1e-7, err_msg=name)


def test_fingerprints_tell_the_vectors_apart(case):
  for vector in case["vectors"]:
    shape, wanted = tuple(vector["shape"]), vector["fingerprint_of_param"]
    parameter = support.parameter(case["salt"], vector["name"], shape, vector["gain"])
    same = support.fingerprint_error(vector["name"], case["salt"], parameter, wanted)
    other = support.fingerprint_error(vector["name"], case["salt"], 1.01 * parameter, wanted)
    assert same < 1e-6 < other


@pytest.mark.parametrize("key", ["example", "image_example"])
def test_inputs_equal_the_stored_ones(case, key):
  ours, theirs = case.input(key), case.tensor(f"input_{key}")
  assert ours.dtype == theirs.dtype
  assert np.array_equal(ours, theirs)
