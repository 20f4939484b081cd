"""XLA compiles every eager operation of JAX for every shape; without its optimisations in a quarter of the time."""

from importlib.metadata import PackageNotFoundError, version


def environment() -> dict[str, str]:
    """What to set before JAX starts. `test_referee.py` turns optimisations on again where it compares numbers."""
    try:
        known = version("jax").startswith("0.10.")  # a JAX that does not know one of these flags would not start
    except PackageNotFoundError:
        known = False
    flags = (
        "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
        "--xla_cpu_parallel_codegen_split_count=1"
    )
    return {"XLA_FLAGS": flags} if known else {}
