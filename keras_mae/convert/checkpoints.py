"""A model from any library's file, and any library's file from a model."""

import json
import math
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_mae import _checks
from keras_mae.classifier import ViTClassifier
from keras_mae.convert import hugging_face, keras_hub, reference
from keras_mae.convert.state_dict import StateDict, read, write_safetensors, write_torch
from keras_mae.convert.weight_map import Report, load_weights, save_weights
from keras_mae.decoder import MAEDecoder
from keras_mae.encoder import ViTEncoder
from keras_mae.masked_autoencoder import MaskedAutoencoder
from keras_mae.masking import RandomMasking

FORMATS = ("reference", "timm", "transformers", "keras_hub")


class Converted(NamedTuple):
    """A model, and what became of every tensor of the file it came from."""

    model: Any
    report: Report


def load(
    path: str | Path,
    norm_pix_loss: bool | None = None,
    num_heads: int | None = None,
    decoder_num_heads: int | None = None,
    image_shape: tuple[int, int, int] | None = None,
    encoder_only: bool = False,
    **encoder: Any,
) -> Converted:
    """A model from another library's file: an encoder, masked autoencoder or classifier, whichever it holds.

    Args:
        path: A `.pth`, `.bin` or `.safetensors` file of the authors' repository or of `timm`, or a folder that
            `transformers` or KerasHub saved. What a file is goes by its content, not by its name.
        norm_pix_loss: Whether a decoder predicts normalised pixels, where nothing says so. `transformers` does; of
            the authors' files a run's own holds its arguments, a published one is named for it ("full": normalised,
            "visualize": pixels).
        num_heads: The encoder's heads, where the file does not say and the width is not a published one.
        decoder_num_heads: The decoder's, likewise.
        image_shape: Of the images, if other than the file's: the positions are resized in two dimensions. Other
            channels: `encoder.copy(image_shape=...)`.
        encoder_only: Whether to return the encoder of a masked autoencoder or classifier. All of the file is checked.
        encoder: Other arguments of `ViTEncoder`, such as `pixel_mean`, `drop_path_rate` or `dtype`.

    Returns:
        The model and the report.

    Raises:
        ValueError: If the file is damaged, of no known layout, or does not fit as a whole. Every tensor that is
            missing, unexpected, of another shape or not finite is named.
        ImportError: If a package that reads it is missing: PyTorch for `.pth` and `.bin`, `safetensors`, KerasHub.
    """
    path = Path(path)
    if image_shape is not None:
        image_shape = _checks.image_shape(image_shape)
    if path.is_dir() and keras_hub.matches(path):
        if image_shape is not None:
            raise ValueError("A KerasHub preset is loaded at its own size: then `encoder.copy(image_shape=...)`")
        model, report = keras_hub.read_preset(path, **encoder)
        _refuse_other_heads(path, num_heads, getattr(model, "encoder", model).num_heads)
        return Converted(getattr(model, "encoder", model) if encoder_only else model, report)
    state = read(path)
    layout: ModuleType
    try:
        if hugging_face.matches(state):
            layout, found = hugging_face, hugging_face.sizes(state)
            _refuse_other_heads(path, num_heads, found["encoder"]["num_heads"])
            _refuse_other_heads(path, decoder_num_heads, found.get("decoder", {}).get("num_heads", decoder_num_heads))
        elif reference.matches(state):
            # Of a decoder that is only checked the heads are of no matter: they are in no tensor's shape.
            heads = decoder_num_heads or (1 if encoder_only else None)
            layout, found = reference, reference.sizes(state, num_heads, heads)
        else:
            some = ", ".join(sorted(state.tensors)[:5]) or "nothing"
            raise ValueError(f"{str(path)!r} has no layout known here: {', '.join(FORMATS)}. It holds {some}")
        model, report = _loaded(state, layout, found, image_shape, norm_pix_loss, encoder_only, encoder)
    except (KeyError, IndexError, TypeError, AttributeError, ZeroDivisionError) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{str(path)!r} does not hold what its layout must: {what}") from error
    return Converted(getattr(model, "encoder", model) if encoder_only else model, report)


def _loaded(
    state: StateDict,
    layout: ModuleType,
    found: dict[str, Any],
    image_shape: tuple[int, int, int] | None,
    norm_pix_loss: bool | None,
    encoder_only: bool,
    encoder: dict[str, Any],
) -> tuple[Any, Report]:
    arguments = found["encoder"] | encoder
    own_shape = (*_image_size(arguments, image_shape), arguments.pop("channels"))
    if image_shape is not None and image_shape[2] != own_shape[2]:
        raise ValueError(
            f"`image_shape` may differ in height and width from the file's {own_shape}; for other channels load it "
            f"and then `encoder.copy(image_shape=...)`. Received: image_shape={tuple(image_shape)}"
        )
    grid = (own_shape[0] // arguments["patch_size"][0], own_shape[1] // arguments["patch_size"][1])
    vit = ViTEncoder(image_shape or own_shape, **arguments)
    normalised = _normalised(state, layout, norm_pix_loss, encoder_only)
    model, said = _build(vit, layout.role(state), found, state, layout, normalised)
    rules = hugging_face.rules(model, state) if layout is hugging_face else reference.rules(model)
    return model, load_weights(model, state, rules, said, _left_out(state), grid if image_shape else None)


def _refuse_other_heads(path: Path, given: int | None, found: int | None) -> None:
    if given not in (None, found):
        raise ValueError(f"{str(path)!r} says how many heads there are: {found}. Received: {given}")


def save(model: Any, path: str | Path, format: str) -> Path:
    """Write a model for another library.

    Args:
        model: A `ViTEncoder`, `MaskedAutoencoder` or `ViTClassifier`. A probe's BatchNorm is folded into its head,
            except for "reference".
        path: File to write, or, for "transformers" and "keras_hub", folder. It must not exist.
        format: "reference", the authors' names, and "timm", which has the same for an encoder or a classifier: a
            PyTorch file with the tensors under the key "model" if it is called `.pth`, `.pt` or `.bin`, or else
            safetensors. Such a file holds weights alone: statistics of pixels, `layer_norm_eps`, mask ratio and
            `norm_pix_loss` are to be said when it is loaded. "transformers", a folder for `from_pretrained`; it knows
            random masking only. "keras_hub", a folder for `from_preset` of an encoder or a classifier on the class
            token.

    Returns:
        The path.

    Raises:
        ValueError: If the format cannot hold the model, or the path exists.
    """
    path = Path(path)
    _checks.one_of("format", format, FORMATS)
    if not isinstance(model, ViTEncoder | MaskedAutoencoder | ViTClassifier):
        raise _checks.argument_error("model", "a ViTEncoder, MaskedAutoencoder or ViTClassifier", model)
    if path.exists():
        raise ValueError(f"`path` must not exist, so that nothing is lost. Received: path={str(path)!r}")
    if isinstance(model, ViTClassifier) and model.batch_norm and format != "reference":
        model = without_batch_norm(model)
    if format == "timm" and isinstance(model, MaskedAutoencoder):
        raise ValueError("A `timm` ViT has no decoder: save mae.encoder, or in the format 'reference'")
    if format == "transformers":
        hugging_face.refuse(model)
    if format == "keras_hub":
        keras_hub.refuse(model)
    unfinished = path.with_name(f".writing-{os.getpid()}-{path.name}")  # which keeps the ending
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(model, unfinished, format)
        unfinished.rename(path)
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        else:
            unfinished.unlink(missing_ok=True)
    return path


def _write(model: Any, path: Path, format: str) -> None:
    if format == "keras_hub":
        keras_hub.write_preset(model, path)
    elif format == "transformers":
        path.mkdir()
        write_safetensors(path / "model.safetensors", save_weights(model, hugging_face.rules(model)))
        for name, content in (
            ("config.json", hugging_face.config_of(model)),
            ("preprocessor_config.json", hugging_face.preprocessor_of(model)),
        ):
            (path / name).write_text(json.dumps(content, indent=2) + "\n")
    else:
        write = write_torch if path.suffix.lower() in (".pth", ".pt", ".bin") else write_safetensors
        write(path, save_weights(model, reference.rules(model)))


def without_batch_norm(model: ViTClassifier) -> ViTClassifier:
    """The same classifier with the BatchNorm before its head folded into the head's weights."""
    plain = ViTClassifier(model.encoder, model.num_classes, pooling=model.pooling)
    if plain.pool_norm is not None and model.pool_norm is not None:
        plain.pool_norm.set_weights(model.pool_norm.get_weights())
    norm, head = model.head.layers
    mean, variance = (ops.convert_to_numpy(value) for value in (norm.moving_mean, norm.moving_variance))
    kernel, bias = (ops.convert_to_numpy(value) for value in (head.kernel, head.bias))
    kernel = kernel / np.sqrt(variance + norm.epsilon)[:, None]
    plain.head.set_weights([kernel, bias - mean @ kernel])
    return plain


def _image_size(arguments: dict[str, Any], asked: tuple[int, int, int] | None) -> tuple[int, int]:
    """The size of the images a file was made for; where it holds only how many patches there are, a square."""
    if "image_size" in arguments:
        return arguments.pop("image_size")
    patches, patch_size = arguments.pop("patches"), arguments["patch_size"]
    side = math.isqrt(patches)
    if side * side == patches:
        return side * patch_size[0], side * patch_size[1]
    if asked is not None and (asked[0] // patch_size[0]) * (asked[1] // patch_size[1]) == patches:
        return asked[0], asked[1]
    raise ValueError(
        f"The file's {patches} patches are no square, and it does not say how many rows they make: give the "
        f"`image_shape` it was made for. Received: image_shape={asked}"
    )


def _normalised(state: StateDict, layout: ModuleType, given: bool | None, encoder_only: bool) -> bool:
    """Whether the decoder, if there is one, predicts normalised pixels."""
    if layout.role(state) != "autoencoder":
        if given is not None:
            raise ValueError(f"There is no decoder in {state.path.name!r}. Received: norm_pix_loss={given}")
        return False
    said = layout.norm_pix_loss(state)
    if given is None and said is None and not encoder_only:
        raise ValueError(
            f"Nothing in {state.path.name!r} says whether its decoder predicts pixels or normalised pixels: "
            "give `norm_pix_loss`"
        )
    # A name may be wrong; what a configuration says is not.
    if given is not None and said is not None and given != said and state.config:
        where = "config.json" if layout is hugging_face else "The run that saved it"
        raise ValueError(f"{where} says norm_pix_loss={said}. Received: norm_pix_loss={given}")
    return bool(said if given is None else given)


def _build(
    encoder: ViTEncoder, role: str, found: dict[str, Any], state: StateDict, layout: ModuleType, norm_pix_loss: bool
) -> tuple[Any, str]:
    """The model without its weights, and what it is."""
    if role == "encoder":
        return encoder, "encoder"
    if role == "classifier":
        return _classifier(encoder, state, layout), "classifier"
    ratio = (state.config.get("config.json") or state.config.get("args") or {}).get("mask_ratio", 0.75)
    decoder = MAEDecoder(**found["decoder"], dtype=encoder.dtype_policy)
    model = MaskedAutoencoder(encoder, decoder, RandomMasking(ratio), norm_pix_loss=norm_pix_loss)
    return model, "normalised pixels" if norm_pix_loss else "pixels"


def _classifier(encoder: ViTEncoder, state: StateDict, layout: ModuleType) -> ViTClassifier:
    if layout is hugging_face:
        classes = len(state.tensors["classifier.weight"])
        return ViTClassifier(encoder, classes, pooling="token", copy=False)
    batch_norm = "head.0.running_mean" in state.tensors
    classes = len(state.tensors["head.1.weight" if batch_norm else "head.weight"])
    pooling = "mean" if "fc_norm.weight" in state.tensors else "token"
    return ViTClassifier(encoder, classes, pooling=pooling, batch_norm=batch_norm, copy=False)


def _left_out(state: StateDict) -> dict[str, str]:
    """Tensors that mean nothing here."""
    reasons = {"head.0.num_batches_tracked": "a counter of PyTorch's BatchNorm"}
    for prefix in ("", "vit."):
        for name in ("weight", "bias"):
            reasons[f"{prefix}pooler.dense.{name}"] = "a pooler that no masked autoencoder trains"
    return {name: why for name, why in reasons.items() if name in state.tensors}
