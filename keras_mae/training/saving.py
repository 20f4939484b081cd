"""How a run guards against the end of its process: what the caller says of checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from keras_mae import _checks

__all__ = ["Saving"]


@dataclass(frozen=True)
class Saving:
    """How a run guards against the end of its process.

    Attributes:
        resume: Whether to resume the run in the run directory, if there is one. A finished run is left as it is.
        every_steps: Steps between checkpoints; `None` for checkpoints by the clock only.
        every_minutes: Minutes between checkpoints.
        allow_changed: Whether to resume also with other data, or another encoder, than the run began with; `run.json`
            then says what differs, and since which step. Files that were copied are no others.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> keras_mae.training.Saving(resume=True, every_minutes=30)
    """

    resume: bool = False
    every_steps: int | None = None
    every_minutes: float = 10.0
    allow_changed: bool = False

    def __post_init__(self) -> None:
        _checks.boolean("resume", self.resume)
        if _checks.boolean("allow_changed", self.allow_changed) and not self.resume:
            raise ValueError(
                "`allow_changed` is for a run that is resumed: resume=True (--resume). "
                f"Received: allow_changed={self.allow_changed}, resume={self.resume}"
            )
        if self.every_steps is not None:
            _checks.positive_int("every_steps", self.every_steps)
        _checks.non_negative("every_minutes", self.every_minutes)
