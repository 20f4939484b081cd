"""Schedules of the learning rate."""

import keras
import numpy as np
import pytest

from keras_mae.optimizers import warmup_cosine, warmup_polynomial, warmup_stable_decay


# === The schedule ===
@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.0), (3, 0.15), (10, 0.5), (10 + 26, 0.25), (10 + 13, 0.25 * (1 + np.sqrt(0.5))), (62, 0.0), (70, 0.0)],
    ids=["start", "warming up", "peak", "half way", "a quarter", "end", "after the end"],
)
def test_warmup_cosine(step, expected):
    rate = float(warmup_cosine(0.5, total_steps=62, warmup_steps=10)(step))
    np.testing.assert_allclose(rate, expected, atol=1e-7, equal_nan=False)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.5), (26, 0.25), (52, 0.0)])
def test_warmup_cosine_without_warmup_starts_at_its_peak(step, expected):
    np.testing.assert_allclose(float(warmup_cosine(0.5, 52)(step)), expected, atol=1e-7, equal_nan=False)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.0), (3, 0.15), (10, 0.5), (10 + 26, 0.3), (62, 0.1), (70, 0.1)],
    ids=["start", "warming up", "peak", "half way", "end", "after the end"],
)
def test_warmup_cosine_ends_at_its_minimum_and_still_starts_at_zero(step, expected):
    rate = float(warmup_cosine(0.5, total_steps=62, warmup_steps=10, minimum=0.1)(step))
    np.testing.assert_allclose(rate, expected, atol=1e-7, equal_nan=False)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.5), (26, 0.3), (52, 0.1)])
def test_warmup_cosine_without_warmup_has_a_minimum_too(step, expected):
    rate = float(warmup_cosine(0.5, 52, minimum=0.1)(step))
    np.testing.assert_allclose(rate, expected, atol=1e-7, equal_nan=False)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"peak": 0.1, "total_steps": 10, "minimum": 0.2}, "minimum=0.2, peak=0.1"),
        ({"peak": 0.1, "total_steps": 10, "minimum": -0.1}, "`minimum` must be a finite number of at least 0"),
        ({"peak": 0.1, "total_steps": 10, "minimum": float("nan")}, "`minimum` must be a finite number"),
        ({"peak": 0.0, "total_steps": 10}, "peak"),
        ({"peak": 0.1, "total_steps": 0}, "total_steps"),
        ({"peak": 0.1, "total_steps": 10, "warmup_steps": 10}, "warmup_steps=10, total_steps=10"),
        ({"peak": 0.1, "total_steps": 10, "warmup_steps": -1}, "warmup_steps=-1"),
    ],
)
def test_bad_schedules_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        warmup_cosine(**arguments)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.0), (3, 0.15), (10, 0.5), (46, 0.5), (50, 0.3), (55, 0.2), (62, 0.1), (70, 0.1)],
    ids=["start", "warming up", "peak", "decay begins", "a quarter", "nine sixteenths", "end", "after the end"],
)
def test_warmup_stable_decay(step, expected):
    """minimum + (peak - minimum) * (1 - sqrt(s)): from 0.5 to 0.1, half the way in a quarter of it."""
    schedule = warmup_stable_decay(0.5, 62, 10, 16, minimum=0.1)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    for one in (schedule, again):
        np.testing.assert_allclose(float(one(step)), expected, atol=1e-7, equal_nan=False)


@pytest.mark.parametrize(
    ("power", "step", "expected"),
    [
        (1, 0, 0.0),
        (1, 3, 0.15),
        (1, 10, 0.5),
        (1, 36, 0.3),
        (1, 62, 0.1),
        (1, 70, 0.1),
        (2, 36, 0.2),
        (0.5, 49, 0.3),
    ],
)
def test_warmup_polynomial(power, step, expected):
    """minimum + (peak - minimum) * (1 - s) ** power, from 0.5 to 0.1."""
    schedule = warmup_polynomial(0.5, 62, 10, power=power, minimum=0.1)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    for one in (schedule, again):
        np.testing.assert_allclose(float(one(step)), expected, atol=1e-7, equal_nan=False)


def test_warmup_polynomial_without_warmup_starts_at_its_peak():
    np.testing.assert_allclose([float(warmup_polynomial(0.5, 40)(step)) for step in (0, 10)], [0.5, 0.375])


def test_a_polynomial_is_as_smooth_where_float32_cannot_tell_steps_apart():
    late, short = warmup_polynomial(0.3, 2**24 + 10, 2**24), warmup_polynomial(0.3, 10)
    assert [float(late(2**24 + step)) for step in range(11)] == [float(short(step)) for step in range(11)]


def test_a_longer_run_has_the_same_rates_up_to_the_decay():
    """Also where float32 cannot tell neighboring steps apart; and the decay is as smooth there."""
    short, long = (warmup_stable_decay(0.3, total, 3, 10) for total in (40, 90))
    assert [float(short(step)) for step in range(31)] == [float(long(step)) for step in range(31)]
    late = warmup_stable_decay(0.3, 2**24 + 10, 3, 10)
    assert [float(late(2**24 + step)) for step in range(10)] == [float(short(30 + step)) for step in range(10)]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0.1, 10, 4, 7), "warmup_steps=4, decay_steps=7, total_steps=10"),
        ((0.1, 10, 4, 0), "`decay_steps` must be a positive integer"),
        ((0.1, 10, 10, 1), "warmup_steps=10, total_steps=10"),
        ((0.0, 10, 1, 1), "peak"),
    ],
)
def test_bad_schedules_with_a_decay_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        warmup_stable_decay(*arguments)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"power": 0}, "`power` must be"),
        ({"minimum": 0.2}, "minimum=0.2, peak=0.1"),
        ({"warmup_steps": 9}, "total_st"),
    ],
)
def test_bad_polynomials_are_refused(options, named):
    with pytest.raises(ValueError, match=named):
        warmup_polynomial(0.1, 9, **options)
