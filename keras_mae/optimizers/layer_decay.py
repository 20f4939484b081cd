"""Layer-wise learning-rate decay: the lower a layer, the less fine-tuning moves it."""

from __future__ import annotations

from typing import Any

from keras_mae import _checks
from keras_mae.optimizers.adamw import AdamW
from keras_mae.optimizers.schedules import warmup_cosine, warmup_polynomial

__all__ = ["fine_tuning_adamw", "layer_decay_scales"]


def layer_decay_scales(model: Any, layer_decay: float) -> list[float]:
    """Return the factor of the learning rate of each trainable variable.

    Args:
        model: A `ViTClassifier` or `ViTSegmenter`, or any model with `num_layers` and `layer_index(variable)`.
        layer_decay: Factor from one layer to the one below, in (0, 1].

    Returns:
        layer_decay ** (num_layers - layer) for each of `model.trainable_variables`: 1 for the head.

    Raises:
        ValueError: If `layer_decay` is out of range.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1, table 9.
    """
    _checks.share("layer_decay", layer_decay)
    _check_layers(model)
    return [
        float(layer_decay ** (model.num_layers - model.layer_index(variable)))
        for variable in model.trainable_variables
    ]


def _check_layers(model: Any) -> None:
    """Raise ValueError unless a model says which layer a weight is of."""
    rule = "a keras_mae.ViTClassifier or ViTSegmenter, or another model with num_layers and layer_index(variable)"
    _checks.has("model", model, ("num_layers", "layer_index", "trainable_variables"), rule)


def fine_tuning_adamw(
    model: Any,
    base_learning_rate: float = 1e-3,
    batch_size: int = 1024,
    *,
    total_steps: int | None = None,
    warmup_steps: int = 0,
    layer_decay: float = 0.75,
    weight_decay: float = 0.05,
    minimum_learning_rate: float = 1e-6,
    power: float | None = None,
    beta_2: float = 0.999,
    **kwargs: Any,
) -> AdamW:
    """Return the fine-tuning optimizer: AdamW, betas (0.9, 0.999), layer-wise decay, warm-up and cosine.

    Args:
        model: The `ViTClassifier` or `ViTSegmenter` to train; its layers set the rates.
        base_learning_rate: Learning rate for a batch of 256 images; the head's is base * batch_size / 256.
        batch_size: Number of images behind one update: batch × accumulation steps × replicas.
        total_steps: Number of updates of the whole run. `None` keeps the learning rate constant.
        warmup_steps: Number of updates of the warm-up from 0.
        layer_decay: Factor from one layer to the one below. It scales the minimum, too.
        weight_decay: Decoupled weight decay, not applied to biases, norms, positions and class tokens.
        minimum_learning_rate: Learning rate of the head at the end.
        power: Exponent of a polynomial decay in place of the cosine, as `warmup_polynomial` has it; the published
            recipe for segmentation has 1.
        beta_2: Decay of the mean of the squared gradients.
        kwargs: `AdamW`'s other arguments.

    Returns:
        An `AdamW`, for this model.

    Raises:
        ValueError: If a number is out of range or the warm-up is not shorter than the run.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1, table 9.
    """
    _checks.positive("base_learning_rate", base_learning_rate)
    peak = base_learning_rate * _checks.positive_int("batch_size", batch_size) / 256
    _checks.optional(_checks.positive, "power", power)
    rate: Any = peak
    if total_steps is not None:
        run: dict[str, Any] = {"total_steps": total_steps, "warmup_steps": warmup_steps}
        run["minimum"] = minimum_learning_rate
        rate = warmup_cosine(peak, **run) if power is None else warmup_polynomial(peak, power=power, **run)
    _check_layers(model)
    excluded = [id(variable) for variable in model.no_weight_decay]
    optimizer = AdamW(
        rate,
        weight_decay,
        beta_2=beta_2,
        learning_rate_scales=layer_decay_scales(model, layer_decay),
        decayed=[len(v.shape) > 1 and id(v) not in excluded for v in model.trainable_variables],
        **kwargs,
    )
    optimizer.scaled_layers = tuple(model.layer_index(variable) for variable in model.trainable_variables)
    return optimizer
