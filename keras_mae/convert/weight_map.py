"""Weight maps as data: rules from names in a file to weights of a model, and the functions that apply them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from keras import ops

from keras_mae._terminal import printable
from keras_mae.convert.state_dict import StateDict
from keras_mae.cross_attention import CrossAttentionBlock
from keras_mae.positions import resize_positions
from keras_mae.segmenter import ViTSegmenter

__all__ = [
    "FIRST_ROW",
    "FUSED",
    "FUSED_BIAS",
    "SAME",
    "TRANSPOSED",
    "Kind",
    "Report",
    "Rule",
    "Transform",
    "dense",
    "listed",
    "load_weights",
    "named_weights",
    "norm",
    "patch_kernel",
    "save_weights",
]

Arrays = list[np.ndarray]
Kind = Literal["encoder", "autoencoder", "classifier", "segmenter"]
"""What the weights of a file are."""


@dataclass(frozen=True)
class Transform:
    """How arrays in a file become one weight, and back.

    Attributes:
        load: Function from the arrays of a file, in the order of a rule's `sources`, to the weight.
        save: Its inverse; given zeros, it tells the shapes that fit.
    """

    load: Callable[[Arrays], np.ndarray]
    save: Callable[[np.ndarray], Arrays]


SAME = Transform(lambda arrays: arrays[0], lambda weight: [weight])
"""The weight as it is."""
TRANSPOSED = Transform(lambda arrays: arrays[0].T, lambda weight: [weight.T])
"""The weight transposed, as PyTorch keeps a linear layer's."""
FIRST_ROW = Transform(lambda arrays: arrays[0][0], lambda weight: [weight[None]])
"""The weight with a leading dimension of 1."""
FUSED = Transform(
    lambda arrays: np.concatenate([array.T for array in arrays], axis=1),
    lambda weight: [part.T for part in np.split(weight, 3, axis=1)],
)
"""Query, key and value apart in the file, transposed."""
FUSED_BIAS = Transform(lambda arrays: np.concatenate(arrays), lambda weight: list(np.split(weight, 3)))
"""Biases of query, key and value apart in the file."""


def patch_kernel(patch_size: tuple[int, int], channels: int) -> Transform:
    """Return the transform of a patch embedding that a file keeps as a convolution's kernel.

    The file has (embed_dim, channels, height, width of a patch); here it is (height * width * channels, embed_dim).
    """
    return Transform(
        lambda arrays: arrays[0].transpose(2, 3, 1, 0).reshape(-1, arrays[0].shape[0]),
        lambda weight: [weight.reshape(*patch_size, channels, -1).transpose(3, 2, 0, 1)],
    )


@dataclass(frozen=True)
class Rule:
    """Tensors of a file that make one weight of a model.

    Attributes:
        sources: Names in the file.
        target: Name of the weight in `named_weights(model)`.
        transform: How the one becomes the other.
    """

    sources: tuple[str, ...]
    target: str
    transform: Transform = SAME


@dataclass
class Report:
    """What became of every tensor.

    Attributes:
        kind: What the file holds: "encoder", "autoencoder", "classifier" or "segmenter".
        norm_pix_loss: Whether an autoencoder's decoder predicts normalized pixels; `None` without a decoder.
        rows: (tensors in the file, weight of the model, shape, remark) of everything that was carried over.
        left_out: Tensors that were left out on purpose, and why.
        notes: What was decided where the file leaves a choice.
    """

    kind: Kind
    norm_pix_loss: bool | None = None
    rows: list[tuple[str, str, tuple[int, ...], str]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The kind, and an autoencoder's target, in words."""
        if self.norm_pix_loss is None:
            return self.kind
        return f"{self.kind} that predicts {'normalized pixels' if self.norm_pix_loss else 'pixels'}"

    @property
    def left_out_by_reason(self) -> list[tuple[str, str]]:
        """What was left out, the names of what has the same reason in one text, and the reason."""
        reasons: dict[str, list[str]] = {}
        for name, why in self.left_out.items():
            reasons.setdefault(why, []).append(name)
        return [(listed(names), why) for why, names in reasons.items()]

    def __str__(self) -> str:
        width = max((len(row[0]) for row in self.rows), default=0)
        lines = [f"{len(self.rows)} weights: {self.title}", *map(printable, self.notes)]
        lines += [
            printable(f"{names:{width}}  {weight}  {shape}  {remark}".rstrip())
            for names, weight, shape, remark in self.rows
        ]
        return "\n".join(lines + [f"{names}: left out, {why}" for names, why in self.left_out_by_reason])


def named_weights(model: Any) -> dict[str, Any]:
    """Return a model's weights under names that do not depend on its layers' names.

    Args:
        model: A `ViTEncoder`, `MaskedAutoencoder`, `ViTClassifier` or `ViTSegmenter`.
    """
    if not hasattr(model, "encoder"):
        return _vit(model, "encoder") | _layer(model.patch_embedding.projection, "encoder.patches")
    found = named_weights(model.encoder)
    if hasattr(model, "decoder"):
        decoder = model.decoder
        found |= _vit(decoder, "decoder") | {"decoder.mask_token": decoder.mask_token}
        if decoder.reads_blocks:
            found |= {f"decoder.mix.{index}": mix for index, mix in enumerate(decoder.mixes)}
            return found | _layer(decoder.prediction, "decoder.prediction")
        if model.fusion is not None:
            found["fusion.mix"] = model.fusion.mix
            for index, projection in enumerate(model.fusion.projections):
                found |= _layer(projection, f"fusion.{index}")
        return (
            found | _layer(decoder.embedding, "decoder.embedding") | _layer(decoder.prediction, "decoder.prediction")
        )
    if isinstance(model, ViTSegmenter):  # whose neck and heads have names of their own in all models
        known = {id(weight) for weight in model.encoder.weights}
        own = [weight for weight in model.weights if id(weight) not in known]
        return found | {weight.path.replace("/", "."): weight for weight in own}
    if model.pool_norm is not None:
        found |= _layer(model.pool_norm, "pool_norm")
    if model.attentive_pooling is not None:
        pooling = model.attentive_pooling
        found |= {"pooling.queries": pooling.queries, "pooling.kernel": pooling.kernel}
    if model.batch_norm:
        statistics = model.head.layers[0]
        found |= {"head.mean": statistics.moving_mean, "head.variance": statistics.moving_variance}
    return found | _layer(model.head.layers[-1], "head")


def _vit(part: Any, name: str) -> dict[str, Any]:
    found = {f"{name}.positions": part.position_embedding}
    if getattr(part, "class_token", None) is not None:
        found["encoder.class_token"] = part.class_token
    for index, block in enumerate(part.blocks):
        crossing = isinstance(block, CrossAttentionBlock)
        for layer, title in (
            *([(block.context_norm, "context_norm")] if crossing else []),
            (block.norm1, "norm1"),
            *([] if crossing else [(block.attention.qkv, "qkv")]),
            *([(block.attention.query, "query"), (block.attention.key_value, "key_value")] if crossing else []),
            (block.attention.projection, "projection"),
            (block.norm2, "norm2"),
            (block.mlp.fc1, "fc1"),
            (block.mlp.fc2, "fc2"),
        ):
            found |= _layer(layer, f"{name}.{index}.{title}")
    return found | (_layer(part.norm, f"{name}.norm") if part.norm is not None else {})


def _layer(layer: Any, name: str) -> dict[str, Any]:
    if hasattr(layer, "kernel"):
        return {f"{name}.kernel": layer.kernel, f"{name}.bias": layer.bias}
    return {f"{name}.gamma": layer.gamma, f"{name}.beta": layer.beta}


def dense(theirs: str, ours: str) -> list[Rule]:
    """Return the rules of a PyTorch linear layer, from its name in the file to its name here."""
    return [
        Rule((f"{theirs}.weight",), f"{ours}.kernel", TRANSPOSED),
        Rule((f"{theirs}.bias",), f"{ours}.bias"),
    ]


def norm(theirs: str, ours: str) -> list[Rule]:
    """Return the rules of a PyTorch norm, from its name in the file to its name here."""
    return [Rule((f"{theirs}.weight",), f"{ours}.gamma"), Rule((f"{theirs}.bias",), f"{ours}.beta")]


def load_weights(
    model: Any,
    state: StateDict,
    rules: Sequence[Rule],
    kind: Kind,
    *,
    left_out: dict[str, str] | None = None,
    old_grid: tuple[int, int] | None = None,
) -> Report:
    """Set all of a model's weights from a file, or none of them.

    Args:
        model: A `ViTEncoder`, `MaskedAutoencoder` or `ViTClassifier`, whose weights are set.
        state: The file's tensors.
        rules: One rule for each weight of the model.
        kind: What the file holds, for the report.
        left_out: Tensors that are not carried over, and why.
        old_grid: (rows, columns) of the file's positions, if other than the model's: they are resized.

    Returns:
        The report.

    Raises:
        ValueError: If a tensor is missing, left over, of another shape or not finite, or a weight has no rule; the
            message names all of them, and no weight was changed.
    """
    weights = named_weights(model)
    report = Report(kind, getattr(model, "norm_pix_loss", None), left_out=dict(left_out or {}))
    grid = getattr(model, "encoder", model).grid
    wrong: dict[str, list[str]] = {"missing": [], "of another shape": [], "no floats": [], "not finite": []}
    values: dict[str, np.ndarray] = {}
    for rule in rules:
        shape = final_shape = tuple(weights[rule.target].shape)
        resized = old_grid is not None and old_grid != grid and rule.target.endswith(".positions")
        if resized and old_grid is not None:
            shape = (1 + old_grid[0] * old_grid[1], final_shape[1])
        if misfit := _misfit(rule, state, shape):
            wrong[misfit[0]] += misfit[1]
            continue
        stored = sorted({state.stored[name] for name in rule.sources} - {"float32"})
        remarks = [f"stored as {', '.join(stored)}"] if stored else []
        value = rule.transform.load([state.tensors[name] for name in rule.sources])
        if value.shape != shape:  # the rule's own mistake
            wrong["of another shape"].append(f"{rule.target} {value.shape}, where {shape} fits")
            continue
        if resized and old_grid is not None:
            value = resize_positions(value, old_grid, grid)
            remarks.append(f"resized from {old_grid} to {grid}")
        values[rule.target] = value
        report.rows.append((", ".join(rule.sources), rule.target, final_shape, ", ".join(remarks)))
    used = {name for rule in rules for name in rule.sources} | set(report.left_out)
    wrong["unexpected"] = sorted(set(state.tensors) - used)
    wrong["without a rule"] = sorted(set(weights) - {rule.target for rule in rules})
    if any(wrong.values()):
        raise ValueError(
            f"The weights in {state.name!r} do not fit, and none was loaded. "
            + "; ".join(f"{what}: {listed(names)}" for what, names in wrong.items() if names)
            + "".join(f". {note}" for note in state.notes)
        )
    for target, value in values.items():
        weights[target].assign(value)
    return report


def _misfit(rule: Rule, state: StateDict, shape: tuple[int, ...]) -> tuple[str, list[str]] | None:
    """Return what is wrong with a rule's tensors for a weight of `shape`, and with which; `None` if they fit."""
    if absent := [name for name in rule.sources if name not in state.tensors]:
        return "missing", absent
    arrays = {name: state.tensors[name] for name in rule.sources}
    if odd := [f"{name} ({state.stored[name]})" for name, array in arrays.items() if array.dtype != "float32"]:
        return "no floats", odd
    fitting = [array.shape for array in rule.transform.save(np.zeros(shape, "float32"))]
    shapes = zip(arrays.items(), fitting, strict=True)
    if other := [f"{name} {array.shape}, where {fits} fits" for (name, array), fits in shapes if array.shape != fits]:
        return "of another shape", other
    if not all(np.isfinite(array).all() for array in arrays.values()):
        return "not finite", list(rule.sources)
    return None


def save_weights(model: Any, rules: Sequence[Rule]) -> dict[str, np.ndarray]:
    """Return a model's weights under the names and in the shapes of a file, in float32."""
    weights, tensors = named_weights(model), {}
    targets, sources = [rule.target for rule in rules], [name for rule in rules for name in rule.sources]
    if sorted(targets) != sorted(weights) or len(set(sources)) != len(sources):
        odd = sorted(set(weights) ^ set(targets)) or sorted({one for one in sources if sources.count(one) > 1})
        raise ValueError(
            "A layout must have one rule for each weight, and a name of its own for each tensor. "
            f"Received, too few or too many: {listed(odd)}"
        )
    for rule in rules:
        weight = ops.convert_to_numpy(weights[rule.target]).astype("float32")
        for name, array in zip(rule.sources, rule.transform.save(weight), strict=True):
            tensors[name] = np.ascontiguousarray(array)
    return tensors


def listed(names: Sequence[str]) -> str:
    """Return names in one line, the first ones if there are many, as a terminal may show them."""
    shown = ", ".join(map(printable, names[:6]))
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"
