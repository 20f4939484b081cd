"""Run every guide in its short form, on one backend, with what its own install line brings.

    tox -e guides
    tox -e guides-all       # on each backend that the guide names

Colab has all three backends installed, and so has the environment that tox makes for this. Into that goes what a
guide's first cell installs, from here and not from the repository's address; most guides' extras first, so that no
guide gets by on what only another one asks for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# The backend that a guide needs most, or else the one that has fewest.
BACKENDS = {
    "backends": "torch",  # and starts the others itself
    "looking_inside": "tensorflow",  # its last section is TensorFlow's
    "masked_autoencoders": "jax",
    "patches_to_pixels": "torch",
    "scaling_up": "torch",  # it starts seven processes, which compile nothing there
    "transfer": "torch",
    "weights_and_export": "torch",  # published files are PyTorch's, exports TensorFlow's
    "which_options_pay": "torch",
    "your_data": "tensorflow",  # whose tf.data the others do not take by themselves
}
PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "guides"))

import fast_xla  # noqa: E402
from make_notebooks import Guide, guides  # noqa: E402


def has_fashion_mnist() -> bool:
    """Where it is neither installed nor in Keras' cache nor to be had, there is nothing to run some guides on."""
    code = "import keras_mae; keras_mae.data.fashion_mnist('test')"
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode == 0


def run(guide: Guide, backend: str) -> bool:
    """Whether it went well; says so, and what went wrong."""
    script = PROJECT / "guides" / f"{guide.name}.py"
    environment = os.environ | {"KERAS_BACKEND": backend, "KERAS_MAE_QUICK": "1", "MPLBACKEND": "Agg"}
    environment |= fast_xla.environment(backend) if backend == "jax" else {}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, script], cwd=folder, env=environment, capture_output=True, text=True)
        left = [path.name for path in Path(folder).iterdir()]
    well = done.returncode == 0 and not left
    print(f"{guide.name}, {backend}: {'ok' if well else 'FAILED'}, {time.perf_counter() - began:.0f} s", flush=True)
    if not well:
        print(done.stderr or f"it leaves files where it is run: {left}", flush=True)
    return well


def backends_of(guide: Guide, on_all: bool) -> list[str]:
    """Those it is run on."""
    return guide.backends if on_all else [BACKENDS[guide.name]]


def main() -> None:
    """All of them, as many at a time as there are cores."""
    on_all = "--all" in sys.argv[1:]
    all_guides = guides()
    well = []
    for extras, _ in Counter(guide.extras for guide in all_guides).most_common():
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", f"{PROJECT}[{extras}]"], check=True)
        print(f"installed: keras-mae[{extras}]", flush=True)
        chosen = [guide for guide in all_guides if guide.extras == extras]
        if not has_fashion_mnist():
            for guide in [guide for guide in chosen if any("fashion_mnist" in source for _, source in guide.cells)]:
                print(f"{guide.name}: SKIPPED, there is no Fashion-MNIST", flush=True)
                chosen.remove(guide)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            pairs = [(guide, backend) for guide in chosen for backend in backends_of(guide, on_all)]
            well += pool.map(lambda pair: run(*pair), pairs)
    sys.exit(0 if all(well) else 1)


if __name__ == "__main__":
    main()
