"""What is read from a compiled program: its text by hand, and programs whose bytes are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from subspace_jax.core import programs

TEXT = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %sum = f32[] add(%a, %b)
}

%inner (p: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %gathered = bf16[16,8]{1,0:T(8,128)} all-gather(%x), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %out = (s32[], bf16[4,8]) tuple(%i, %y)
}

%outer (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %loop = (s32[], bf16[4,8]) while(%t), condition=%c, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
  %one = (f32[4]{0}, f64[], /*index=2*/pred[5]{0}) all-reduce(%u, %v, %w), to_apply=%add
}

%wrapped (p: f32[8]) -> f32[2] {
  ROOT %scattered = f32[2]{0} reduce-scatter(%p), dimensions={0}, to_apply=%add
}

ENTRY %main.7_spmd (param: f32[4]) -> f32[4] {
  %w = (s32[], f32[4]) while(%t), condition=%c, body=%outer, backend_config={"known_trip_count":{"n":"2"}, "a":"b"}
  %start = (f32[2]{0}, f32[8]{0}) all-gather-start(%q), dimensions={0}
  %done = f32[8]{0} all-gather-done(%start)
  %s = ((f32[8]{0}), f32[2]{0}, u32[]) async-start(%done), calls=%wrapped
  %t2 = f32[2]{0} async-done(%s), calls=%wrapped
  ROOT %r = f32[4]{0} fusion(%w), kind=kLoop, calls=%nothing
}
"""


def test_tuples_loops_and_asynchronous_pairs_are_counted():
    found = programs.collectives(TEXT)
    assert found == {
        "all-gather": (6 * 16 * 8 * 2 + 8 * 4, 7),
        "all-reduce": (2 * (4 * 4 + 8 + 5), 2),
        "reduce-scatter": (2 * 4, 1),
    }


def test_a_loop_of_unknown_length_is_refused_where_it_exchanges():
    unknown = TEXT.replace(', backend_config={"known_trip_count":{"n":"3"}}', "")
    with pytest.raises(ValueError, match="a loop of unknown length holds collectives"):
        programs.collectives(unknown)
    quiet = unknown.replace(" all-gather(", " copy(")
    assert programs.collectives(quiet)["all-gather"] == (8 * 4, 1)


@pytest.fixture(scope="module")
def exchanging():
    """Three passes of an all-gather on four devices, then one sum."""
    mesh = Mesh(np.array(jax.devices()[:4]), ("d",))

    def local(x):
        passed = jax.lax.map(lambda row: jax.lax.all_gather(row, "d", tiled=True) * 2, x)
        return jax.lax.psum(passed.sum(), "d")

    step = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P(None, "d"), out_specs=P()))
    return step.lower(jax.ShapeDtypeStruct((3, 20), jnp.float32)).compile()


def test_a_program_tells_the_bytes_of_one_device(exchanging):
    assert programs.collectives(exchanging) == {"all-gather": (3 * 20 * 4, 3), "all-reduce": (4, 1)}
    found = programs.memory(exchanging)
    assert (found.arguments, found.outputs, found.aliased) == (3 * 20 * 4 // 4, 4, 0)
    assert found.total == found.arguments + found.outputs + found.temporaries


def test_what_is_donated_is_counted_once():
    shape = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    product = jax.jit(lambda x, y: x @ y + x, donate_argnums=0).lower(shape, shape).compile()
    found = programs.memory(product)
    assert found.arguments == 2 * found.outputs == 2 * found.aliased == 512
    assert found.total == found.arguments + found.temporaries
    assert programs.flops(product) == 2 * 8**3 + 8**2


def test_a_backend_that_says_nothing():
    class Silent:
        def memory_analysis(self):
            return None

        def cost_analysis(self):
            return None

    assert np.isnan(programs.flops(Silent()))
    with pytest.raises(ValueError, match="says nothing of the memory"):
        programs.memory(Silent())
