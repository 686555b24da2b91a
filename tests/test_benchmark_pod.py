"""The model of pods: its arithmetic by hand, its counts against programs whose bytes are known; no times."""

import json

import jax
import pytest

from benchmarks import pod
from benchmarks import pod_counts as counts

DEVICE = pod.Device(flops=100.0, memory=10.0, near=4.0, far=1.0, group=8, source="")


def test_the_longer_of_operations_and_memory_then_the_exchange():
    unit = counts.Unit(flops=1000.0, nbytes=50.0, wire=8.0, calls=3)
    near = pod.seconds(unit, DEVICE, 8, latency=0.5)
    assert near == {"operations": 10.0, "memory": 5.0, "bytes": 2.0, "calls": 1.5, "total": 13.5}
    assert pod.seconds(unit, DEVICE, 9, latency=0.5)["total"] == 10 + 8 + 1.5  # the slowest link decides
    assert pod.seconds(unit._replace(flops=0.0), DEVICE, 8, latency=0.0)["total"] == 5 + 2


def test_units_add_and_repeat():
    unit = counts.Unit(1.0, 2.0, 3.0, 4)
    assert unit + unit == unit.times(2) == counts.Unit(2.0, 4.0, 6.0, 8)


def test_as_many_devices_train_as_divide_the_models():
    assert [pod.models_of_one(devices) for devices in (1, 8, 48, 64, 512)] == [64, 8, 4, 1, 1]


def test_published_figures_name_their_source():
    assert all(device.source for device in pod.DEVICES.values())
    assert all(min(device[:5]) > 0 and device.near >= device.far for device in pod.DEVICES.values())


def shapes(*sizes):
    return {str(k): jax.ShapeDtypeStruct((size,), "float32") for k, size in enumerate(sizes)}


@pytest.mark.parametrize(("method", "messages"), [("d_psgd", 1), ("ngc", 2)])
def test_a_block_of_a_ring_receives_a_model_from_either_side(method, messages):
    make = counts.METHODS[method][0]
    one = counts.exchanged(make, "ring", 12, 4, shapes(10))
    assert (one.nbytes, one.calls) == (messages * 2 * 40, messages * 2)


def test_all_arrays_are_one_message():
    make = counts.METHODS["d_psgd"][0]
    assert counts.exchanged(make, "ring", 8, 4, shapes(10, 3)) == (2 * 4 * 13, 2)
    assert counts.exchanged(make, "ring", 8, 1, shapes(10)) == (0, 0)


def test_work_of_an_mlp_by_its_layers():
    products = 64 * 8 + 8 * 10
    trained = counts.trained("mlp", (8, 8, 1), batch=4, widths=(8,))
    assert trained.flops == 2 * 4 * (3 * products - 64 * 8)  # no gradient in the input of the first layer
    assert trained.nbytes > counts.HALF * 4 * 3 * products  # kernels are read, their gradients and they are written


def test_a_scored_image_is_a_gradient_at_each_point():
    unit = counts.scored("mlp", (4, 4, 1), classes=3, probes=2, batch=2)
    more = counts.scored("mlp", (4, 4, 1), classes=3, probes=5, batch=2)
    products = 16 * 256 + 256 * 128 + 128 * 3
    assert unit.flops == 2 * products * 6
    assert more.flops == more.nbytes / unit.nbytes * unit.flops == 2 * unit.flops
    assert (unit.wire, unit.calls) == (0, 0)


def test_agents_take_their_gradients_and_messages(monkeypatch):
    monkeypatch.setattr(counts, "NETWORKS", {"resnet20": ({"norm": "evonorm"}, (32, 32, 3))})
    monkeypatch.setattr(counts, "trained", lambda *_, **options: counts.Unit(100.0, 0.0))
    monkeypatch.setattr(counts, "exchanged", lambda *_: counts.programs.Collective(1000, 2))
    plain, crossed = (counts.agents("ring", method, 16, 4, 32) for method in ("d_psgd", "ngc"))
    assert (plain.flops, crossed.flops) == (4 * 100, 4 * 3 * 100)
    assert plain.wire == crossed.wire == 500
    assert plain.calls == 2
    assert crossed.nbytes == plain.nbytes * 6 / 4  # own model read and written, one or two messages of two neighbours


def test_the_model_of_processes_by_hand():
    found = {"calls": 3.0, "latency": 0.5, "wire": 2e6, "bandwidth": 1e9}
    assert pod.predicted(found, 4.0, 2, 2) == pytest.approx(4 + 1.5 + 2)
    assert pod.predicted(found, 4.0, 4, 2) == pytest.approx(8 + 1.5 + 2)


@pytest.mark.process
def test_scoring_and_many_models_exchange_nothing():
    assert counts.independent(4) == {"scoring": {}, "train_many": {}}


@pytest.mark.process
def test_two_processes_measure_their_exchange(monkeypatch):
    found = json.loads(json.dumps(pod.launched(2, 4)))
    assert found["calls"] > 0
    assert found["wire"] > 0
    assert min(found["step"], found["latency"], found["bandwidth"]) > 0
