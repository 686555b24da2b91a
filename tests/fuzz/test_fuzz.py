"""Wrong arguments of every public function: a right answer or one clear sentence, never a crash from the depths."""

import functools
import importlib
import inspect
import pkgutil
import warnings

import jax
import jaxtyping
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import subspace_jax
from tests.fuzz import judge, mutations
from tests.fuzz.exclusions import EXCLUDED

DOMAINS = "core", "privacy", "memory", "ood", "data", "agents", "devices", "helpers", "steps"
OF_DOMAIN = 300  # cases: 2,700 in all


@functools.cache
def calls(domain):
    return importlib.import_module(f"tests.fuzz.entries_{domain}").calls()


@functools.cache
def cases(domain):
    return [case for valid in calls(domain) for case in mutations.of(valid)]


@pytest.fixture(scope="module", autouse=True)
def as_users_run():
    """No run-time type check, and arrays broadcast: both are settings of the tests alone."""
    jaxtyping.config.update("jaxtyping_disable", True)
    before = jax.config.jax_numpy_rank_promotion
    jax.config.update("jax_numpy_rank_promotion", "allow")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield
    jax.config.update("jax_numpy_rank_promotion", before)
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.process
def test_every_valid_call_is_valid(domain):
    for valid in calls(domain):
        valid.run()


def reached():
    """Every public function: what a package lists in `__all__`, and what a listed module defines."""
    found = {}
    for package in pkgutil.iter_modules(subspace_jax.__path__, "subspace_jax."):
        _reach(importlib.import_module(package.name), found)
    return found


def is_function(name, member):
    return name[0] != "_" and callable(member) and not inspect.isclass(member) and hasattr(member, "__name__")


def _reach(module, found):
    names = getattr(module, "__all__", None)
    own = [name for name, member in vars(module).items() if getattr(member, "__module__", "") == module.__name__]
    for name in names or own:
        member = getattr(module, name)
        if inspect.ismodule(member):
            _reach(member, found)
        elif getattr(member, "__module__", "").startswith("subspace_jax") and is_function(name, member):
            found[f"{member.__module__.removeprefix('subspace_jax.')}.{member.__name__}"] = member


@pytest.mark.process
def test_every_public_function_is_fuzzed_or_excluded_with_a_reason():
    fuzzed = {f"{call.function.__module__.removeprefix('subspace_jax.')}.{call.function.__name__}"
              for domain in DOMAINS for call in calls(domain)}  # fmt: skip
    excluded = {name for names in EXCLUDED.values() for name in names.split()}
    public = set(reached())
    assert public - fuzzed - excluded == set()
    assert excluded - public == set(), "excluded, but not there"
    assert excluded & fuzzed == set(), "excluded, but fuzzed"


def run(domain, count):
    """Faults of so many drawn cases, in words, and the number of cases."""
    ran, faults = [], {}

    @settings(max_examples=count, derandomize=True, deadline=None, phases=[Phase.generate], database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.data())
    def judge_one(data):
        case = cases(domain)[data.draw(st.integers(0, len(cases(domain)) - 1))]
        ran.append(case)
        if found := judge.fault(case):
            faults[str(case)] = found

    judge_one()
    return faults, len(ran)


@pytest.mark.process
@pytest.mark.parametrize("domain", DOMAINS)
def test_wrong_arguments_end_in_an_answer_or_a_sentence(domain):
    faults, ran = run(domain, OF_DOMAIN)
    print(f"{ran} cases of {domain}")
    assert not faults, "\n".join(f"{case}: {fault}" for case, fault in faults.items())
    assert ran >= OF_DOMAIN
