"""Lets Keras use a backend that is installed, where nobody named one."""

import importlib.util
import json
import os
import sys
from pathlib import Path


def choose_backend() -> None:
    """Name an installed backend in `KERAS_BACKEND`, if Keras is yet to be imported and would pick a missing one.

    Keras falls back to TensorFlow and then fails to import where only JAX or PyTorch is installed. A backend
    named in `KERAS_BACKEND`, or configured and installed, is left alone.

    Raises:
        ImportError: If no backend is installed.
    """
    if "keras" in sys.modules or os.environ.get("KERAS_BACKEND"):
        return
    installed = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]
    if not installed:
        raise ImportError('No backend is installed: pip install "keras-mae[tensorflow]", "[jax]" or "[torch]"')
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    try:
        configured = json.loads((home / "keras.json").read_text()).get("backend")
    except (OSError, ValueError):
        configured = "tensorflow"
    if configured not in installed:
        os.environ["KERAS_BACKEND"] = installed[0]
