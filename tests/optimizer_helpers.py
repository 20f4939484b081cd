"""What the tests of optimizers share."""

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()
SHAPES = {"kernel": (3, 5), "bias": (5,), "class_token": (1, 1, 7)}
DECAYED = ("kernel", "class_token")
STEPS = 5


def draws(seed, scale=1.0):
    generator = np.random.default_rng(seed)
    return {name: (scale * generator.standard_normal(shape)).astype("float32") for name, shape in SHAPES.items()}


START, GRADIENTS = draws(0), [draws(step, scale=0.3) for step in range(1, 1 + STEPS)]


def variables_of(start=START):
    return [keras.Variable(value, name=name) for name, value in start.items()]


def apply(optimizer, variables, gradients):
    for step in gradients:
        optimizer.apply([ops.convert_to_tensor(value) for value in step.values()], variables)
    return {variable.name: np.array(ops.convert_to_numpy(variable)) for variable in variables}


def train(optimizer, gradients=GRADIENTS):
    return apply(optimizer, variables_of(), gradients)


def numpy_adamw(gradients, rate, decay, beta_1, beta_2, epsilon):
    """Adam's algorithm 1, `epsilon` added to the root after the bias correction, and decay of its own."""
    values = {name: value.astype("float64") for name, value in START.items()}
    mean, square = ({name: 0.0 for name in SHAPES} for _ in range(2))
    for step, gradient in enumerate(gradients, start=1):
        rate_now = rate(step - 1) if callable(rate) else rate
        for name in SHAPES:
            if name in DECAYED:
                values[name] = values[name] * (1 - rate_now * decay)
            mean[name] = beta_1 * mean[name] + (1 - beta_1) * gradient[name]
            square[name] = beta_2 * square[name] + (1 - beta_2) * gradient[name].astype("float64") ** 2
            corrected = mean[name] / (1 - beta_1**step), square[name] / (1 - beta_2**step)
            values[name] = values[name] - rate_now * corrected[0] / (np.sqrt(corrected[1]) + epsilon)
    return values


def assert_close(got, expected, atol=1e-6):
    for name in SHAPES:
        np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=atol, equal_nan=False, err_msg=name)


# kernel, bias, class token: no two share a factor, and the exclusions are not those of the default rule.
SCALES, OWN_DECAYED = [0.5, 2.0, 0.25], [True, False, False]
