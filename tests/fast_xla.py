"""XLA compiles every eager operation of JAX for every shape; without its optimisations in a quarter of the time."""

from importlib.metadata import PackageNotFoundError, version

# A release that does not know one of the flags would not start.
KNOWN_BY = {"jax": "0.10.", "tensorflow": "2.21."}


def environment(backend: str) -> dict[str, str]:
    """What to set before it starts. `test_referee.py` turns optimisations on again where it compares numbers."""
    try:
        known = backend in KNOWN_BY and version(backend).startswith(KNOWN_BY[backend])
    except PackageNotFoundError:
        known = False
    flags = (
        "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
        "--xla_cpu_parallel_codegen_split_count=1"
    )
    return {"XLA_FLAGS": flags} if known else {}
