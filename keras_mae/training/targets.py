"""What tells a run's target from another one."""

from __future__ import annotations

from typing import Any

from keras_mae.targets import HOG, LowPass, Teacher
from keras_mae.training.fingerprints import of_weights

__all__ = ["identified"]


def identified(model: Any) -> dict[str, Any]:
    """Return metadata of a run that tell what its model predicts, settings and a teacher's weights included.

    Two teachers of one architecture, or two cut-offs of a low-pass filter, make decoders of one form, so that the
    checkpoint of one would go into a model of the other.

    Args:
        model: A `MaskedAutoencoder`.
    """
    target, known = model.target, {"target": model.target_description}
    if isinstance(target, Teacher):
        known["teacher_weights"] = of_weights(target)
    elif isinstance(target, HOG | LowPass) and target.get_config() != type(target)().get_config():
        known["target_settings"] = target.get_config()
    return known
