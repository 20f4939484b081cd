"""Hash noise: the same bits on every backend, in every form of compilation."""

import keras
import numpy as np
import oracles
import pytest
from conftest import run_quickly
from keras import ops

from keras_mae.random import DROP_PATH, EVALUATION_STEP, MASKS, StepCounter, hash_noise, to_uniform


def to_numpy(x):
    return ops.convert_to_numpy(x)


# Worked out by `oracles.hash_noise`, which knows no backend: (seed, step, stream) -> fingerprint of 13 x 37 draws.
GOLDEN = {
    (0, 0, 0): "51d7e9803885412d1ccdc8f0f0c582a8",
    (3, 11, 0): "6b0a74a89f5138d0a59a19a2df4f7d25",
    (3, 11, 1): "e8e5708e8eefee5c6ea03110d0495d73",
    (2147483647, 1000003, 0): "c392fbf073e65c600581ff91c060702f",
    (7, -1, 0): "11fbbad77600c2bffabe2e59e05b798c",
}


@pytest.mark.parametrize(("seed", "step", "stream"), list(GOLDEN))
def test_noise_has_the_same_bits_everywhere(compiled, seed, step, stream):
    draw = compiled(lambda index, step: hash_noise(seed, step, index, 37, stream))
    noise = to_numpy(draw(ops.arange(13, dtype="int32"), ops.convert_to_tensor(step, dtype="int32")))
    assert noise.dtype == "int32"
    assert noise.shape == (13, 37)
    assert oracles.fingerprint(noise) == GOLDEN[seed, step, stream]


def test_golden_numbers_are_the_oracles():
    for (seed, step, stream), expected in GOLDEN.items():
        assert oracles.fingerprint(oracles.hash_noise(seed, step, range(13), 37, stream)) == expected


def test_first_draws_written_out():
    assert to_numpy(hash_noise(0, 0, np.arange(2, dtype="int32"), 3)).tolist() == [
        [-1608315401, -1622926414, -1774144418],
        [722429548, -1935141144, -446759708],
    ]


def test_noise_does_not_depend_on_how_the_batch_is_split():
    index = np.arange(17, dtype="int32")
    draw = run_quickly(lambda index: hash_noise(5, 7, index, 19))
    whole = to_numpy(draw(index))
    parts = [to_numpy(draw(part)) for part in np.split(index, [4, 16])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_draw_does_not_depend_on_the_number_of_draws():
    few, many = (run_quickly(lambda i, n=n: hash_noise(5, 7, i, n))(np.arange(5, dtype="int32")) for n in (11, 196))
    np.testing.assert_array_equal(to_numpy(few), to_numpy(many)[:, :11])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "mixed_float16"])
def test_noise_does_not_depend_on_the_global_dtype_policy(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        noise = to_numpy(hash_noise(3, 11, np.arange(13, dtype="int32"), 37))
    finally:
        keras.config.set_dtype_policy(before)
    assert oracles.fingerprint(noise) == GOLDEN[3, 11, MASKS]


@pytest.mark.parametrize("other", [(4, 11, MASKS), (3, 12, MASKS), (3, 11, DROP_PATH), (3, EVALUATION_STEP, MASKS)])
def test_neighbouring_seeds_steps_and_streams_are_uncorrelated(other):
    index = np.arange(200, dtype="int32")
    ours = to_numpy(to_uniform(hash_noise(3, 11, index, 49, MASKS))).ravel()
    others = to_numpy(to_uniform(hash_noise(other[0], other[1], index, 49, other[2]))).ravel()
    # 9,800 pairs: the correlation of independent draws has a standard deviation of 0.0101.
    assert abs(np.corrcoef(ours, others)[0, 1]) < 4.5 * 0.0101


def test_draws_are_uniform_and_neighbours_are_uncorrelated():
    draws = to_numpy(to_uniform(hash_noise(1, 2, np.arange(400, dtype="int32"), 50)))
    counts, _ = np.histogram(draws, bins=16, range=(0, 1))
    expected = draws.size / 16
    # Chi-squared with 15 degrees of freedom: 44 is passed once in 10,000 times.
    assert ((counts - expected) ** 2 / expected).sum() < 44
    for one, other in ((draws[:, 1:], draws[:, :-1]), (draws[1:], draws[:-1])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4.5 / np.sqrt(one.size)


def test_uniform_keeps_the_order_of_the_upper_bits_and_stays_below_one():
    noise = np.array([0, 255, 256, 2**31 - 1, -(2**31), -1], "int32")
    expected = np.array([0, 0, 1, 2**23 - 1, 2**23, 2**24 - 1]) / 2**24
    uniform = to_numpy(to_uniform(noise))
    np.testing.assert_array_equal(uniform, expected.astype("float32"))
    assert uniform.max() < 1


def test_step_counter_counts_and_continues():
    counter = StepCounter()
    assert int(counter.value) == 0
    counter.advance()
    counter.advance()
    assert int(counter.value) == 2
    counter.set(1_000_003)
    counter.advance()
    assert int(counter.value) == 1_000_004
