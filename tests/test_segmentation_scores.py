"""The loss and the scores of pixels, against scikit-learn and by hand; windows that slide over images."""

import numpy as np
import pytest
from keras import ops

from keras_mae import dense
from keras_mae.dense.labels import check_masks
from keras_mae.dense.scores import shared
from keras_mae.dense.windows import slide

KINDS = {"mean_iou": dense.MeanIoU, "pixel_accuracy": dense.PixelAccuracy, "class_accuracy": dense.ClassAccuracy}
CLASSES, LABELED = 7, 5  # two classes have no pixel, and one of these is never predicted


def batches(seed=0, count=3, ignored=0.2):
    generator = np.random.default_rng(seed)
    for _ in range(count):
        masks = generator.integers(0, LABELED, (2, 5, 9)).astype("uint8")
        logits = generator.standard_normal((2, 5, 9, CLASSES)).astype("float32")
        logits[..., CLASSES - 1] = -9
        masks[generator.random(masks.shape) < ignored] = 255
        yield masks, logits


def result(metric):
    return float(ops.convert_to_numpy(metric.result()))


def fed(*metrics, data=None):
    for masks, logits in data or batches():
        for metric in metrics:
            metric.update_state(masks, logits)
    return [result(metric) for metric in metrics]


# === Scores ===
def test_scores_are_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    masks, logits = map(np.stack, zip(*batches(), strict=True))
    true, predicted = masks[masks != 255], logits.argmax(-1)[masks != 255]
    named = np.union1d(true, predicted)
    assert len(named) == CLASSES - 1
    expected = [
        metrics.jaccard_score(true, predicted, labels=named, average="macro"),
        metrics.accuracy_score(true, predicted),
        metrics.recall_score(true, predicted, labels=np.unique(true), average="macro"),
    ]
    assert fed(*(kind(CLASSES) for kind in KINDS.values())) == pytest.approx(expected, abs=1e-6)
    counts = dense.confusion(masks, logits.argmax(-1), CLASSES)
    np.testing.assert_array_equal(counts, metrics.confusion_matrix(true, predicted, labels=range(CLASSES)))
    scores = dense.scores_of(counts)
    assert [scores[name] for name in KINDS] == pytest.approx(expected, abs=1e-12)
    one_by_one = metrics.jaccard_score(true, predicted, labels=named, average=None)
    np.testing.assert_allclose(scores["iou"][:-1], one_by_one, rtol=1e-12)
    assert np.isnan(scores["iou"][-1])
    assert np.isnan(scores["accuracy"]).tolist() == [False] * LABELED + [True] * 2


def test_scores_by_hand():
    masks, predicted = np.array([[[0, 0, 1, 1, 1, 255]]]), np.array([[[0, 2, 1, 1, 0, 0]]])
    logits = np.eye(3, dtype="float32")[predicted]
    # Class 0: 1 of 3; 1: 2 of 3; 2: 0 of 1. 3 of 5 pixels. 1/2 and 2/3 of the classes there are.
    assert fed(*(kind(3) for kind in KINDS.values()), data=[(masks, logits)]) == pytest.approx([1 / 3, 3 / 5, 7 / 12])


def test_counts_are_exact_beyond_what_float32_counts():
    side, times = 1500, 9
    masks = np.zeros((1, side, side), "uint8")
    masks[0, 0, :3] = 1
    logits = np.zeros((1, side, side, 2), "float32")  # all are predicted to be 0
    metric = dense.PixelAccuracy(2)
    for _ in range(times):
        metric.update_state(masks, logits)
    words = ops.convert_to_numpy(metric.words).astype("int64")
    expected = times * np.array([[side**2 - 3, 0], [3, 0]])
    assert expected[0, 0] > 2**24
    np.testing.assert_array_equal(words[0] + words[1] * 2**14, expected)
    np.testing.assert_array_equal(dense.confusion(masks, logits.argmax(-1), 2) * times, expected)


def test_replicas_words_add_up_and_go_on():
    """What the steps do: words of several replicas are added, and the next batch counts on from the sum."""
    alone, parts = dense.MeanIoU(CLASSES), [dense.MeanIoU(CLASSES) for _ in range(3)]
    for part, (masks, logits) in zip(parts, batches(), strict=True):
        part.words.assign(np.full((2, CLASSES, CLASSES), 2**14 - 1, "float32"))  # as full as it gets
        part.update_state(masks, logits)
    alone.words.assign(sum(ops.convert_to_numpy(part.words) for part in parts))
    fed(alone, data=batches(1))
    words = ops.convert_to_numpy(alone.words).astype("int64")
    assert 0 <= words[0].min() <= words[0].max() < 2**14
    counts = sum(
        dense.confusion(masks, logits.argmax(-1), CLASSES) for seed in (0, 1) for masks, logits in batches(seed)
    )
    np.testing.assert_array_equal(words[0] + words[1] * 2**14, counts + 3 * (2**28 - 1))


def test_nothing_counted_is_no_score():
    nothing = np.full((1, 2, 2), 255), np.zeros((1, 2, 2, 3), "float32")
    assert np.isnan(fed(*(kind(3) for kind in KINDS.values()), data=[nothing])).all()
    scores = dense.scores_of(np.zeros((3, 3), int))
    assert np.isnan([scores[name] for name in KINDS]).all()


def test_metrics_share_one_confusion_and_part_again():
    metrics = [kind(CLASSES) for kind in KINDS.values()]
    other = dense.MeanIoU(CLASSES, ignore_label=200)
    apart = fed(*metrics)
    assert shared([*metrics, other, "accuracy"]) == [*metrics, other, "accuracy"]
    assert [len(metric.variables) for metric in (*metrics, other)] == [1, 0, 0, 1]
    for metric in metrics:
        metric.reset_state()
    assert fed(*metrics) == apart
    shared(metrics[1])
    assert len(metrics[1].variables) == 1


def test_metrics_refuse_weights():
    with pytest.raises(ValueError, match="`mean_iou` counts pixels: give it as one of `metrics`"):
        dense.MeanIoU(3).update_state(np.zeros((1, 2, 2)), np.zeros((1, 2, 2, 3)), np.ones(1))


# === Loss ===
def test_the_loss_is_the_mean_over_pixels_that_have_a_class():
    (masks, logits), *_ = batches()
    shifted = np.float64(logits) - np.log(np.exp(np.float64(logits)).sum(-1, keepdims=True))
    places = np.where(masks == 255, 0, masks).astype(int)
    errors = -np.take_along_axis(shifted, places[..., None], -1)[..., 0]
    counted = masks != 255
    loss = dense.PixelCrossEntropy()
    assert float(loss(masks, logits)) == pytest.approx(errors[counted].mean(), rel=1e-6)
    weighted = (errors * counted * np.array([0.5, 2])[:, None, None]).sum() / counted.sum()
    assert float(loss(masks, logits, np.array([0.5, 2]))) == pytest.approx(weighted, rel=1e-6)
    assert float(loss(np.full_like(masks, 255), logits)) == 0
    assert np.isnan(float(loss(np.where(masks == 2, CLASSES, masks), logits)))


def test_weights_of_classes_are_pytorchs():
    """Errors and their number, both by the weight of each pixel's class."""
    (masks, logits), *_ = batches()
    logs = np.float64(logits) - np.log(np.exp(np.float64(logits)).sum(-1, keepdims=True))
    counted, weights = masks != 255, np.linspace(0, 3, CLASSES)
    of_pixels = weights[masks[counted]]
    errors = -np.take_along_axis(logs[counted], masks[counted][:, None].astype(int), -1)[:, 0]
    loss = dense.PixelCrossEntropy(class_weights=weights)
    assert float(loss(masks, logits)) == pytest.approx((of_pixels * errors).sum() / of_pixels.sum(), rel=1e-6)
    small = dense.PixelCrossEntropy(class_weights=weights * 1e-4)  # which sum up to less than 1
    assert float(small(masks, logits)) == pytest.approx(float(loss(masks, logits)), rel=1e-5)
    assert float(loss(np.zeros_like(masks), logits)) == 0  # whose weight is 0
    assert np.isnan(float(loss(np.where(masks == 2, CLASSES, masks), logits)))
    with pytest.raises(ValueError, match=f"one for each of {CLASSES} classes. Received: 2"):
        dense.PixelCrossEntropy(class_weights=(1, 2))(masks, logits)
    with pytest.raises(ValueError, match="`class_weights` must be numbers of at least 0"):
        dense.PixelCrossEntropy(class_weights=(1, -2))


@pytest.mark.backends("torch")
def test_the_loss_is_pytorchs():
    torch = pytest.importorskip("torch")
    (masks, logits), *_ = batches()
    for weights in (None, np.linspace(0.5, 3, CLASSES)):
        referee = torch.nn.CrossEntropyLoss(
            None if weights is None else torch.tensor(weights, dtype=torch.float32), ignore_index=255
        )
        expected = referee(torch.tensor(logits).permute(0, 3, 1, 2), torch.tensor(masks.astype("int64")))
        assert float(dense.PixelCrossEntropy(class_weights=weights)(masks, logits)) == pytest.approx(float(expected))


def test_labels_and_logits_must_be_of_one_size():
    with pytest.raises(ValueError, match=r"Received: labels of shape \(2, 5, 8\), logits of shape \(2, 5, 9, 7\)"):
        dense.PixelCrossEntropy()(np.zeros((2, 5, 8), "uint8"), np.zeros((2, 5, 9, 7), "float32"))


# === Masks ===
@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (None, "Received: no masks"),
        ({"mask": 1}, "Received: a dict"),
        (np.zeros((3, 4, 5), "uint8"), r"integers \(batch, 4, 6\).*Received: masks.shape=\(3, 4, 5\)"),
        (np.zeros((3, 4, 6, 1), "uint8"), r"masks\[..., 0\] takes the last axis off. Received: masks.shape=\(3, 4"),
        (np.zeros((3, 4, 6, 9), "uint8"), r"masks.argmax\(-1\) makes labels of them"),
        (np.zeros((3, 4, 6), "float32"), "Received: masks.dtype=float32"),
        (np.zeros((3, 4, 6), "uint64"), r'masks.astype\("int32"\) makes such of them. Received: masks.dtype=uint64'),
        (np.full((3, 4, 6), 9), r"labels in \[0, 9\), or 255 for no class. Received: 9$"),
        (np.arange(-12, 60).reshape(3, 4, 6), "Received: -12, -11, -10, -9, -8 and 58 others"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks, message):
    with pytest.raises(ValueError, match=message):
        check_masks(masks, (4, 6), 9, 255)


def test_masks_that_fit_are_taken():
    for dtype in ("uint8", "int32", "uint16", "int64", "uint32"):
        masks = np.array([[[0, 8, 255]]], dtype)
        check_masks(masks, (1, 3), 9, 255)
        check_masks(ops.convert_to_tensor(masks), (1, 3), 9, 255)


@pytest.mark.backends("torch")
def test_what_is_no_confusion_is_refused():
    pixels = np.zeros((2, 3), int)
    with pytest.raises(ValueError, match=r"same shape. Received: labels.shape=\(2, 3\), predictions.shape=\(2, 2\)"):
        dense.confusion(pixels, pixels[:, :2], 3)
    with pytest.raises(ValueError, match=r"`predictions` must be integers in \[0, 3\). Received: predictions from 3"):
        dense.confusion(pixels, pixels + 3, 3)
    with pytest.raises(ValueError, match="`labels` must be integers.*Received: labels.dtype=float64"):
        dense.confusion(pixels + 0.5, pixels, 3)
    with pytest.raises(
        ValueError, match="`ignore_label` must be none of the labels of the 300 classes, such as 65535"
    ):
        dense.confusion(pixels, pixels, 300)
    with pytest.raises(ValueError, match="`confusion` must be integers"):
        dense.scores_of(np.zeros((2, 3), int))


# === Windows ===
@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("size", "window", "stride", "expected"),
    [
        (1000, 512, 341, [0, 341, 488]),
        (853, 512, 341, [0, 341]),
        (512, 512, 341, [0]),
        (100, 512, 1, [0]),
        (7, 3, 3, [0, 3, 4]),
        (6, 3, 3, [0, 3]),
    ],
)
def test_windows_cover_an_axis(size, window, stride, expected):
    starts = dense.window_starts(size, window, stride)
    assert starts == expected
    assert {place for start in starts for place in range(start, start + window)} >= set(range(size))


@pytest.mark.backends("torch")
def test_where_windows_overlap_it_is_the_mean():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), "uint8")
    calls = []

    def function(windows):
        """A channel that knows its image, and one that tells windows apart."""
        calls.append(len(windows))
        number = np.arange(len(windows)) + 10 * len(calls)
        marked = np.broadcast_to(number[:, None, None, None], (*windows.shape[:3], 1))
        return np.concatenate([windows[..., :1], marked], axis=-1).astype("float32")

    found = slide(function, image, (3, 4), (2, 3), 3, 2)
    assert calls == [2, 2]  # of two by two windows, not three and one
    assert found.shape == (5, 7, 2)
    np.testing.assert_array_equal(found[..., 0], image[..., 0])
    rows = np.array(
        [[10, 10, 10, 10.5, 11, 11, 11]] * 2 + [[15, 15, 15, 15.5, 16, 16, 16]] + [[20, 20, 20, 20.5, 21, 21, 21]] * 2
    )
    np.testing.assert_array_equal(found[..., 1], rows)


@pytest.mark.backends("torch")
def test_a_window_that_covers_an_image_is_one_pass():
    image = np.random.default_rng(0).random((3, 4, 2), "float32")
    found = slide(lambda windows: np.sin(windows), image, (3, 4), (1, 1), 8, 2)
    np.testing.assert_array_equal(found, np.sin(image))


@pytest.mark.backends("torch")
def test_a_small_image_is_filled_up_only_if_asked_to():
    image = np.full((2, 5, 2), 7, "uint8")
    with pytest.raises(
        ValueError, match=r"as large as the training crop, 3 x 4, or larger.*pad=True.*image of 2 x 5"
    ):
        slide(lambda windows: windows, image, (3, 4), (2, 2), 1, 2)
    seen = []
    found = slide(lambda windows: seen.append(windows) or windows, image, (3, 4), (2, 2), 9, 2, fill=(0.5, 1.5))
    np.testing.assert_array_equal(found, image)
    assert seen[0].shape == (2, 3, 4, 2)
    np.testing.assert_array_equal(seen[0][:, 2], np.broadcast_to([0.5, 1.5], (2, 4, 2)))
