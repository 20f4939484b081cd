"""A model from any library's file, and any library's file from a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from keras_mae import _checks, _files
from keras_mae.classifier import ViTClassifier
from keras_mae.convert.doors import documented
from keras_mae.convert.hugging_face import HuggingFace
from keras_mae.convert.keras_hub import KerasHub
from keras_mae.convert.layout import Converted, Format, Hints
from keras_mae.convert.locate import HUB, download
from keras_mae.convert.own import MODELS, KerasFile, PresetFolder
from keras_mae.convert.reference import Reference
from keras_mae.convert.state_dict import Files
from keras_mae.convert.timm import Timm
from keras_mae.convert.weight_map import listed
from keras_mae.masked_autoencoder import MaskedAutoencoder
from keras_mae.segmenter import ViTSegmenter

__all__ = ["FORMATS", "format_of", "load", "save"]

FORMATS: dict[str, Format] = {
    format.name: format for format in (KerasFile(), PresetFolder(), KerasHub(), HuggingFace(), Timm(), Reference())
}
"""Every format that `load` and `save` know, by name. Files are in the first that matches; a further library is one
file, one entry here, and its name in `cli.converting.Format`."""


def format_of(files: Files) -> Format:
    """Return the format that files are in.

    Raises:
        ValueError: If it is none of those known, or there are no such files.
        ImportError: If a package that reads them is missing.
    """
    for format in FORMATS.values():
        if format.matches(files):
            return format
    some = listed(sorted(files.state.tensors)) or "nothing"  # raises an error for what cannot be read
    raise ValueError(f"{str(files.path)!r} has no layout known here: {', '.join(FORMATS)}. It holds {some}")


def load(
    path: str | Path,
    *,
    norm_pix_loss: bool | None = None,
    num_heads: int | None = None,
    decoder_num_heads: int | None = None,
    image_shape: tuple[int, int, int] | None = None,
    encoder_only: bool = False,
    checkpoint_key: str | None = None,
    max_parameters: int | None = None,
    **encoder: Any,
) -> Converted:
    """Return the model in a file: an encoder, masked autoencoder or classifier, whichever it holds.

    Args:
        path: A `.pth`, `.bin` or `.safetensors` file of the authors' repository or of `timm`; a folder that
            `transformers`, KerasHub or `save_to_preset` wrote; a `.keras` file; or "hf://user/name" on the Hugging
            Face Hub. The format is detected from the content, not the file name.
        norm_pix_loss: Whether a decoder predicts normalized pixels, where nothing says so. `transformers` does; of
            the authors' files a run's own holds its arguments, a published one is named for it ("full": normalized,
            "visualize": pixels).
        num_heads: Attention heads of the encoder, where the file does not state them and the width is not a
            published one.
        decoder_num_heads: Attention heads of the decoder, likewise.
        image_shape: Shape of the images, if other than the file's: the positions are resized in two dimensions.
            Where it has as many patches as the file, nothing is resized: it says in how many rows they are, if the
            file does not. For other channels, or as many patches in other rows, load the file and call
            `encoder.copy(image_shape=...)`.
        encoder_only: Whether to return the encoder of a masked autoencoder or classifier. The whole file is checked.
        checkpoint_key: Which of several ViTs in a checkpoint: a dictionary, such as "model_ema" or "teacher", or a
            word before the names, such as "momentum_encoder". Without it weights go before a teacher, a teacher
            before averages (ema, momentum), all before a student; the report says what else there is.
        max_parameters: Parameters of the largest model to read, 2,000,000,000 by default, with one transformer block
            for every 2,000,000 of them. A file that asks for more is refused before anything is allocated for it.
        encoder: Other arguments of `ViTEncoder`, such as `pixel_mean`, `drop_path_rate` or `dtype`.

    Returns:
        The model and the report.

    Raises:
        ValueError: If the file is damaged, too large, of no known layout, or does not fit as a whole. Every tensor
            that is missing, unexpected, of another shape or not finite is named. If neither the file nor
            `image_shape` says in how many rows its patches are, and they are no square; the possible shapes are
            named.
        ImportError: If a package that reads it is missing: PyTorch for `.pth` and `.bin`, `safetensors`, KerasHub.
        OSError: If it may not be read.
    """
    _checks.path("path", path)
    _checks.optional(_checks.boolean, "norm_pix_loss", norm_pix_loss)
    for name, heads in {"num_heads": num_heads, "decoder_num_heads": decoder_num_heads}.items():
        _checks.optional(_checks.positive_int, name, heads)
    _checks.boolean("encoder_only", encoder_only)
    _checks.optional(_checks.text, "checkpoint_key", checkpoint_key)
    if image_shape is not None:
        image_shape = _checks.image_shape(image_shape)
    files = Files(download(str(path)) if str(path).startswith(HUB) else path, checkpoint_key, max_parameters)
    hints = Hints(
        norm_pix_loss,
        num_heads,
        decoder_num_heads,
        image_shape,
        encoder_only,
        encoder,
        checkpoint_key=checkpoint_key,
        max_parameters=max_parameters,
    )
    return documented(load_format, files, hints)


def load_format(files: Files, hints: Hints) -> Converted:
    """Return the model in files of any format."""
    return format_of(files).load(files, hints)


def save(model: Any, path: str | Path, format: str) -> Path:
    """Write a model for another library, or in one of our own formats.

    Args:
        model: A `ViTEncoder`, `MaskedAutoencoder` or `ViTClassifier`, or, in our own formats, a `ViTSegmenter`. A
            probe's BatchNorm is folded into its head, except for "reference" and our own formats.
        path: File to write, or, for "transformers", "keras_hub" and "preset", folder. It must not exist.
        format: "reference", the authors' names, or "timm", which has the same for an encoder or a classifier: a
            PyTorch file with the tensors under the key "model" if it is called `.pth`, `.pt` or `.bin`, or else
            safetensors. What no tensor's shape tells is said beside them, where other libraries pass over it:
            shape of the images, heads, statistics of pixels, `layer_norm_eps`, mask ratio and `norm_pix_loss`.
            The kind of masking is said there too, but for one of a class of your own, of which a warning tells.
            "transformers", a folder for `from_pretrained`, which itself knows random masking only, and autoencoders
            of square images. "keras_hub", a folder for `from_preset` of an encoder or a classifier on the class
            token. "keras", what `model.save` writes, and "preset", what `save_to_preset` writes.

    Returns:
        The path.

    Raises:
        ValueError: If the format cannot hold the model, or the path exists.
    """
    path = _checks.path("path", path)
    into = FORMATS[_checks.one_of("format", format, FORMATS)]
    if not isinstance(model, MODELS):
        raise _checks.argument_error("model", "a ViTEncoder, MaskedAutoencoder or ViTClassifier", model)
    if isinstance(model, ViTSegmenter) and into.takes_hints:
        raise ValueError(
            f"{format!r} holds no segmenter: save `segmenter.encoder`, or the model as 'keras' or 'preset'. "
            "Received: a ViTSegmenter"
        )
    if getattr(model, "target_name", "pixels") not in ("pixels", "normalized") and into.takes_hints:
        raise ValueError(
            f"{format!r} has no place for what such a decoder predicts: save mae.encoder, or as 'keras' or 'preset'. "
            f"Received: a model of target={model.target_name!r}"
        )
    into.check_path(path)
    if path.exists():
        raise ValueError(f"`path` must not exist, so that nothing is lost. Received: path={str(path)!r}")
    if isinstance(model, ViTClassifier) and model.batch_norm and not into.holds_batch_norm:
        model = without_batch_norm(model)
    if into.takes_hints:
        refuse_own_parts(model)
    into.refuse(model)
    with _files.whole(path) as unfinished:
        into.write(model, unfinished)
    return path


def refuse_own_parts(model: Any) -> None:
    """Raise a `ValueError` for a masked autoencoder that no other library can compute."""
    if isinstance(model, MaskedAutoencoder) and model.band_groups is not None:
        raise ValueError(
            "No other library normalizes bands in groups: save `mae.encoder`, or the model in the format 'keras' or "
            f"'preset'. Received: band_groups={model.band_groups}"
        )
    if isinstance(model, MaskedAutoencoder) and (model.fusion is not None or model.decoder.reads_blocks):
        own = (
            f"a {type(model.decoder).__name__}" if model.decoder.reads_blocks else f"fuse_blocks={model.fuse_blocks}"
        )
        raise ValueError(
            "No other library has a decoder that reads several blocks of the encoder: save `mae.encoder`, which is a "
            f"plain one, or the model in the format 'keras' or 'preset'. Received: {own}"
        )


def without_batch_norm(model: ViTClassifier) -> ViTClassifier:
    """Return the same classifier with the BatchNorm before its head folded into the head's weights."""
    plain = ViTClassifier(model.encoder, model.num_classes, pooling=model.pooling, class_names=model.class_names)
    for part in ("pool_norm", "attentive_pooling"):
        if (layer := getattr(model, part)) is not None:
            getattr(plain, part).set_weights(layer.get_weights())
    norm, head = model.head.layers
    mean, variance = (ops.convert_to_numpy(value) for value in (norm.moving_mean, norm.moving_variance))
    kernel, bias = (ops.convert_to_numpy(value) for value in (head.kernel, head.bias))
    kernel = kernel / np.sqrt(variance + norm.epsilon)[:, None]
    plain.head.set_weights([kernel, bias - mean @ kernel])
    return plain
