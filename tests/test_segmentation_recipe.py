"""The recipe for segmentation: the published numbers, and what follows from them."""

import dataclasses

import numpy as np
import pytest
from recipe_helpers import assert_has
from test_recipes import Model, rates_of

from keras_mae import data
from keras_mae.recipes import Recipe, SegmentationRecipe
from keras_mae.recipes.base import changed
from keras_mae.recipes.sources import table

pytestmark = pytest.mark.backends("torch")
make = SegmentationRecipe.for_size
ADE20K = 20_210


# === Published: FACTS, section 9 ===
@pytest.mark.parametrize(
    ("size", "rate", "layer_decay", "drop_path_rate"), [("base", 1e-4, 0.65, 0.1), ("large", 9e-5, 0.75, 0.2)]
)
def test_upernet(size, rate, layer_decay, drop_path_rate):
    recipe = make(size)
    assert_has(
        recipe,
        source="mmsegmentation",
        head="upernet",
        trainable_blocks=None,
        layer_decay=layer_decay,
        drop_path_rate=drop_path_rate,
        batch_size=16,
        weight_decay=0.05,
        beta_1=0.9,
        beta_2=0.999,
        power=1.0,
        minimum_learning_rate=0.0,
        auxiliary_weight=0.4,
        ema_momentum=None,
    )
    assert recipe.learning_rate == pytest.approx(rate, rel=1e-12)
    assert recipe.crop == {"scale": (0.5, 2.0), "max_class_share": 0.75, "flip": True}
    assert data.SegmentationCrop(**recipe.crop) == data.SegmentationCrop()  # distortion and all


@pytest.mark.parametrize("size", ["base", "large"])
def test_the_frozen_linear_head(size):
    recipe = make(size, head="linear")
    assert_has(recipe, source="dinov2", head="linear", trainable_blocks=0, weight_decay=0.01, batch_size=16)
    assert recipe.learning_rate == pytest.approx(1e-3, rel=1e-12)


@pytest.mark.parametrize(("head", "updates"), [("upernet", 160_000), ("linear", 40_000)])
def test_epochs_come_as_near_to_the_published_updates_as_they_can(head, updates):
    recipe, an_epoch = make(head=head), ADE20K // 16
    assert abs(recipe.epochs * an_epoch - updates) <= an_epoch / 2
    assert abs(recipe.warmup_epochs * an_epoch - 1_500) <= an_epoch / 2


def test_small_images_are_marked_untuned():
    for head, blocks, rate in (("upernet", None, 1e-3), ("linear", 0, 0.016)):
        recipe = make("small_images", head=head)
        assert_has(recipe, source="untuned", head=head, trainable_blocks=blocks, layer_decay=0.75, epochs=50)
        assert recipe.learning_rate == pytest.approx(rate)
    tuned = make("small_images", head="linear", trainable_blocks="all")
    assert (tuned.trainable_blocks, tuned.changed) == (None, ("trainable_blocks",))
    assert tuned.learning_rate == pytest.approx(1e-3)
    assert tuned.origins == {"base_learning_rate": "follows trainable_blocks"}
    again = changed(tuned, {"trainable_blocks": 0})
    assert again.learning_rate == pytest.approx(0.016)
    assert make("small_images", head="linear", trainable_blocks=1, base_learning_rate=0.5).base_learning_rate == 0.5


@pytest.mark.parametrize(
    ("images", "batch_size", "epochs"), [(7, 7, 300), (20, 10, 150), (200, 16, 50), (2_000, 16, 10), (9_000, 16, 10)]
)
def test_small_images_are_trained_on_by_their_number(images, batch_size, epochs):
    recipe = make("small_images", images=images)
    assert (recipe.batch_size, recipe.epochs) == (batch_size, epochs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "huge"}, "`size` must be one of 'base', 'large', 'small_images'"),
        ({"head": "mask2former"}, "`head` must be one of 'upernet', 'linear'"),
        ({"source": "dinov2"}, "`source` must be one of 'mmsegmentation'"),
        ({"source": "mmsegmentation", "head": "linear"}, "`source` must be one of 'dinov2'"),
        ({"size": "small_images", "source": "dinov2"}, "`source` must be one of 'untuned'"),
        ({"images": 3}, '`images` goes with the recipe "small_images"'),
        ({"trainable_blocks": 0.3}, "`trainable_blocks` must be 0, 0.5, 1"),
        ({"crop_area": (0.1, 1.0)}, "A SegmentationRecipe has epochs, .*Received: crop_area"),
        ({"monitor": "val_accuracy"}, "`monitor` must be one of 'val_mean_iou', 'val_loss'"),
        ({"scale": (2.0, 0.5)}, "`scale`"),
    ],
)
def test_what_is_no_recipe_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


# === What follows ===
@pytest.mark.backends("torch", "jax", "tensorflow")
def test_the_optimizer_has_the_recipes_numbers():
    recipe = SegmentationRecipe(
        epochs=13,
        warmup_epochs=3,
        batch_size=64,
        base_learning_rate=2.0,
        weight_decay=0.3,
        layer_decay=0.5,
        beta_1=0.8,
        beta_2=0.7,
        power=2.0,
        minimum_learning_rate=0.1,
        gradient_accumulation_steps=2,
        ema_momentum=0.9,
    )
    optimizer = recipe.optimizer(Model(), steps_per_epoch=4)
    assert_has(optimizer, weight_decay=0.3, beta_1=0.8, beta_2=0.7, learning_rate_scales=[0.25, 1.0])
    assert_has(optimizer, use_ema=True, ema_momentum=0.9)
    # 13 epochs of 4 batches, two to an update: 26 updates, 6 of warm-up.
    rates = rates_of(optimizer, 0, 3, 6, 16, 26)
    np.testing.assert_allclose(rates, [0, 0.25, 0.5, 0.2, 0.1], rtol=1e-6, atol=1e-9)


def test_a_patience_asks_for_the_best_epoch():
    recipe = make(patience=3)
    assert_has(recipe, best_epoch=True, origins={"best_epoch": "follows patience"})
    assert make(patience=3, best_epoch=False).best_epoch is False
    assert SegmentationRecipe(patience=2).best_epoch is True


def test_files_give_it_back():
    recipe = make("large", blocks=[1, 2, 3, 5], scale=[1, 1.5], trainable_blocks=0.5, distortion=False)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert (recipe.blocks, recipe.scale) == ((1, 2, 3, 5), (1, 1.5))
    assert recipe.crop["distortion"] is None
    earlier = {name: value for name, value in make().to_dict().items() if name not in SegmentationRecipe._added}
    assert Recipe.from_dict(earlier) == make()


def notes_of(recipe):
    return {name: note for name, _, note in table(recipe)}


def test_it_says_whose_each_number_is():
    assert {note for name, note in notes_of(make("large")).items() if name != "seed"} == {"mmsegmentation"}
    assert {note for name, note in notes_of(make(head="linear")).items() if name != "seed"} == {"DINOv2"}
    assert notes_of(make("large", epochs=9))["epochs"] == "changed; mmsegmentation: 127"
    small = notes_of(make("small_images", head="linear"))
    assert (small["epochs"], small["batch_size"]) == ("default for folders; DINOv2: 32", "DINOv2")
    other = notes_of(dataclasses.replace(make(head="linear"), head="upernet"))
    assert other["epochs"] == "DINOv2; mmsegmentation: 127"
