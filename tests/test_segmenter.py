"""The segmenter: what it computes, how it trains, and what becomes of it in files."""

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from classifier_helpers import (
    BACKEND,
    BATCH,
    GRID,
    IMAGE_SHAPE,
    IMAGES,
    WIDTH,
    assert_same,
    make_encoder,
    to_numpy,
    values,
)
from keras import ops
from test_dense import fcn_in_pytorch, neck_in_pytorch, upernet_in_pytorch
from training_helpers import quick_compile

import keras_mae
from keras_mae import convert, dense
from keras_mae.dense.windows import slide
from keras_mae.optimizers import fine_tuning_adamw
from keras_mae.random import AUXILIARY_HEAD, HEAD, hash_noise, to_uniform
from keras_mae.segmenter import AUXILIARY_WEIGHT, _chosen_blocks

CLASSES, SIZE, RATE = 7, IMAGE_SHAPE[:2], 0.5
MASKS = np.random.default_rng(9).integers(0, CLASSES, (len(IMAGES), *SIZE)).astype("uint8")
MASKS[:, :2] = 255


@pytest.fixture(scope="module", autouse=True)
def _quick_compile():
    with quick_compile():
        yield


def make(head="upernet", encoder=None, **changes):
    """Every call gives the same weights; those of the last layers are large enough to matter."""
    keras.utils.set_random_seed(4)
    segmenter = keras_mae.ViTSegmenter(encoder or make_encoder(), CLASSES, head, **changes)
    generator = np.random.default_rng(8)
    for part in (segmenter.head, segmenter.auxiliary):
        if part is not None:
            part.logits.kernel.assign(0.3 * generator.standard_normal(tuple(part.logits.kernel.shape)))
    return segmenter


def compiled(segmenter, optimizer=None, **changes):
    """As is quickest here: jitted on JAX and eager elsewhere."""
    optimizer = keras.optimizers.SGD(RATE) if optimizer is None else optimizer
    segmenter.compile(optimizer, **{"run_eagerly": BACKEND != "jax", **changes})
    return segmenter


@pytest.fixture(scope="module")
def upernet():
    """Shared: tests must not change it."""
    return compiled(make())


@pytest.fixture(scope="module")
def linear():
    """Shared: tests must not change it."""
    return compiled(make("linear"))


# === What it computes ===
def test_upernet_is_four_blocks_a_neck_and_a_head(upernet, quick):
    assert upernet.blocks == (0, 0, 1, 1)  # of two
    assert upernet.encoder.norm is None

    @quick
    def of_parts(images):
        maps = upernet.encoder.features(images, (0, 1))
        return upernet.head(upernet.neck([maps[0], maps[0], maps[1], maps[1]]))

    small = of_parts(ops.convert_to_tensor(IMAGES[:BATCH]))
    assert small.shape == (BATCH, 8, 12, CLASSES)
    found = to_numpy(quick(upernet)(ops.convert_to_tensor(IMAGES[:BATCH])))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, to_numpy(small), rtol=1e-5, atol=1e-5)  # which is as large as the image here


def test_linear_is_the_last_block_behind_the_encoders_norm(linear):
    assert linear.blocks == (1,)
    tokens = to_numpy(linear.encoder(IMAGES[:BATCH]))[:, 1:]
    small = linear.head(tokens.reshape(BATCH, *GRID, WIDTH))
    expected = to_numpy(dense.resizing.resized(small, SIZE))
    found = to_numpy(linear(IMAGES[:BATCH]))
    assert found.shape == (BATCH, *SIZE, CLASSES)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (12, (3, 5, 7, 11)),
        (24, (7, 11, 15, 23)),
        (32, (9, 15, 21, 31)),
        (4, (0, 1, 2, 3)),
        (3, (0, 0, 1, 2)),
        (1, (0,) * 4),
    ],
)
def test_default_blocks(depth, expected):
    encoder: Any = SimpleNamespace(depth=depth)
    assert _chosen_blocks(encoder, "upernet", None) == expected
    assert _chosen_blocks(encoder, "linear", None) == (depth - 1,)


def test_chosen_blocks_and_a_crop_of_another_size():
    segmenter = make("linear", make_encoder(depth=3), blocks=(0, -1), image_shape=(16, 8, 1), drop_path_rate=0.2)
    assert segmenter.blocks == (0, 2)
    assert segmenter.encoder.image_shape == (16, 8, 1)
    assert segmenter.head.logits.kernel.shape[0] == 2 * WIDTH
    assert segmenter(np.zeros((2, 16, 8, 1), "uint8")).shape == (2, 16, 8, CLASSES)


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": (1, 0)}, "`blocks` must be indices of blocks in rising order"),
        ({"blocks": (0, 1)}, '`blocks` must be four indices for head="upernet"'),
        ({"head": "linear", "blocks": (1, 1)}, "`blocks` must be different blocks"),
        ({"blocks": 2}, "`blocks` must be indices of blocks, from -2 to 1"),
        ({"head": "mask2former"}, "`head` must be one of 'linear', 'upernet'"),
        ({"image_shape": (4, 12, 1)}, "must have 2 rows and 2 columns or more"),
        ({"auxiliary_weight": -0.4}, "`auxiliary_weight` must be"),
        ({"ignore_label": 3}, "`ignore_label` must be none of the labels of the 7 classes, such as 255"),
        ({"copy": False, "drop_path_rate": 0.5}, "With `copy=False` the encoder stays as it is"),
        ({"trainable_blocks": 3}, "`trainable_blocks` must be 0, 0.5"),
        ({"class_names": ["a", "b"]}, "`class_names` must be 7 different"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        keras_mae.ViTSegmenter(make_encoder(), CLASSES, **{"head": "upernet", **changes})


# === A step ===
def noise(segmenter, head, stream, step=0, rows=BATCH):
    return hash_noise(segmenter.encoder.seed, step, ops.arange(rows, dtype="int32"), head.channels, stream)


def in_pytorch(segmenter):
    return {
        "neck": neck_in_pytorch(segmenter.neck),
        "head": upernet_in_pytorch(segmenter.head),
        "auxiliary": fcn_in_pytorch(segmenter.auxiliary),
    }


def step_of_pytorch(segmenter, images, masks):
    """Its loss of a batch, and its modules after a step of gradient descent; the encoder is frozen."""
    import torch
    from torch.nn import functional

    maps = {block: to_numpy(one) for block, one in segmenter.encoder.features(images, (0, 1)).items()}
    maps = [torch.tensor(maps[block].transpose(0, 3, 1, 2)) for block in segmenter.blocks]
    modules = in_pytorch(segmenter)

    def logits(name, stream, levels):
        keep = to_uniform(noise(segmenter, getattr(segmenter, name), stream)) >= 0.1
        keep = torch.tensor(to_numpy(keep)).float()[..., None, None] / 0.9
        modules[name].parts["logits"].register_forward_pre_hook(lambda _, inputs: (inputs[0] * keep,))
        (small,) = modules[name]._run(modules[name].parts, levels)
        return functional.interpolate(small, SIZE, mode="bilinear", align_corners=False)

    for module in modules.values():
        module.parts.train()
    levels = modules["neck"]._run(modules["neck"].parts, maps)
    losses = [
        functional.cross_entropy(found, torch.tensor(masks.astype("int64")), ignore_index=255)
        for found in (logits("head", HEAD, levels), logits("auxiliary", AUXILIARY_HEAD, levels[2:3]))
    ]
    loss = losses[0] + 0.4 * losses[1]
    loss.backward()
    with torch.no_grad():
        for module in modules.values():
            for parameter in module.parts.parameters():
                parameter -= RATE * parameter.grad
    return float(loss.detach()), {name: module.parts.state_dict() for name, module in modules.items()}


def test_a_step_is_pytorchs(referee):
    """Its loss with that of the auxiliary head, dropout, and what gradients change."""
    segmenter = compiled(make(trainable_blocks=0))
    images, masks = IMAGES[:BATCH], MASKS[:BATCH].copy()
    masks[0] = 255  # images have different numbers of pixels that count
    if referee.live:
        before = values(segmenter.weights)
        loss, expected = step_of_pytorch(segmenter, images, masks)
    else:
        left = referee.read("segmenter_step.npz")
        segmenter.set_weights([left[f"before_{index}"] for index in range(len(segmenter.weights))])
        loss = left["loss"]
    logs = segmenter.train_on_batch(images, masks, return_dict=True)
    assert float(logs["loss"]) == pytest.approx(float(loss), rel=1e-5)
    assert AUXILIARY_WEIGHT == 0.4
    after = values(segmenter.weights)
    if not referee.live:
        for index, value in enumerate(after):
            np.testing.assert_allclose(
                value, left[f"after_{index}"], atol=2e-5, err_msg=segmenter.weights[index].path
            )
        return
    for name, module in in_pytorch(segmenter).items():
        for key, value in module.parts.state_dict().items():
            if not key.endswith(("running_var", "num_batches_tracked")):  # Keras' variance is the biased one
                np.testing.assert_allclose(value, expected[name][key], atol=2e-5, err_msg=f"{name} {key}")
    moved = [not np.array_equal(*pair) for pair in zip(before, after, strict=True)]
    assert sum(moved) == len(after) - len(segmenter.encoder.weights)
    arrays = {f"before_{index}": value for index, value in enumerate(before)}
    arrays |= {f"after_{index}": value for index, value in enumerate(after)}
    referee.write("segmenter_step.npz", loss=np.float64(loss), **arrays)


@pytest.mark.backends("torch")
def test_the_auxiliary_heads_loss_counts_by_its_weight():
    logits = {stream: np.float32(2) * IMAGES[:BATCH] * np.arange(CLASSES) / 255 for stream in (HEAD, AUXILIARY_HEAD)}
    logits[AUXILIARY_HEAD] = logits[AUXILIARY_HEAD][..., ::-1].copy()
    losses = {}
    for weight in (0.4, 1.5):
        segmenter = compiled(make(auxiliary_weight=weight))
        assert segmenter.get_config()["auxiliary_weight"] == weight
        losses[weight] = float(segmenter.compute_loss(y=MASKS[:BATCH], y_pred=logits))
        main = float(segmenter.compute_loss(y=MASKS[:BATCH], y_pred=logits[HEAD]))
    auxiliary = float(segmenter.compute_loss(y=MASKS[:BATCH], y_pred=logits[AUXILIARY_HEAD]))
    assert losses == pytest.approx({weight: main + weight * auxiliary for weight in losses})
    without = make(auxiliary_weight=0)
    assert without.auxiliary is None
    assert without.outputs_for_loss(IMAGES[:1], training=True).shape == (1, *SIZE, CLASSES)


# (image, channel) of what the first two steps drop of three images and twelve channels: the head, the auxiliary one.
DROPPED = [
    [[0, 3], [1, 3], [1, 9], [2, 6], [2, 7]],
    [[0, 2], [2, 8], [2, 10]],
    [[0, 0], [0, 9], [1, 6], [2, 11]],
    [[1, 0], [1, 1], [1, 8], [2, 6]],
]


def test_the_draws_are_the_same_everywhere(linear):
    """Bit for bit: of which channels are dropped, on whichever backend."""
    dropped = [
        np.argwhere(to_numpy(to_uniform(hash_noise(0, step, ops.arange(3, dtype="int32"), 12, stream))) < 0.1)
        for stream in (HEAD, AUXILIARY_HEAD)
        for step in (0, 1)
    ]
    assert [places.tolist() for places in dropped] == DROPPED
    # And they are the head's.
    x, seen = IMAGES[:3], []
    head, linear_head = linear.head, linear.head.dropout
    call = linear_head.call

    def watched(x, noise=None, training=None):
        seen.append(noise)
        return call(x, noise=noise, training=training)

    linear_head.call = watched
    try:
        with keras.StatelessScope():
            linear(x, training=True)
    finally:
        linear_head.call = call
    np.testing.assert_array_equal(to_numpy(seen[0]), to_numpy(noise(linear, head, HEAD, rows=3)))


@pytest.mark.parametrize("trainable_blocks", [None, 0])
def test_a_step_is_counted_once(trainable_blocks):
    segmenter = compiled(make("linear", trainable_blocks=trainable_blocks))
    segmenter.fit(IMAGES[: 2 * BATCH], MASKS[: 2 * BATCH], batch_size=BATCH, verbose=0)
    assert int(to_numpy(segmenter.encoder.step.value)) == 2


def test_the_scores_of_an_epoch_are_of_all_pixels(linear):
    count = 2 * BATCH + 2  # the last batch is smaller
    scores = linear.evaluate(IMAGES[:count], MASKS[:count], batch_size=BATCH, verbose=0, return_dict=True)
    predicted = linear.predict(IMAGES[:count], batch_size=BATCH, verbose=0).argmax(-1)
    expected = dense.scores_of(dense.confusion(MASKS[:count], predicted, CLASSES))
    assert set(scores) == {"loss", "mean_iou", "pixel_accuracy", "class_accuracy"}
    for name in set(scores) - {"loss"}:
        assert scores[name] == pytest.approx(expected[name], abs=1e-6)
    assert sum(len(metric.variables) for metric in linear._compile_metrics.metrics) == 1


def test_a_tiny_batch_is_learned_by_heart():
    keras.utils.set_random_seed(1)
    segmenter = keras_mae.ViTSegmenter(make_encoder(depth=1), CLASSES, trainable_blocks=0)
    compiled(segmenter, keras.optimizers.Adam(0.1))
    masks = np.repeat(np.repeat(np.random.default_rng(0).integers(0, CLASSES, (2, *GRID)), 4, axis=1), 4, axis=2)
    masks[:, :, ::4] = 255
    for _ in range(25):
        logs = segmenter.train_on_batch(IMAGES[:2], masks, return_dict=True)
    assert logs["skipped_steps"] == 0
    scores = segmenter.evaluate(IMAGES[:2], masks, verbose=0, return_dict=True)
    assert scores["pixel_accuracy"] > 0.9


def test_a_step_that_is_not_finite_changes_nothing():
    segmenter = compiled(make("linear", trainable_blocks=1))
    images = IMAGES[:BATCH].astype("float32")
    segmenter.train_on_batch(images, MASKS[:BATCH])
    kept = values(segmenter.weights)
    bad = images.copy()
    bad[0, 0, 0] = np.nan
    logs = segmenter.train_on_batch(bad, MASKS[:BATCH], return_dict=True)
    assert logs["skipped_steps"] == 1
    assert_same(values(segmenter.weights), kept)


# === What it is trained on ===
@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (None, "A segmenter is trained on \\(images, masks\\)"),
        (MASKS[:, :4], "Masks must be integers .*Received: masks.shape"),
        (MASKS.astype("float32"), "Received: masks.dtype=float32"),
        (np.where(MASKS == 255, 7, MASKS), r"labels in \[0, 7\), or 255 for no class. Received: 7"),
    ],
)
def test_masks_that_do_not_fit_are_refused(linear, masks, message):
    with pytest.raises(ValueError, match=message):
        linear.fit(IMAGES, masks, verbose=0)
    with pytest.raises(ValueError, match=message):
        linear.evaluate(IMAGES, masks, verbose=0)


def test_masks_of_a_dataset_are_looked_at_too(linear):
    wrong = np.where(MASKS == 255, 200, MASKS)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return IMAGES[:BATCH], wrong[:BATCH]

    with pytest.raises(ValueError, match="Received: 200"):
        linear.fit(Batches(), verbose=0)


def test_datasets_say_what_their_masks_mean():
    names = [f"thing {number}" for number in range(CLASSES)]
    options = {"num_classes": CLASSES, "class_names": names, "batch_size": BATCH}
    segmenter = compiled(make("linear"))
    segmenter.fit(keras_mae.data.pairs_from_arrays(IMAGES, MASKS, **options), verbose=0)
    assert segmenter.class_names == tuple(names)
    other = keras_mae.data.pairs_from_arrays(IMAGES, MASKS, **{**options, "class_names": names[::-1]})
    with pytest.raises(ValueError, match="The dataset's labels mean other classes"):
        segmenter.fit(other, verbose=0)
    more = keras_mae.data.pairs_from_arrays(IMAGES, MASKS, BATCH, num_classes=9)
    with pytest.raises(ValueError, match="no more classes than the segmenter, 7. Received: 9"):
        segmenter.fit(more, verbose=0)
    ignoring = keras_mae.data.pairs_from_arrays(IMAGES, MASKS, BATCH, num_classes=256, ignore_label=300)
    with pytest.raises(ValueError, match="label to ignore must be the segmenter's.*Received: 300"):
        segmenter.evaluate(ignoring, verbose=0)


def test_losses_and_metrics_of_other_labels_are_refused(linear):
    for options, message in (
        ({"loss": dense.PixelCrossEntropy(200)}, "`pixel_cross_entropy` must have ignore_label=255"),
        ({"metrics": [dense.MeanIoU(3)]}, "`mean_iou` must have num_classes=7, as the segmenter has. Received: 3"),
    ):
        with pytest.raises(ValueError, match=message):
            make("linear").compile("sgd", **options)


# === Layers ===
def test_layers_and_decay():
    segmenter = make(trainable_blocks=None)
    assert segmenter.encoder.position_embedding.trainable
    found = {}
    for weight in segmenter.trainable_weights:
        found.setdefault(segmenter.layer_index(weight), []).append(weight)
    encoder = segmenter.encoder
    assert {index: len(some) for index, some in found.items() if index < 3} == {
        0: 2 + len(encoder.patch_embedding.weights),
        1: len(encoder.blocks[0].weights),
        2: len(encoder.blocks[1].weights),
    }
    parts = (segmenter.neck, segmenter.head, segmenter.auxiliary)
    assert len(found[3]) == sum(len(part.trainable_weights) for part in parts)
    optimizer = fine_tuning_adamw(segmenter, 1e-3, layer_decay=0.5)
    compiled(segmenter, optimizer)
    assert sorted(set(optimizer.scaled_layers)) == [0, 1, 2, 3]
    frozen = make("linear", trainable_blocks=0)
    assert {weight.path.split("/")[0] for weight in frozen.trainable_weights} == {"head"}


# === Prediction ===
def test_windows_slide_over_larger_images(linear):
    large = np.random.default_rng(2).integers(0, 256, (2, 13, 20, 1), "uint8")
    found = linear.predict(large, verbose=0)
    assert found.shape == (2, 13, 20, CLASSES)

    def in_keras(windows):
        return to_numpy(linear(windows))

    expected = [slide(in_keras, image, SIZE, (5, 8), 32, CLASSES) for image in large]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    (one, other) = linear.predict([large[0], large[1, :, :12]], batch_size=3, stride=(5, 8))
    np.testing.assert_allclose(one, expected[0], atol=1e-5)
    assert other.shape == (13, 12, CLASSES)


def test_an_image_of_the_crops_size_is_one_pass(linear):
    (found,) = linear.predict([IMAGES[0]])
    np.testing.assert_array_equal(found, linear.predict_on_batch(IMAGES[:1])[0])


def test_a_small_image_is_filled_up_by_name(linear):
    small = IMAGES[0, :5, :7]
    with pytest.raises(ValueError, match="as large as the training crop.*pad=True.*an image of 5 x 7"):
        linear.predict([small])
    (found,) = linear.predict([small], pad=True)
    filled = np.full((1, 8, 12, 1), linear.encoder.pixel_mean[0], "float32")
    filled[0, :5, :7] = small
    np.testing.assert_allclose(found, to_numpy(linear(filled))[0, :5, :7], atol=1e-5)


# === Files ===
def test_it_comes_back_from_a_file_and_goes_on(tmp_path):
    names = [f"thing {number}" for number in range(CLASSES)]
    segmenter = compiled(make("linear", class_names=names, drop_path_rate=0.3))
    segmenter.train_on_batch(IMAGES[:BATCH], MASKS[:BATCH])
    segmenter.save(tmp_path / "segmenter.keras")
    loaded = keras.saving.load_model(tmp_path / "segmenter.keras")
    assert loaded.class_names == segmenter.class_names
    logs = []
    for one in (segmenter, loaded):
        one.reset_metrics()
        logs.append(one.train_on_batch(IMAGES[BATCH : 2 * BATCH], MASKS[BATCH : 2 * BATCH], return_dict=True))
    assert {name: float(value) for name, value in logs[0].items()} == {
        name: float(value) for name, value in logs[1].items()
    }
    assert_same(values(loaded.weights), values(segmenter.weights))


@pytest.mark.parametrize("head", ["linear", "upernet"])
def test_a_file_of_pytorch_computes_the_same_here(head, referee, request, quick):
    if not referee.live:
        loaded, left = keras.saving.load_model(referee.path(f"{head}.keras")), referee.read(f"{head}.npz")
        found = to_numpy(quick(loaded)(ops.convert_to_tensor(IMAGES[:BATCH])))
        np.testing.assert_allclose(found, left["logits"], atol=1e-5)
        return
    segmenter = request.getfixturevalue(head)
    referee.write(f"{head}.npz", logits=to_numpy(segmenter(IMAGES[:BATCH])))
    if referee.directory is not None:
        segmenter.save(referee.directory / f"{head}.keras")
    loaded = keras_mae.ViTSegmenter.from_config(segmenter.get_config())
    assert (loaded.head_kind, loaded.blocks) == (head, segmenter.blocks)


@pytest.mark.backends("torch")
def test_our_own_formats_hold_it_and_others_its_encoder(upernet, tmp_path):
    folder = upernet.save_to_preset(tmp_path / "preset")
    assert "image-segmentation" in (folder / "README.md").read_text()
    loaded = keras_mae.ViTSegmenter.from_preset(folder)
    np.testing.assert_array_equal(to_numpy(loaded(IMAGES[:1])), to_numpy(upernet(IMAGES[:1])))
    assert convert.load(folder).report.kind == "segmenter"
    for format in ("timm", "reference", "transformers", "keras_hub"):
        with pytest.raises(ValueError, match=f"'{format}' holds no segmenter: save `segmenter.encoder`"):
            convert.save(upernet, tmp_path / "other", format)
    file = convert.save(upernet.encoder, tmp_path / "encoder.safetensors", "reference")
    encoder = keras_mae.ViTEncoder.from_preset(file, num_heads=3)
    maps = [to_numpy(one.features(IMAGES[:1])[1]) for one in (encoder, upernet.encoder)]
    np.testing.assert_allclose(*maps, atol=1e-6)


@pytest.mark.backends("torch")
def test_from_preset_gives_any_encoder_a_head(tmp_path):
    encoder = make_encoder()
    encoder.save(tmp_path / "encoder.keras")
    options = {"num_classes": CLASSES, "head": "upernet", "drop_path_rate": 0.2}
    segmenter = keras_mae.ViTSegmenter.from_preset(tmp_path / "encoder.keras", **options)
    assert (segmenter.head_kind, segmenter.encoder.drop_path_rate) == ("upernet", 0.2)
    with pytest.raises(ValueError, match="takes `num_classes`"):
        keras_mae.ViTSegmenter.from_preset(tmp_path / "encoder.keras")
    small = keras_mae.ViTSegmenter.from_preset("mae_vit_micro_patch4_28", num_classes=3)
    assert small(np.zeros((1, 28, 28, 1), "uint8")).shape == (1, 28, 28, 3)
