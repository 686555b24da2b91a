"""Strict settings for every test: 8 simulated devices, shapes checked at run time, silent broadcasting refused."""

import collections
import gc
import importlib.metadata
import os
import pathlib

# Unit tests compile much and compute little: two thirds of their time went into XLA. No optimisation, kernels without
# the detour over MLIR, one LLVM module a program; every program is compiled once for all workers and their children.
# No fused multiply-add (AVX has none): a value that two kernels compute, one of them with it, differs in its last bit.
# The gradient of a maximum then finds its operand nowhere, and is 0 / 0.
# Later versions have one kind of kernels alone, and stop at a flag that they do not know.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_max_isa=AVX"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {QUICK}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "subspace_jax" / "xla-tests"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.02"

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
MAPS = 25_000  # kept below it, of Linux' 65,530
BUDGET = 35  # quiet worker-seconds of a system in the default run; printed, never enforced
settings.register_profile("library", deadline=None, derandomize=True, max_examples=10)
settings.register_profile("campaign", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("library")
jaxtyping.install_import_hook("subspace_jax", "beartype.beartype")


def pytest_collection_finish():
    """What was imported stays, and a program that is traced is mostly kept: the collector need not look so often."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu") and jax.default_backend() == "cpu":
            item.add_marker(pytest.mark.skip(reason="needs an accelerator"))
        if item.get_closest_marker("data") and "SUBSPACE_DATA_DIR" not in os.environ:
            item.add_marker(pytest.mark.skip(reason="needs SUBSPACE_DATA_DIR"))


def pytest_terminal_summary(terminalreporter):
    """Seconds of all workers by folder, question or file, beside the budget of a system."""
    spent = collections.Counter()
    for report in (r for found in terminalreporter.stats.values() for r in found if hasattr(r, "duration")):
        path = pathlib.PurePath(report.nodeid.partition("::")[0])
        spent[path.parts[1] if len(path.parts) > 2 and path.parts[1] != "experiments" else path.stem] += report.duration
    terminalreporter.section("worker-seconds")
    for name, seconds in spent.most_common(25):
        terminalreporter.write_line(f"{seconds:7.1f}  {name}")
    terminalreporter.write_line(f"{sum(spent.values()):7.1f}  in all; a new system adds at most {BUDGET}")


@pytest.fixture(autouse=True)
def precision_stays():
    """A test that leaves 64 bits switched on would change those behind it."""
    before = jax.config.jax_enable_x64
    yield
    after = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", before)
    assert after == before


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
