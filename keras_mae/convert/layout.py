"""What a library's files must tell: the protocol that every format speaks, and what builds a model from it.

A further library is one file with one subclass of `Layout`, one entry in `load_save.FORMATS`, and its name in
`cli.converting.Format`.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from keras_mae import _class_names
from keras_mae.classifier import ViTClassifier
from keras_mae.convert import limits, metadata
from keras_mae.convert.grids import size_said, size_without_a_word
from keras_mae.convert.state_dict import Files, StateDict
from keras_mae.convert.weight_map import Kind, Report, Rule, load_weights
from keras_mae.decoder import MAEDecoder
from keras_mae.encoder import ViTEncoder
from keras_mae.masked_autoencoder import MaskedAutoencoder
from keras_mae.masking import make

__all__ = ["Converted", "Format", "Hints", "Layout", "Sizes", "Stated"]


class Converted(NamedTuple):
    """A model, and what became of every tensor of the file it came from."""

    model: Any
    report: Report


class Stated(NamedTuple):
    """A value that a file states, and what in it does: `by` is empty for a guess, which an argument may overrule."""

    value: bool
    by: str


@dataclass(frozen=True)
class Hints:
    """What the caller of `load` knows that a file may not say; the arguments of `load` under their names."""

    norm_pix_loss: bool | None = None
    num_heads: int | None = None
    decoder_num_heads: int | None = None
    image_shape: tuple[int, int, int] | None = None
    encoder_only: bool = False
    encoder: dict[str, Any] = field(default_factory=dict)
    checkpoint_key: str | None = None
    image_hint: tuple[int, int, int] | None = None
    """Shape to which the caller will resize: it decides on the rows of a file that does not say them, and no more."""
    max_parameters: int | None = None

    def check_heads(self, state: StateDict, encoder: int | None, decoder: int | None = None) -> None:
        """Raise a `ValueError` if numbers of attention heads were given that are not those the file states.

        Args:
            state: The file's content.
            encoder: Heads of the encoder, if it states them.
            decoder: Heads of the decoder, if there is one and it states them.
        """
        for given, stated in ((self.num_heads, encoder), (self.decoder_num_heads, decoder)):
            if stated is not None and given not in (None, stated):
                raise ValueError(f"{state.name!r} says how many heads there are: {stated}. Received: {given}")


@dataclass(frozen=True)
class Sizes:
    """What a file says of its model's architecture.

    Attributes:
        encoder: Arguments of `ViTEncoder` without `image_shape`.
        channels: Channels of the images.
        image_size: Height and width of the images; `None` if this library's files do not tell. What ours say
            beside the tensors then decides, the caller's `image_shape` if it has as many patches, or a square.
        patches: Number of patches; needed without `image_size`.
        decoder: Arguments of `MAEDecoder`; `None` without a decoder.
    """

    encoder: dict[str, Any]
    channels: int
    image_size: tuple[int, int] | None = None
    patches: int | None = None
    decoder: dict[str, Any] | None = None


class Format(ABC):
    """A kind of file or folder that holds a whole model.

    Attributes:
        name: What `save` calls the format.
        takes_hints: Whether its files may leave out what `Hints` says.
        holds_batch_norm: Whether it can hold the BatchNorm before a probe's head, which is otherwise folded into
            the head.
    """

    name: str
    takes_hints = True
    holds_batch_norm = False

    @abstractmethod
    def matches(self, files: Files) -> bool:
        """Return whether these files are in this format, without an error if they are something else."""

    @abstractmethod
    def load(self, files: Files, hints: Hints) -> Converted:
        """Return the model in the files, and the report.

        Raises:
            ValueError: If they are damaged, or do not fit the hints.
        """

    def refuse(self, model: Any) -> None:  # noqa: B027  (most formats hold everything)
        """Raise a `ValueError` for a model that the format cannot hold."""

    def check_path(self, path: Path) -> None:  # noqa: B027
        """Raise a `ValueError` for a path that such a file or folder must not have."""

    @abstractmethod
    def write(self, model: Any, path: Path) -> None:
        """Write a model that `refuse` lets pass to a path where nothing is yet."""


class Layout(Format):
    """The names and shapes under which a library keeps the weights of a ViT.

    Its methods say what is in a file; `load` builds the model from what they say, and sets all of its weights or
    none. Everything here gets a `StateDict`, which `read` makes: by default from safetensors and PyTorch files.

    Attributes:
        class_tokens: Numbers of class tokens for which the library has a place.
        class_tokens_in_words: What they are, for the error.
    """

    class_tokens: tuple[int, ...] = (1,)
    class_tokens_in_words = "exactly one class token"

    def read(self, files: Files) -> StateDict:
        """Return the tensors of the files, and what is said beside them."""
        return files.state

    def refuse(self, model: Any) -> None:
        """Raise a `ValueError` for a model that the format cannot hold: here, for class tokens and windows."""
        encoder = getattr(model, "encoder", model)
        if encoder.window is not None:
            raise ValueError(
                f"A ViT in the format {self.name!r} has full attention in each block: save this one as 'keras' or "
                "'preset', or its weights, which do not depend on windows, by way of `encoder.copy(window=None)`. "
                f"Received: window={encoder.window}"
            )
        if encoder.class_tokens not in self.class_tokens:
            raise ValueError(
                f"A ViT in the format {self.name!r} has {self.class_tokens_in_words}: save this one as 'keras' or "
                f"'preset'. Received: class_tokens={encoder.class_tokens}"
            )

    @abstractmethod
    def kind(self, state: StateDict) -> Kind:
        """Return what the tensors are: "encoder", "autoencoder" or "classifier"."""

    @abstractmethod
    def sizes(self, state: StateDict, hints: Hints) -> Sizes:
        """Return the architecture that the tensors, what is beside them, and the hints tell.

        Raises:
            ValueError: If they tell too little, or of a model that is none of ours.
        """

    @abstractmethod
    def head(self, state: StateDict) -> dict[str, Any]:
        """Return a classifier's arguments of `ViTClassifier`: `num_classes`, `pooling`, perhaps others."""

    @abstractmethod
    def rules(self, model: Any, state: StateDict | None = None) -> list[Rule]:
        """Return one rule for each weight of a model.

        Args:
            model: A `ViTEncoder`, `MaskedAutoencoder` or `ViTClassifier`.
            state: The file to read, where names differ between a library's versions; `None` for one to write.
        """

    def norm_pix_loss(self, state: StateDict) -> Stated | None:
        """Return whether the decoder predicts normalized pixels; `None` if nothing says so."""
        return None

    def mask_ratio(self, state: StateDict) -> float:
        """Return the fraction of patches that were removed in pre-training; the paper's if nothing says so."""
        return 0.75

    def left_out(self, state: StateDict) -> dict[str, str]:
        """Return the tensors that have no place here, and why."""
        return {}

    def load(self, files: Files, hints: Hints) -> Converted:
        state = self.read(files)
        try:
            return self.load_state(state, hints)
        except (KeyError, IndexError, TypeError, AttributeError, ZeroDivisionError) as error:
            what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{str(files.path)!r} does not hold what its layout must: {what}") from error

    def load_state(self, state: StateDict, hints: Hints) -> Converted:
        """Return the model that tensors by name are, and the report."""
        sizes, kind = self.sizes(state, hints), self.kind(state)
        stored_size, why = _image_size(state, sizes, hints)
        stored_shape = (*stored_size, sizes.channels)
        image_shape = hints.image_shape or stored_shape
        if image_shape[2] != sizes.channels:
            raise ValueError(
                f"`image_shape` may differ in height and width from the file's {stored_shape}; for other channels "
                f"load it and then `encoder.copy(image_shape=...)`. Received: image_shape={tuple(image_shape)}"
            )
        limits.check_config(
            PurePath(state.name).name,
            [{"image_shape": image_shape, **sizes.encoder}, sizes.decoder],
            # What is only somewhat too little is named below, tensor by tensor.
            4 * sum(tensor.size for tensor in state.tensors.values()) + 2**24
            if image_shape == stored_shape
            else sys.maxsize,
            hints.max_parameters,
        )
        height, width = sizes.encoder["patch_size"]
        stored_grid = (stored_shape[0] // height, stored_shape[1] // width)
        said = metadata.encoder_arguments(state.config.get(metadata.KEY, {}))  # the library's own words go before
        encoder = ViTEncoder(image_shape, **said | sizes.encoder | hints.encoder)
        normalized = _norm_pix_loss(self, state, kind, hints)
        model: Any = encoder
        if kind == "classifier":
            model = ViTClassifier(encoder, **_head(self, state), copy=False)
        if kind == "autoencoder":
            decoder = MAEDecoder(**sizes.decoder or {}, dtype=encoder.dtype_policy)
            own = state.config.get(metadata.KEY, {})
            masking = make(**own.get(metadata.MASKING, {}) | {"mask_ratio": self.mask_ratio(state)})
            training = metadata.training_arguments(own)
            model = MaskedAutoencoder(encoder, decoder, masking, norm_pix_loss=normalized, **training)
        left_out = state.left_out | self.left_out(state)
        report = load_weights(model, state, self.rules(model, state), kind, left_out=left_out, old_grid=stored_grid)
        report.notes += state.notes
        if why:
            report.notes.append(f"{stored_grid[0]} x {stored_grid[1]} patches: {why}")
        return Converted(encoder if hints.encoder_only else model, report)


def _image_size(state: StateDict, sizes: Sizes, hints: Hints) -> tuple[tuple[int, int], str]:
    """Return height and width of the images a file was made for, and, if it does not say, what does.

    Raises:
        ValueError: If nothing does, or the caller's `image_shape` has as many patches as the file in other rows.
    """
    name, patch_size, asked = PurePath(state.name).name, sizes.encoder["patch_size"], hints.image_shape
    said = size_said(state.config.get(metadata.KEY, {}), sizes.patches, name)
    stated = sizes.image_size or said
    if stated is None:
        if sizes.patches is None:
            raise ValueError(f"{name!r} says neither the size of its images nor how many patches they have")
        return size_without_a_word(sizes.patches, patch_size, sizes.channels, asked or hints.image_hint, name)
    if asked is not None:
        has, wanted = ((size[0] // patch_size[0], size[1] // patch_size[1]) for size in (stated, asked))
        if has != wanted and has[0] * has[1] == wanted[0] * wanted[1]:
            raise ValueError(
                f"`image_shape` has as many patches as {name!r}, whose images are {stated[0]} x {stated[1]}, but in "
                "other rows. To resize the positions, load the file as it is, and then call "
                f"`copy(image_shape=...)`. Received: image_shape={asked}"
            )
    return stated, ""


def _head(layout: Layout, state: StateDict) -> dict[str, Any]:
    """Return a classifier's arguments; class names that the library's own words leave open are those we wrote."""
    head = layout.head(state)
    if head.get("class_names") is None:
        said = state.config.get(metadata.KEY, {}).get(metadata.CLASS_NAMES)
        head["class_names"] = _class_names.usable(said, head["num_classes"])
    return head


def _norm_pix_loss(layout: Layout, state: StateDict, kind: Kind, hints: Hints) -> bool:
    """Return whether the decoder, if there is one, predicts normalized pixels."""
    given, name = hints.norm_pix_loss, PurePath(state.name).name
    if kind != "autoencoder":
        if given is not None:
            raise ValueError(f"There is no decoder in {name!r}. Received: norm_pix_loss={given}")
        return False
    stated = layout.norm_pix_loss(state)
    if stated is None:
        if given is None and not hints.encoder_only:
            raise ValueError(
                f"Nothing in {name!r} says whether its decoder predicts pixels or normalized pixels: "
                "give `norm_pix_loss`"
            )
        return bool(given)
    if given is not None and given != stated.value and stated.by:
        raise ValueError(f"{stated.by} says norm_pix_loss={stated.value}. Received: norm_pix_loss={given}")
    return stated.value if given is None else given
