"""Necks and heads: against PyTorch's own layers with the same weights, and by hand."""

import keras
import numpy as np
import pytest
from conftest import random_images
from keras import ops

import keras_mae
from keras_mae.dense.layers import ChannelDropout, TransposedConvolution
from keras_mae.dense.resizing import mean_weights, resized
from keras_mae.random import hash_noise

DIMS = (6, 10, 4, 8)  # of the four maps of a neck: no two are equal
GENERATOR = np.random.default_rng(7)
NECK = [GENERATOR.standard_normal((2, 5, 7, dim)).astype("float32") for dim in DIMS]
# What a neck makes of 5 x 7 patches: the coarsest has fewer rows than the head's last bins.
LEVELS = [
    GENERATOR.standard_normal((2, *size, dim)).astype("float32")
    for size, dim in zip(((20, 28), (10, 14), (5, 7), (2, 3)), DIMS, strict=True)
]
SIDE_BY_SIDE = [one[..., :4] for one in NECK[:2]]


def to_numpy(x):
    return ops.convert_to_numpy(x)


# === PyTorch's layers, of the weights of ours ===
def _tensor(x):
    import torch

    return torch.tensor(np.ascontiguousarray(to_numpy(x)))


def _filled(module, **parameters):
    module.load_state_dict({**module.state_dict(), **parameters}, strict=True)
    return module


def transposed(layer):
    import torch

    dim, width = layer.kernel.shape[0], layer.width
    kernel = to_numpy(layer.kernel).reshape(dim, 2, 2, width).transpose(0, 3, 1, 2)
    return _filled(torch.nn.ConvTranspose2d(dim, width, 2, 2), weight=_tensor(kernel), bias=_tensor(layer.bias))


def batch_norm(layer):
    import torch

    statistics = {"running_mean": layer.moving_mean, "running_var": layer.moving_variance}
    values = {name: _tensor(value) for name, value in statistics.items()}
    return _filled(
        torch.nn.BatchNorm2d(layer.gamma.shape[0]), weight=_tensor(layer.gamma), bias=_tensor(layer.beta), **values
    )


def convolution(layer):
    import torch

    kernel = to_numpy(layer.kernel).transpose(3, 2, 0, 1)
    made = torch.nn.Conv2d(kernel.shape[1], len(kernel), kernel.shape[2], padding="same", bias=False)
    return _filled(made, weight=_tensor(kernel))


def normed(layer):
    import torch

    return torch.nn.Sequential(convolution(layer.convolution), batch_norm(layer.norm), torch.nn.ReLU())


def layer_norm(layer):
    import torch

    class OverChannels(torch.nn.LayerNorm):
        def forward(self, x):
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    return _filled(
        OverChannels(layer.gamma.shape[0], eps=1e-6), weight=_tensor(layer.gamma), bias=_tensor(layer.beta)
    )


def linear(layer):
    import torch

    kernel = _tensor(layer.kernel).T[..., None, None].contiguous()
    return _filled(torch.nn.Conv2d(kernel.shape[1], len(kernel), 1), weight=kernel, bias=_tensor(layer.bias))


class Referee:
    """A neck or a head in PyTorch: `parts` are modules, `run` is what they do with a list of maps."""

    def __init__(self, parts, run):
        import torch

        self.parts, self._run = torch.nn.ModuleDict(parts), run

    def __call__(self, maps, training=False):
        self.parts.train(training)
        found = self._run(self.parts, [_tensor(one.transpose(0, 3, 1, 2)) for one in maps])
        return [one.detach().numpy().transpose(0, 2, 3, 1) for one in found]


def neck_in_pytorch(layer):
    from torch.nn import functional

    def run(parts, maps):
        x = parts["up_4"](functional.gelu(parts["norm"](parts["up_2"](maps[0]))))
        return [x, parts["up"](maps[1]), maps[2], functional.max_pool2d(maps[3], 2, 2)]

    parts = {name: transposed(getattr(layer, name)) for name in ("up_2", "up_4", "up")}
    return Referee({**parts, "norm": batch_norm(layer.norm)}, run)


def pyramid_in_pytorch(layer):
    import torch
    from torch.nn import functional

    def run(parts, maps):
        (x,) = maps
        first = parts["up_4"](functional.gelu(parts["norm"](parts["up_2"](x))))
        branches = [first, parts["up"](x), x, functional.max_pool2d(x, 2, 2)]
        levels = [parts[f"level_{i}"](branch) for i, branch in enumerate(branches)]
        return [*levels, functional.max_pool2d(levels[-1], kernel_size=1, stride=2)]

    parts = {name: transposed(getattr(layer, name)) for name in ("up_2", "up_4", "up")}
    for i, (narrow, first, smooth, second) in enumerate(layer.levels):
        made = (convolution(narrow), layer_norm(first), convolution(smooth), layer_norm(second))
        parts[f"level_{i}"] = torch.nn.Sequential(*made)
    return Referee({**parts, "norm": layer_norm(layer.norm)}, run)


def linear_in_pytorch(layer):
    import torch

    def run(parts, maps):
        return [parts["logits"](parts["norm"](torch.cat(maps, dim=1)))]

    return Referee({"norm": batch_norm(layer.norm), "logits": linear(layer.logits)}, run)


def fcn_in_pytorch(layer):
    def run(parts, maps):
        return [parts["logits"](parts["convolution"](maps[0]))]

    return Referee({"convolution": normed(layer.convolution), "logits": linear(layer.logits)}, run)


def upernet_in_pytorch(layer):
    import torch
    from torch.nn import functional

    def resize(x, like):
        return functional.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)

    def run(parts, maps):
        top = maps[-1]
        bins = [
            resize(pool(functional.adaptive_avg_pool2d(top, scale)), top)
            for scale, pool in zip(layer.pool_scales, parts["pools"], strict=True)
        ]
        levels = [lateral(x) for lateral, x in zip(parts["laterals"], maps[:-1], strict=True)]
        levels.append(parts["bottleneck"](torch.cat([top, *bins], dim=1)))
        for i in (2, 1, 0):
            levels[i] = levels[i] + resize(levels[i + 1], levels[i])
        smoothed = [smooth(x) for smooth, x in zip(parts["smooths"], levels[:-1], strict=True)]
        beside = [resize(x, levels[0]) for x in (*smoothed, levels[-1])]
        return [parts["logits"](parts["fuse"](torch.cat(beside, dim=1)))]

    lists = {
        name: torch.nn.ModuleList(map(normed, getattr(layer, name))) for name in ("pools", "laterals", "smooths")
    }
    single = {name: normed(getattr(layer, name)) for name in ("bottleneck", "fuse")}
    return Referee({**lists, **single, "logits": linear(layer.logits)}, run)


# name: (our layer, its maps, PyTorch's)
LAYERS = {
    "neck": (keras_mae.dense.MultiLevelNeck, NECK, neck_in_pytorch),
    "pyramid": (lambda: keras_mae.dense.SimplePyramid(6), NECK[3:], pyramid_in_pytorch),
    "linear": (lambda: keras_mae.dense.LinearHead(3, dropout_rate=0.0), SIDE_BY_SIDE, linear_in_pytorch),
    "fcn": (lambda: keras_mae.dense.FCNHead(3, 12, dropout_rate=0.0), NECK[1:2], fcn_in_pytorch),
    "upernet": (lambda: keras_mae.dense.UPerHead(3, 12, dropout_rate=0.0), LEVELS, upernet_in_pytorch),
}
NORMS = {"neck": lambda layer: layer.norm, "fcn": lambda layer: layer.convolution.norm}


def made(name):
    """One of our layers, built, with random weights and statistics."""
    layer = LAYERS[name][0]()
    layer([keras.KerasTensor(one.shape) for one in LAYERS[name][1]])
    generator = np.random.default_rng(3)
    for weight in layer.weights:
        scale = 0.5 / np.sqrt(max(1, np.prod(weight.shape[:-1]))) if len(weight.shape) > 1 else 0.3
        value = scale * generator.standard_normal(tuple(weight.shape))
        weight.assign(np.abs(value) + 0.5 if weight.path.endswith(("gamma", "moving_variance")) else value)
    return layer


def as_list(found):
    return [to_numpy(one) for one in (found if isinstance(found, list) else [found])]


def expected_of(name, layer, referee):
    """What PyTorch's layers of these weights return, and the statistics that a training step leaves."""
    if not referee.live:
        left = referee.read(f"dense_{name}.npz")
        layer.set_weights([left[f"weight_{index}"] for index in range(len(layer.weights))])
        return left
    _, maps, in_pytorch = LAYERS[name]
    theirs = in_pytorch(layer)
    expected = {f"output_{index}": value for index, value in enumerate(theirs(maps))}
    if name in NORMS:
        expected |= {f"trained_{index}": value for index, value in enumerate(theirs(maps, training=True))}
        norm = theirs.parts["norm"] if name == "neck" else theirs.parts["convolution"][1]
        expected |= {"mean": norm.running_mean.numpy(), "variance": norm.running_var.numpy()}
    weights = {f"weight_{index}": np.array(to_numpy(weight)) for index, weight in enumerate(layer.weights)}
    referee.write(f"dense_{name}.npz", **expected, **weights)
    return expected


@pytest.mark.parametrize("name", LAYERS)
def test_agrees_with_pytorch(name, referee, quick):
    layer = made(name)
    expected = expected_of(name, layer, referee)
    found = as_list(quick(lambda *maps: layer(list(maps)))(*LAYERS[name][1]))
    assert len(found) == sum(key.startswith("output") for key in expected)
    for index, value in enumerate(found):
        assert expected[f"output_{index}"].std() > 0.03
        np.testing.assert_allclose(value, expected[f"output_{index}"], atol=1e-5, rtol=1e-5)
    if name not in NORMS:
        return

    @quick
    def trained(*maps):
        outputs, norm = layer(list(maps), training=True), NORMS[name](layer)
        return outputs, *(ops.convert_to_tensor(one) for one in (norm.moving_mean, norm.moving_variance))

    norm = NORMS[name](layer)
    old, places = np.array(to_numpy(norm.moving_variance)), 2 * 5 * 7 * (4 if name == "neck" else 1)
    outputs, mean, variance = trained(*LAYERS[name][1])
    for index, value in enumerate(as_list(outputs)):
        np.testing.assert_allclose(value, expected[f"trained_{index}"], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(to_numpy(mean), expected["mean"], atol=1e-6)
    # PyTorch keeps the unbiased variance, Keras the biased one.
    biased = 0.9 * old + (expected["variance"] - 0.9 * old) * (places - 1) / places
    np.testing.assert_allclose(to_numpy(variance), biased, atol=1e-6)


# === By hand ===
def shapes_of(layer, *shapes):
    return [tuple(level.shape) for level in layer([keras.KerasTensor((None, *shape)) for shape in shapes])]


def test_levels_of_a_vit_b_at_512_pixels():
    assert shapes_of(keras_mae.dense.MultiLevelNeck(), *[(32, 32, 8)] * 4) == [
        (None, 128, 128, 8),
        (None, 64, 64, 8),
        (None, 32, 32, 8),
        (None, 16, 16, 8),
    ]
    assert shapes_of(keras_mae.dense.SimplePyramid(5), (32, 32, 8)) == [
        (None, 128, 128, 5),
        (None, 64, 64, 5),
        (None, 32, 32, 5),
        (None, 16, 16, 5),
        (None, 8, 8, 5),
    ]


def test_an_odd_row_and_column_are_left_out_of_the_half_and_kept_in_p6():
    assert shapes_of(keras_mae.dense.SimplePyramid(5), (11, 7, 8))[3:] == [(None, 5, 3, 5), (None, 3, 2, 5)]
    assert shapes_of(keras_mae.dense.SimplePyramid(5, p6=False), (11, 7, 8))[3:] == [(None, 5, 3, 5)]
    x = np.arange(35, dtype="float32").reshape(1, 5, 7, 1)
    half = to_numpy(keras_mae.dense.MultiLevelNeck()([x] * 4)[3])
    np.testing.assert_array_equal(half[0, :, :, 0], [[8, 10, 12], [22, 24, 26]])


def test_a_transposed_convolution_puts_its_products_side_by_side():
    layer = TransposedConvolution(1)
    layer.build((None, 1, 2, 1))
    layer.kernel.assign([[1.0, 2.0, 3.0, 4.0]])
    layer.bias.assign([0.5])
    found = to_numpy(layer(np.array([[[[1.0], [10.0]]]], "float32")))[0, :, :, 0]
    np.testing.assert_allclose(found, [[1.5, 2.5, 10.5, 20.5], [3.5, 4.5, 30.5, 40.5]])


def test_bins_overlap_where_they_do_not_divide_and_repeat_where_there_are_more():
    third, half = 1 / 3, 1 / 2
    rows = [[half, half, 0, 0, 0], [0, third, third, third, 0], [0, 0, 0, half, half]]
    np.testing.assert_allclose(mean_weights(5, 3), rows)
    np.testing.assert_allclose(mean_weights(2, 4), [[1, 0], [1, 0], [0, 1], [0, 1]])


def test_a_resize_has_no_aligned_corners():
    x = np.array([0.0, 4.0], "float32").reshape(1, 1, 2, 1)
    np.testing.assert_allclose(to_numpy(resized(x, (1, 4))).ravel(), [0, 1, 3, 4])
    assert resized(x, (1, 2)) is x


# === Dropout ===
def test_whole_channels_are_dropped_by_the_noise(quick):
    noise, x = hash_noise(3, 1, ops.arange(40, dtype="int32"), 50), np.ones((40, 2, 3, 50), "float32")
    layer = ChannelDropout(0.25)
    found = to_numpy(quick(lambda x, noise: layer(x, noise=noise, training=True))(x, noise))
    assert (found == found[:, :1, :1]).all()
    values, counts = np.unique(found[:, 0, 0], return_counts=True)
    np.testing.assert_allclose(values, [0, 4 / 3], rtol=1e-6)
    assert abs(counts[0] / 2000 - 0.25) < 4.5 * np.sqrt(0.25 * 0.75 / 2000)
    np.testing.assert_array_equal(to_numpy(layer(x, noise=noise, training=False)), x)


def test_without_noise_keras_draws():
    layer, x = ChannelDropout(0.5), np.ones((8, 2, 3, 50), "float32")
    found = to_numpy(layer(x, training=True))
    assert (found == found[:, :1, :1]).all()
    assert 100 < (found[:, 0, 0] == 0).sum() < 300
    np.testing.assert_array_equal(to_numpy(layer(x)), x)


# === In models ===
def segmenter():
    encoder = keras_mae.ViTEncoder((8, 8, 1), 2, 8, depth=4, num_heads=2, mlp_ratio=1, final_norm=False)
    inputs = keras.Input((12, 8, 1))
    maps = encoder.features(inputs, blocks=range(4))
    levels = keras_mae.dense.MultiLevelNeck()(maps)
    logits = keras_mae.dense.UPerHead(3, 8)(levels)
    return keras.Model(inputs, [logits, keras_mae.dense.FCNHead(3, 4)(levels[2])])


@pytest.mark.backends("torch", "tensorflow")  # JAX compiles for longest
def test_a_whole_model_learns_and_is_saved(tmp_path, untraced):
    keras.utils.set_random_seed(2)
    model = segmenter()
    model.compile(keras.optimizers.SGD(0.5), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images = random_images(4, (12, 8, 1)).astype("float32")
    masks = [np.random.default_rng(0).integers(0, 3, (4, *size)) for size in ((24, 16), (6, 4))]
    before = [np.array(to_numpy(weight)) for weight in model.weights]
    model.fit(images, masks, batch_size=4, verbose=0)
    # The fixed positions stay. So do the biases before a BatchNorm, whose mean takes them away.
    stayed = [
        weight.path.split("/", 1)[1]
        for weight, old in zip(model.weights, before, strict=True)
        if np.abs(to_numpy(weight) - old).max() < 1e-7
    ]
    assert set(stayed) <= {"position_embedding", "up_2/bias", "up_4/bias", "up/bias"}
    expected = model.predict(images, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").predict(images, verbose=0)
    for one, two in zip(expected, again, strict=True):
        np.testing.assert_array_equal(one, two)


def test_blocks_are_taken_in_their_order():
    """In a file a dictionary's keys would be texts, and "11" comes before "3"."""
    inputs = [keras.Input(x.shape[1:]) for x in NECK]
    maps = dict(zip((11, 7, 3, 5), (inputs[3], inputs[2], inputs[0], inputs[1]), strict=True))
    model = keras.Model(inputs, keras_mae.dense.MultiLevelNeck()(maps))
    again = keras.models.model_from_json(model.to_json())
    assert tuple(level.shape[-1] for level in model.outputs) == DIMS
    assert tuple(level.shape[-1] for level in again(inputs)) == DIMS


@pytest.mark.backends("torch")
def test_the_parameters_of_upernet_on_a_vit_b():
    """150 classes. A convolution of 1 x 1 or 3 x 3 with its BatchNorm has n * in * out + 2 * out."""
    levels = [keras.KerasTensor((None, side, side, 768)) for side in (16, 8, 4, 2)]
    neck, head, auxiliary = (
        keras_mae.dense.MultiLevelNeck(),
        keras_mae.dense.UPerHead(150),
        keras_mae.dense.FCNHead(150),
    )
    neck([levels[2]] * 4)
    head(levels)
    auxiliary(levels[2])

    def trained(layer):
        return sum(int(np.prod(weight.shape)) for weight in layer.trainable_weights)

    up = 4 * 768 * 768 + 768
    narrow, wide = 768 * 768 + 2 * 768, 9 * 768 * 768 + 2 * 768
    assert trained(neck) == 3 * up + 2 * 768 == 7_081_728
    bottleneck, fuse = 9 * 5 * 768 * 768 + 2 * 768, 9 * 4 * 768 * 768 + 2 * 768
    assert trained(head) == (4 + 3) * narrow + bottleneck + 3 * wide + fuse + 768 * 150 + 150 == 67_963_542
    assert (head.channels, auxiliary.channels) == (768, 256)
    assert trained(auxiliary) == 9 * 768 * 256 + 2 * 256 + 256 * 150 + 150 == 1_808_534


def test_batch_norm_of_equal_numbers_is_finite():
    """What rounding leaves of their variance may be negative, and larger than epsilon."""
    x = np.broadcast_to(np.linspace(11.1, 997.3, 64, dtype="float32"), (1, 3, 3, 64))
    norm = keras_mae.ops.BatchNormalization(epsilon=1e-5)
    assert np.isfinite(ops.convert_to_numpy(norm(x, training=True))).all()
    assert (ops.convert_to_numpy(norm.moving_variance) >= 0).all()


# === Refused ===
LEVEL = np.zeros((2, 4, 4, 8), "float32")


@pytest.mark.parametrize(
    ("make", "maps", "message"),
    [
        (keras_mae.dense.MultiLevelNeck, [LEVEL] * 3, r"`maps` must be 4 maps \(batch, rows, columns"),
        (keras_mae.dense.MultiLevelNeck, [LEVEL] * 3 + [LEVEL[:, :1]], "2 rows and 2 columns or more"),
        (keras_mae.dense.SimplePyramid, [LEVEL] * 2, "`maps` must be one map"),
        (keras_mae.dense.SimplePyramid, LEVEL[..., :6], "a dim that is a multiple of 4"),
        (keras_mae.dense.SimplePyramid, keras.KerasTensor((None, None, 4, 8)), "of known sizes"),
        (lambda: keras_mae.dense.LinearHead(3), [LEVEL, LEVEL[:, 1:]], "the same rows and columns"),
        (lambda: keras_mae.dense.LinearHead(3), {"last": LEVEL}, "`maps` must be one map or more"),
    ],
)  # fmt: skip
def test_maps_that_do_not_fit_are_refused(make, maps, message):
    with pytest.raises(ValueError, match=message):
        make()(maps)
