"""Strict settings for every test: 8 simulated devices, shapes checked at run time, silent broadcasting refused."""

import collections
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
BUDGET = 35  # quiet worker-seconds of a system in the default run; printed, never enforced
settings.register_profile("library", deadline=None, derandomize=True, max_examples=10)
settings.register_profile("campaign", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("library")
jaxtyping.install_import_hook("subspace_jax", "beartype.beartype")


def pytest_itemcollected(item):
    item.add_marker(pytest.mark.xdist_group(group(item)))


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu") and jax.default_backend() == "cpu":
            item.add_marker(pytest.mark.skip(reason="needs an accelerator"))
        if item.get_closest_marker("data") and "SUBSPACE_DATA_DIR" not in os.environ:
            item.add_marker(pytest.mark.skip(reason="needs SUBSPACE_DATA_DIR"))


def group(item):
    """Tests that share something stay together: those of a question, of a page, of a file."""
    values = getattr(item, "callspec", None)
    shared = values and (values.params.get("question") or values.params.get("page"))
    return str(shared or item.path.stem.removeprefix("test_"))


def pytest_terminal_summary(terminalreporter):
    """Seconds of all workers by folder, question or file, beside the budget of a system."""
    spent = collections.Counter()
    for report in (r for found in terminalreporter.stats.values() for r in found if hasattr(r, "duration")):
        path = pathlib.PurePath(report.nodeid.partition("::")[0].partition("@")[0])
        spent[path.parts[1] if len(path.parts) > 2 and path.parts[1] != "experiments" else path.stem] += report.duration
    terminalreporter.section("worker-seconds")
    for name, seconds in spent.most_common(25):
        terminalreporter.write_line(f"{seconds:7.1f}  {name}")
    terminalreporter.write_line(f"{sum(spent.values()):7.1f}  in all; a new system adds at most {BUDGET}")


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
