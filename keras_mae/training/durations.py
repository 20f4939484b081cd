"""Times in words."""

from __future__ import annotations

__all__ = ["duration"]


def duration(seconds: float) -> str:
    """Return a time in words.

    Example:
        >>> [duration(seconds) for seconds in (0.5, 42, 300, 9000, 28_800, 500_000)]
        ['0.5 s', '42 s', '5 min', '2 h 30 min', '8 h', '5.8 days']
    """
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 600 and minutes % 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes / 60:.0f} h" if minutes < 72 * 60 else f"{minutes / 1440:.2g} days"
