"""What every public class promises, and how to make one of each.

`public_classes` walks `keras_mae.__all__` and what Keras knows of the package, so a new class cannot be forgotten:
a serialisable one that has no entry in `EXAMPLES` fails its tests.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import keras
import numpy as np
from conftest import run_quickly
from keras import ops

import keras_mae
from keras_mae.dense.layers import ChannelDropout, ConvolutionNorm, TransposedConvolution


def public_classes() -> dict[str, type]:
    """Public name -> class, of the package, of the modules it exports, and of Keras' registry."""
    found: dict[str, type] = {}

    def walk(holder: ModuleType, names: list[str], prefix: str) -> None:
        for name in names:
            try:
                value = getattr(holder, name)
            except ImportError:
                continue  # `test_every_public_name_exists` says so
            if isinstance(value, ModuleType):
                walk(value, _names(value), f"{prefix}{name}.")
            elif inspect.isclass(value) and value not in found.values():
                found[prefix + name] = value

    walk(keras_mae, list(keras_mae.__all__), "")
    for registered, value in keras.saving.get_custom_objects().items():
        if registered.startswith("keras_mae>") and value not in found.values():
            found[f"{value.__module__.rpartition('.')[2]}.{value.__name__}"] = value
    return found


def _names(module: ModuleType) -> list[str]:
    if hasattr(module, "__all__"):
        return list(module.__all__)
    own = inspect.getmembers(module, lambda value: getattr(value, "__module__", None) == module.__name__)
    return [name for name, value in own if not name.startswith("_") and inspect.isclass(value)]


def serialisable() -> dict[str, type]:
    """The classes that Keras saves: those with a `get_config`."""
    return {name: value for name, value in public_classes().items() if hasattr(value, "get_config")}


@dataclass(frozen=True)
class Example:
    """How to make an object, and something to call it with.

    Attributes:
        make: Keyword arguments -> object. No argument is at its default, so that one that is lost shows.
        call: Object -> array. Deterministic. See `outputs_of`.
        wrap: Object -> a model that can be saved as `.keras`, or `None` where that makes no sense.
        unwrap: That model, loaded -> the object.
    """

    make: Callable[..., Any]
    call: Callable[[Any], Any] | None = None
    wrap: Callable[[Any], keras.Model] | None = None
    unwrap: Callable[[keras.Model], Any] = lambda model: model


# The shapes are those of `conftest`, for JAX compiles once for each.
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 15, 14, 3), "uint8")
TOKENS = np.random.default_rng(1).standard_normal((3, 9, 12)).astype("float32")
NOISE = np.random.default_rng(2).integers(-(2**31), 2**31, (3, 24)).astype("int32")


def encoder(**kwargs: Any) -> keras_mae.ViTEncoder:
    return keras_mae.ViTEncoder(
        (15, 14, 3),
        (3, 2),
        embed_dim=12,
        depth=2,
        num_heads=3,
        mlp_ratio=4.05,
        drop_path_rate=0.25,
        layer_norm_eps=1e-5,
        pixel_mean=(10, 20, 30),
        pixel_std=(40, 50, 60),
        seed=17,
        class_tokens=2,
        remat=True,
        **kwargs,
    )


def windowed(**kwargs: Any) -> keras_mae.ViTEncoder:
    return encoder(window=2, global_blocks=(), **kwargs)


def decoder(**kwargs: Any) -> keras_mae.MAEDecoder:
    model = keras_mae.MAEDecoder(
        8,
        1,
        2,
        mlp_ratio=4.05,
        layer_norm_eps=1e-5,
        image_shape=(15, 14, 3),
        patch_size=(3, 2),
        class_tokens=2,
        remat=True,
        **kwargs,
    )
    model.build((None, None, 12))
    return model


def cross_decoder(**kwargs: Any) -> keras_mae.CrossAttentionDecoder:
    model = keras_mae.CrossAttentionDecoder(
        8, 1, 2, mlp_ratio=4.05, layer_norm_eps=1e-5, image_shape=(15, 14, 3), patch_size=(3, 2), remat=True, **kwargs
    )
    model.build((2, None, None, 12))
    return model


def mae(**kwargs: Any) -> keras_mae.MaskedAutoencoder:
    return keras_mae.MaskedAutoencoder(
        encoder(**kwargs),
        decoder(**kwargs),
        keras_mae.BlockMasking(0.76),
        norm_pix_loss=True,
        target=keras_mae.targets.LowPass(0.2),
        band_groups=((2,), (0, 1)),
        masks_per_image=3,
        predict_ratio=0.4,
        fuse_blocks=(-2, 1),
        seed=23,
        **kwargs,
    )


def classifier(**kwargs: Any) -> keras_mae.ViTClassifier:
    return keras_mae.ViTClassifier(
        encoder(**kwargs),
        7,
        pooling="token",
        drop_path_rate=0.15,
        image_shape=(12, 14, 3),
        trainable_blocks=1.5,
        batch_norm=True,
        **kwargs,
    )


def detection_backbone(dtype: Any = None, **kwargs: Any) -> keras_mae.DetectionBackbone:
    encoder = keras_mae.ViTEncoder((16, 24, 3), 4, embed_dim=12, depth=2, num_heads=3, dtype=dtype)
    return keras_mae.DetectionBackbone(encoder, (16, 32, 3), min_level=1, width=6, **kwargs)


def pyramid_of(backbone: Any) -> Any:
    maps = backbone(np.random.default_rng(4).integers(0, 256, (2, 16, 32, 3)).astype("float32"))
    return ops.concatenate([ops.reshape(one, (-1,)) for one in maps.values()])


def segmenter(**kwargs: Any) -> keras_mae.ViTSegmenter:
    return keras_mae.ViTSegmenter(
        encoder(**kwargs),
        7,
        "upernet",
        blocks=(0, 0, 0, 1),
        drop_path_rate=0.15,
        image_shape=(12, 14, 3),
        trainable_blocks=1.5,
        class_names=list("abcdefg"),
        ignore_label=9,
        reduce_zero_label=True,
        **kwargs,
    )


def teacher(**kwargs: Any) -> keras_mae.targets.Teacher:
    return keras_mae.targets.Teacher(encoder(**kwargs), **kwargs)


def patch_embedding(**kwargs: Any) -> keras_mae.PatchEmbedding:
    return keras_mae.PatchEmbedding((3, 2), 12, pixel_mean=(10, 20, 30), pixel_std=(40, 50, 60), **kwargs)


def block(**kwargs: Any) -> keras_mae.TransformerBlock:
    return keras_mae.TransformerBlock(3, mlp_ratio=4.05, drop_path_rate=0.25, layer_norm_eps=1e-5, **kwargs)


def predict_patches(model: Any) -> Any:
    ids = np.tile(np.random.default_rng(3).permutation(35).astype("int32"), (3, 1))
    return model(TOKENS, ids[:, :7], ids[:, 7:])


def predict_from_blocks(model: Any) -> Any:
    ids = np.tile(np.random.default_rng(3).permutation(35).astype("int32"), (3, 1))
    return model(np.stack([TOKENS, TOKENS[::-1]]), ids[:, :8], ids[:, 8:])


def of_two(layer: keras.layers.Layer) -> keras.Model:
    x, context = keras.Input((9, 12)), keras.Input((9, 12))
    return keras.Model([x, context], layer(x, context))


def sequential(layer: keras.layers.Layer) -> keras.Model:
    return keras.Sequential([keras.Input((9, 12)), layer])


def of_images(layer: keras.layers.Layer) -> keras.Model:
    return keras.Sequential([keras.Input((15, 14, 3)), layer])


def masking_model(layer: keras.layers.Layer) -> keras.Model:
    noise = keras.Input((24,), dtype="int32")
    return keras.Model(noise, layer(noise, grid=(4, 6)).ids_keep)


def drop_path_model(layer: keras.layers.Layer) -> keras.Model:
    branch, noise = keras.Input((9, 12)), keras.Input((), dtype="int32")
    return keras.Model([branch, noise], layer(branch, noise))


def masking(kind: Callable[..., Any], ratio: float) -> Example:
    return Example(
        lambda **kwargs: kind(ratio, **kwargs),
        call=lambda layer: layer(NOISE, grid=(4, 6)).mask,
        wrap=masking_model,
        unwrap=lambda model: model.layers[-1],
    )


def optimizer(kind: type) -> Example:
    def make(**kwargs: Any) -> Any:
        schedule = keras_mae.optimizers.warmup_cosine(0.01, 100, 10)
        return kind(schedule, weight_decay=0.3, beta_1=0.8, beta_2=0.7, epsilon=1e-5, clipnorm=2.0, **kwargs)

    return Example(make)


def muon(**kwargs: Any) -> keras_mae.optimizers.Muon:
    schedule = keras_mae.optimizers.warmup_cosine(0.01, 100, 10)
    return keras_mae.optimizers.Muon(
        schedule,
        weight_decay=0.3,
        momentum=0.8,
        adam_beta_1=0.7,
        adam_beta_2=0.6,
        epsilon=1e-5,
        adam_lr_ratio=0.5,
        rms_rate=0.4,
        ns_steps=4,
        exclude_layers=["norm"],
        fused={"both": 2},
        **kwargs,
    )


def lars(**kwargs: Any) -> keras_mae.optimizers.LARS:
    schedule = keras_mae.optimizers.warmup_cosine(0.01, 100, 10)
    return keras_mae.optimizers.LARS(
        schedule, momentum=0.8, weight_decay=0.3, trust_coefficient=2e-3, clipnorm=2.0, name="mine", **kwargs
    )


def last_layer(model: keras.Model) -> Any:
    return model.layers[-1]


EXAMPLES: dict[str, Example] = {
    "BlockMasking": masking(keras_mae.BlockMasking, 0.6),
    "GridMasking": masking(keras_mae.GridMasking, 0.75),
    "NoiseMasking": masking(partial(keras_mae.NoiseMasking, color="blue"), 0.6),
    "RandomMasking": masking(partial(keras_mae.RandomMasking, cell=2), 0.6),
    "DropPath": Example(
        lambda **kwargs: keras_mae.DropPath(0.25, **kwargs),
        call=lambda layer: layer(TOKENS, NOISE[:, 0]),
        wrap=drop_path_model,
        unwrap=last_layer,
    ),
    "AttentivePooling": Example(
        lambda **kwargs: keras_mae.AttentivePooling(6, **kwargs), lambda layer: layer(TOKENS), sequential, last_layer
    ),
    "PatchEmbedding": Example(patch_embedding, lambda layer: layer(IMAGES), of_images, last_layer),
    "TransformerBlock": Example(block, lambda layer: layer(TOKENS), sequential, last_layer),
    "ViTEncoder": Example(windowed, lambda model: model(IMAGES), lambda model: model),
    "MAEDecoder": Example(decoder, predict_patches, lambda model: model),
    "CrossAttentionDecoder": Example(cross_decoder, predict_from_blocks, lambda model: model),
    "MaskedAutoencoder": Example(mae, lambda model: model(IMAGES)["reconstruction"], lambda model: model),
    "ViTClassifier": Example(classifier, lambda model: model(IMAGES[:, :12]), lambda model: model),
    "DetectionBackbone": Example(detection_backbone, pyramid_of, lambda model: model),
    "ViTSegmenter": Example(segmenter, lambda model: model(IMAGES[:, :12]), lambda model: model),
    "optimizers.AdamW": optimizer(keras_mae.optimizers.AdamW),
    "optimizers.LARS": Example(lars),
    "targets.HOG": Example(lambda: keras_mae.targets.HOG(2, 5)),
    "targets.LowPass": Example(lambda: keras_mae.targets.LowPass(0.2)),
    "targets.Teacher": Example(teacher, lambda layer: layer(IMAGES), of_images, last_layer),
    "optimizers.Muon": Example(muon),
    "schedules.WarmupCosine": Example(lambda: keras_mae.optimizers.warmup_cosine(0.01, 100, 10, minimum=0.001)),
    "schedules.WarmupStableDecay": Example(
        lambda: keras_mae.optimizers.warmup_stable_decay(0.01, 100, 10, 20, minimum=0.001)
    ),
    "schedules.WarmupPolynomial": Example(
        lambda: keras_mae.optimizers.warmup_polynomial(0.01, 100, 10, power=0.9, minimum=0.001)
    ),
    # A loss and a metric have no weights to lose and are saved in a compiled model: the configuration is all.
    "loss.Accuracy": Example(lambda **kwargs: keras_mae.loss.Accuracy("mine", dtype="float16", **kwargs)),
    "loss.CrossEntropy": Example(
        lambda **kwargs: keras_mae.loss.CrossEntropy(
            name="mine", class_weights=(0.5, 3.0), reduction="sum", dtype="float16", **kwargs
        )
    ),
    "dense.ClassAccuracy": Example(partial(keras_mae.dense.ClassAccuracy, 5, 9, name="mine", dtype="float16")),
    "dense.MeanIoU": Example(partial(keras_mae.dense.MeanIoU, 5, 9, name="mine", dtype="float16")),
    "dense.PixelAccuracy": Example(partial(keras_mae.dense.PixelAccuracy, 5, 9, name="mine", dtype="float16")),
    "dense.PixelCrossEntropy": Example(
        partial(keras_mae.dense.PixelCrossEntropy, 9, name="mine", dtype="float16", class_weights=(0.5, 3.0))
    ),
    "cross_attention.CrossAttention": Example(
        lambda **kwargs: keras_mae.cross_attention.CrossAttention(3, **kwargs),
        lambda layer: layer(TOKENS, TOKENS[::-1]),
        of_two,
        last_layer,
    ),
    "cross_attention.CrossAttentionBlock": Example(
        lambda **kwargs: keras_mae.cross_attention.CrossAttentionBlock(
            3, mlp_ratio=4.05, layer_norm_eps=1e-5, **kwargs
        ),
        lambda layer: layer(TOKENS, TOKENS[::-1]),
        of_two,
        last_layer,
    ),
    "fusion.BlockFusion": Example(
        lambda **kwargs: keras_mae.fusion.BlockFusion(2, **kwargs),
        lambda layer: layer([TOKENS, TOKENS[::-1]]),
        lambda layer: keras.Model(inputs := [keras.Input((9, 12)), keras.Input((9, 12))], layer(inputs)),
        last_layer,
    ),
    "transformer.Attention": Example(
        lambda **kwargs: keras_mae.transformer.Attention(3, **kwargs),
        lambda layer: layer(TOKENS),
        sequential,
        last_layer,
    ),
    "transformer.MLP": Example(
        lambda **kwargs: keras_mae.transformer.MLP(4.05, **kwargs),
        lambda layer: layer(TOKENS),
        sequential,
        last_layer,
    ),
}


def of_maps(make: Callable[..., Any], number: int) -> Example:
    """A neck or a head of so many maps, built by a symbolic call: JAX is slow to run one operation by operation."""
    maps = [np.random.default_rng(number).standard_normal((2, 4, 6, 8)).astype("float32") for _ in range(number)]

    def build(layer: Any) -> Any:
        layer([keras.KerasTensor(one.shape) for one in maps])
        return layer

    def call(layer: Any) -> Any:
        if not layer.built:
            return build(layer)
        found = layer(maps)
        return ops.concatenate([ops.reshape(one, (-1,)) for one in found]) if isinstance(found, list) else found

    def wrap(layer: keras.layers.Layer) -> keras.Model:
        inputs = [keras.Input((4, 6, 8)) for _ in maps]
        return keras.Model(inputs, layer(inputs))

    return Example(lambda **kwargs: build(make(**kwargs)), call, wrap, last_layer)


def of_one_map(make: Callable[..., Any]) -> Example:
    x = np.random.default_rng(5).standard_normal((2, 4, 6, 8)).astype("float32")
    return Example(
        make, lambda layer: layer(x), lambda layer: keras.Sequential([keras.Input((4, 6, 8)), layer]), last_layer
    )


EXAMPLES |= {
    "dense.FCNHead": of_maps(partial(keras_mae.dense.FCNHead, 5, width=6, dropout_rate=0.3), 1),
    "dense.LinearHead": of_maps(partial(keras_mae.dense.LinearHead, 5, dropout_rate=0.3), 2),
    "dense.MultiLevelNeck": of_maps(keras_mae.dense.MultiLevelNeck, 4),
    "dense.SimplePyramid": of_maps(partial(keras_mae.dense.SimplePyramid, 6, p6=False), 1),
    "dense.UPerHead": of_maps(partial(keras_mae.dense.UPerHead, 5, width=6, pool_scales=(1, 2), dropout_rate=0.3), 3),
    "ops.BatchNormalization": of_one_map(
        partial(keras_mae.ops.BatchNormalization, momentum=0.8, epsilon=1e-4, center=False)
    ),
    "layers.ChannelDropout": of_one_map(partial(ChannelDropout, 0.3)),
    "layers.ConvolutionNorm": of_one_map(partial(ConvolutionNorm, 6, 1)),
    "layers.TransposedConvolution": of_one_map(partial(TransposedConvolution, 6)),
}


def outputs_of(example: Example, made: Any) -> np.ndarray:
    """What `example.call` gives, float32."""
    if not made.built:
        example.call(made)
    return keras.ops.convert_to_numpy(run_quickly(lambda: keras.ops.cast(example.call(made), "float32"))())


def layers_within(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """The layer and all below it, but for maskings: they handle integers only, and have no use for a policy."""
    yield layer
    for child in layer._flatten_layers(include_self=False, recursive=True):
        if not isinstance(child, keras_mae.masking.Masking):
            yield child
