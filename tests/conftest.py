"""Strict settings for every test: 8 simulated devices, shapes checked at run time, silent broadcasting refused."""

import os
import pathlib

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "subspace_jax" / "xla-tests"

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_numpy_rank_promotion", "raise")
MAPS = 25_000  # kept below it, of Linux' 65,530
settings.register_profile("library", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("library")
jaxtyping.install_import_hook("subspace_jax", "beartype.beartype")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu") and jax.default_backend() == "cpu":
            item.add_marker(pytest.mark.skip(reason="needs an accelerator"))
        if item.get_closest_marker("data") and "SUBSPACE_DATA_DIR" not in os.environ:
            item.add_marker(pytest.mark.skip(reason="needs SUBSPACE_DATA_DIR"))


@pytest.fixture
def unchecked():
    """Without the run-time type check of the tests, as users run."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True, scope="module")
def room_for_programs():
    """A process may map 65,530 pieces of memory, and every compiled program takes some: the next one would crash."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > MAPS:
        jax.clear_caches()
