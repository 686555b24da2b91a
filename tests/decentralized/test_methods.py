"""The registry: every constructor has a name, and names, settings and properties hold together."""

import importlib
import pathlib

import numpy as np
import pytest

from subspace_jax import decentralized
from subspace_jax.core import compress
from subspace_jax.decentralized import methods
from tests.decentralized import cases

RING = cases.GRAPHS["ring"]
COMMON = {"comm": cases.COMM, "weights": RING, "lr": 0.1}
METHOD_FILES = [
    path.stem
    for path in sorted(pathlib.Path(decentralized.__file__).parent.glob("[!_]*.py"))
    if path.stem not in ("codes", "idkd", "labelling", "methods", "protocol", "soft_labels", "state", "train")
]


@pytest.mark.parametrize("module", METHOD_FILES)
def test_every_method_is_in_the_table(module):
    own = {function for name, function in vars(importlib.import_module(f"subspace_jax.decentralized.{module}")).items()
           if name == {"gossip": "d_psgd"}.get(module, module)}  # fmt: skip
    made = {getattr(method.make, "func", method.make) for method in methods.METHODS.values()}
    assert len(own) == 1
    assert own <= made


def test_a_setting_takes_the_place_of_the_name_s_own():
    assert methods.settings("push_sum") == ("momentum", "weight_decay", "loop")
    dense = methods.build("choco_sgd", cases.loss, compressor=compress.identity(), **COMMON)
    np.testing.assert_array_equal(cases.sent(dense), [[2 * 4 * 36] * cases.AGENTS, [0] * cases.AGENTS])


def test_ngc_has_any_share_between_its_two_ends():
    half = methods.find("ngc_alpha_0.5")
    assert half.make.keywords == {"alpha": 0.5}
    assert half._replace(make=None) == methods.find("ngc_alpha_1")._replace(make=None)


@pytest.mark.parametrize("name", ["sgd", "ngc_alpha_", "ngc_alpha_x", "qgm_alpha_1"])
def test_an_unknown_method_is_refused_with_all_there_are(name):
    with pytest.raises(
        ValueError, match=f"a method is one of d_psgd, ngc_alpha_0, .*, ngc_alpha_0.5, ...; got '{name}'"
    ):
        methods.find(name)


def test_a_setting_of_another_method_is_refused_with_its_own():
    with pytest.raises(ValueError, match="qgm takes mu, beta, gamma, weight_decay, loop; got momentum"):
        methods.build("qgm", cases.loss, momentum=0.9, **COMMON)
