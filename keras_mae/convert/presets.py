"""What `from_preset` does for each class: a model from an architecture by name, or from a file of any format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keras_mae import _checks, _class_names, presets
from keras_mae.classifier import ViTClassifier
from keras_mae.convert.doors import documented
from keras_mae.convert.hub import push_to_hub
from keras_mae.convert.layout import Hints
from keras_mae.convert.load_save import format_of, load_format, save
from keras_mae.convert.locate import located
from keras_mae.convert.state_dict import Files
from keras_mae.cross_attention import DECODERS
from keras_mae.decoder import MAEDecoder
from keras_mae.encoder import ViTEncoder
from keras_mae.masked_autoencoder import MaskedAutoencoder
from keras_mae.presets import Preset
from keras_mae.segmenter import ViTSegmenter

__all__ = ["open_preset", "push_to_hub", "save_preset"]

_HEADS = ("num_heads", "decoder_num_heads")
_STATISTICS = ("pixel_mean", "pixel_std")
_OF_AUTOENCODER = (
    "masking",
    "norm_pix_loss",
    "target",
    "band_groups",
    "masks_per_image",
    "predict_ratio",
    "fuse_blocks",
    "seed",
    "name",
    "dtype",
)
_OF_COPIES = ("masking", "masks_per_image", "predict_ratio", "seed", "name")
_OF_HEADS: dict[type[Any], tuple[str, ...]] = {
    ViTClassifier: ("num_classes", "pooling", "trainable_blocks", "batch_norm", "class_names", "name"),
    ViTSegmenter: (
        "num_classes",
        "head",
        "blocks",
        "trainable_blocks",
        "class_names",
        "ignore_label",
        "reduce_zero_label",
        "name",
    ),
}


def open_preset(
    cls: type[Any], preset: str | Path, weights: str | Path | None = None, overrides: dict[str, Any] | None = None
) -> Any:
    """Return a model of a class; see `from_preset`.

    Args:
        cls: `ViTEncoder`, `MaskedAutoencoder`, `ViTClassifier`, `ViTSegmenter`, or a subclass.
        preset: Name of an architecture, or where a model is.
        weights: Where an architecture's weights are.
        overrides: Arguments of the model, or of its encoder, that differ.
    """
    maker, overrides = _maker_of(cls), dict(overrides or {})
    _checks.path("preset", preset, "a name or a path")
    if weights is not None:
        _checks.path("weights", weights, "a path, or the name of a published checkpoint")
    if str(preset) in presets.names():
        sizes = presets.get(str(preset))
        if weights is None:
            return maker.from_sizes(cls, sizes, overrides)
        return maker.from_model(cls, _with_weights(maker, preset, sizes, weights, overrides), overrides)
    if weights is not None:
        raise ValueError(f"`weights` are for an architecture by name. Received: preset={str(preset)!r}")
    key, most = overrides.pop("checkpoint_key", None), overrides.pop("max_parameters", None)
    files = Files(located(preset), key, most)
    format = documented(format_of, files)
    given = _taken(overrides, (*_HEADS, "norm_pix_loss")) if format.takes_hints else {}
    if "image_shape" in overrides:
        overrides["image_shape"] = shape = _checks.image_shape(overrides["image_shape"])
        given |= {"image_hint": shape} if format.takes_hints else {}
    hints = Hints(encoder_only=maker.encoder_only, checkpoint_key=key, max_parameters=most, **given)
    loaded = documented(load_format, files, hints).model
    if overrides.get("image_shape") == getattr(loaded, "encoder", loaded).image_shape:
        del overrides["image_shape"]
    model = maker.from_model(cls, loaded, overrides)
    if not isinstance(model, cls):
        raise ValueError(f"{str(preset)!r} holds a {type(model).__name__}, which is no {cls.__name__}")
    return model


def save_preset(model: Any, path: str | Path) -> Path:
    """Write a model to a folder; see `save_to_preset`."""
    return save(model, path, "preset")


def _with_weights(
    maker: _Maker, preset: str | Path, sizes: Preset, weights: str | Path, overrides: dict[str, Any]
) -> Any:
    """Return the model in `weights`, which must be the architecture's; what it used of `overrides` is taken out."""
    key, most = overrides.pop("checkpoint_key", None), overrides.pop("max_parameters", None)
    files = Files(located(weights, published=True), key, most)
    format = documented(format_of, files)
    image_shape = _checks.image_shape(overrides.get("image_shape", sizes.encoder["image_shape"]))
    other_channels = image_shape[2] != sizes.encoder["image_shape"][2]
    hints = Hints(encoder_only=maker.encoder_only, checkpoint_key=key, max_parameters=most)
    if format.takes_hints:
        # With another number of channels an encoder is loaded as it is, and copied.
        shape = {} if other_channels else _taken(overrides, ("image_shape",))
        encoder = _taken(overrides, ("drop_path_rate", "dtype", *(() if other_channels else _STATISTICS)))
        # Where the file says its heads, the encoder's are compared below; an architecture's decoder is only a habit.
        heads = {
            "num_heads": files.said.get("num_heads", sizes.encoder["num_heads"]),
            "decoder_num_heads": files.said.get("decoder_num_heads", sizes.decoder["num_heads"]),
        }
        target = _taken(overrides, ("norm_pix_loss",))
        hints = replace(hints, encoder=encoder, **shape, **heads, **target)
    model = documented(load_format, files, hints).model
    expected = {"class_tokens": overrides.pop("class_tokens", 1)} | sizes.encoder
    expected |= {} if other_channels else {"image_shape": image_shape}
    _refuse_other_sizes(getattr(model, "encoder", model), expected, preset, weights)
    return model


def _taken(overrides: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Take the arguments of these names out of `overrides`, and return them."""
    return {name: overrides.pop(name) for name in names if name in overrides}


def _refuse_other_sizes(encoder: Any, expected: dict[str, Any], preset: Any, weights: Any) -> None:
    """Raise a `ValueError` unless the weights are those of the architecture that was named."""
    expected = expected | {"patch_size": _checks.pair("patch_size", expected["patch_size"])}
    differing = {name: has for name in expected if (has := getattr(encoder, name)) != expected[name]}
    if differing:
        raise ValueError(f"The weights {str(weights)!r} are not of {str(preset)!r}: they have {differing}")


def _refuse_unknown(overrides: dict[str, Any], allowed: tuple[str, ...]) -> None:
    """Raise a `ValueError` if there is an argument that `from_preset` does not take here."""
    if unknown := set(overrides) - set(allowed):
        raise ValueError(
            f"`from_preset` takes arguments of {', '.join(allowed)}. Received: {', '.join(sorted(unknown))}"
        )


# === How each class is made ===
def _encoder_from_sizes(cls: type[Any], sizes: Preset, overrides: dict[str, Any]) -> Any:
    _refuse_unknown(overrides, (*presets.ENCODER_ARGUMENTS, "dtype", "name"))
    return cls(**{**sizes.encoder, **overrides})


def _encoder_from_model(cls: type[Any], model: Any, overrides: dict[str, Any]) -> Any:
    encoder = getattr(model, "encoder", model)
    return encoder.copy(**overrides) if overrides else encoder


def _autoencoder_from_sizes(cls: type[Any], sizes: Preset, overrides: dict[str, Any]) -> Any:
    own = _taken(overrides, _OF_AUTOENCODER)
    decoder = DECODERS[_checks.one_of("decoder", overrides.pop("decoder", MAEDecoder.kind), DECODERS)]
    _refuse_unknown(overrides, (*presets.ENCODER_ARGUMENTS, *_OF_AUTOENCODER, "decoder"))
    dtype = {"dtype": own["dtype"]} if "dtype" in own else {}
    remat = {"remat": overrides["remat"]} if "remat" in overrides else {}
    encoder = ViTEncoder(**{**sizes.encoder, **overrides, **dtype})
    return cls(encoder, decoder(**sizes.decoder, **remat, **dtype), **own)


def _autoencoder_from_model(cls: type[Any], model: Any, overrides: dict[str, Any]) -> Any:
    if not isinstance(model, MaskedAutoencoder):
        raise ValueError(
            f"A MaskedAutoencoder needs a decoder, and these weights are a {type(model).__name__}: it can "
            "reconstruct nothing. Load a checkpoint with a decoder (mae_pretrain_vit_..._full, "
            "mae_visualize_vit_..., transformers' ViTMAEForPreTraining), or give the encoder a new one: "
            "MaskedAutoencoder(ViTEncoder.from_preset(...), MAEDecoder())"
        )
    if not overrides:
        return model
    _refuse_unknown(overrides, (*_OF_COPIES, "image_shape", "drop_path_rate", "remat", "dtype"))
    return model.copy(**overrides)


def _headed_from_sizes(cls: type[Any], sizes: Preset, overrides: dict[str, Any]) -> Any:
    kind, names = _head_of(cls)
    own = _taken(overrides, names)
    if "num_classes" not in own:
        raise ValueError(f"A {kind.__name__} by the name of its architecture takes `num_classes`. Received: none")
    _refuse_unknown(overrides, (*presets.ENCODER_ARGUMENTS, "dtype", *names))
    return cls(ViTEncoder(**{**sizes.encoder, **overrides}), **own)


def _headed_from_model(cls: type[Any], model: Any, overrides: dict[str, Any]) -> Any:
    kind, names = _head_of(cls)
    if isinstance(model, kind) and _same_head(model, overrides):
        model.class_names = overrides.get("class_names", model.class_names)
        return model
    _refuse_unknown(overrides, (*names, "drop_path_rate", "image_shape"))
    if "num_classes" not in overrides:
        raise ValueError(
            f"These weights are a {type(model).__name__}; a new head on its encoder takes `num_classes`. "
            f"Received: {overrides or 'no argument'}"
        )
    return cls(getattr(model, "encoder", model), **overrides)


def _head_of(cls: type[Any]) -> tuple[type[Any], tuple[str, ...]]:
    """Return which of our models with a head a class is, and the names of its own arguments."""
    return next((kind, names) for kind, names in _OF_HEADS.items() if issubclass(cls, kind))


def _same_head(model: Any, overrides: dict[str, Any]) -> bool:
    """Return whether a model's own head is asked for, which may be given names if it has none."""
    names = _class_names.checked(overrides.get("class_names"))
    return (
        set(overrides) <= {"num_classes", "class_names"}
        and overrides.get("num_classes", model.num_classes) == model.num_classes
        and (names is None or model.class_names in (None, names))
    )


@dataclass(frozen=True)
class _Maker:
    """How models of a class are made.

    Attributes:
        from_sizes: Function of the class, an architecture's sizes, and overrides.
        from_model: Function of the class, a model of any class, and overrides.
        encoder_only: Whether only the encoder of what is loaded matters.
    """

    from_sizes: Callable[[type[Any], Preset, dict[str, Any]], Any]
    from_model: Callable[[type[Any], Any, dict[str, Any]], Any]
    encoder_only: bool = False


_MAKERS: dict[type[Any], _Maker] = {
    ViTEncoder: _Maker(_encoder_from_sizes, _encoder_from_model, encoder_only=True),
    MaskedAutoencoder: _Maker(_autoencoder_from_sizes, _autoencoder_from_model),
    **dict.fromkeys(_OF_HEADS, _Maker(_headed_from_sizes, _headed_from_model)),
}


def _maker_of(cls: type[Any]) -> _Maker:
    for base, maker in _MAKERS.items():
        if issubclass(cls, base):
            return maker
    raise ValueError(f"`from_preset` makes {', '.join(base.__name__ for base in _MAKERS)}. Received: {cls.__name__}")
