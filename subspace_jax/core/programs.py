"""What a compiled program says of itself: memory, operations, and the bytes of its collectives.

All of it is of ONE device, as the compiler counts, and nothing has to run: shapes alone can be compiled. A collective
is counted by the bytes of its result. What it puts on a wire depends on how it is done: in a group of K devices an
all-gather brings (K - 1) / K of its result, a ring all-reduce twice that, a reduce-scatter K - 1 times its result.

>>> import jax, jax.numpy as jnp
>>> program = jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((8, 8), "float32")).compile()
>>> memory(program).arguments, flops(program), collectives(program)
(256, 1024.0, {})
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

KINDS = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
    "collective-broadcast",
)  # fmt: skip
HEAD = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")  # of a computation
LINE = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (?P<result>\(.*?\)|\S+) (?P<op>[a-z][\w\-]*)\(")
ARRAY = re.compile(r"\b([a-z]+\d*)(?:[a-z]\w*)?\[([\d,]*)\]")
CALLED = re.compile(r"\b(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
PASSES = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
NO_ARRAYS = "token", "opaque"


class Memory(NamedTuple):
    """Bytes of a program on one device.

    Attributes:
      arguments: of what it is given.
      outputs: of what it returns, and 8 for each array of a tuple.
      temporaries: of what it holds in between.
      aliased: of outputs that lie where donated arguments lay.
    """

    arguments: int
    outputs: int
    temporaries: int
    aliased: int

    @property
    def total(self) -> int:
        """Bytes that the program needs at once."""
        return self.arguments + self.outputs + self.temporaries - self.aliased


class Collective(NamedTuple):
    """All collectives of one kind in a program.

    Attributes:
      nbytes: of their results on one device, each as often as its loop passes.
      calls: how many are executed; a combined one, whose result is a tuple, is one.
    """

    nbytes: int
    calls: int


def memory(program: Any) -> Memory:
    """Sizes that the compiler plans for; `program` is what `jax.jit(f).lower(...).compile()` gives.

    The peak that some versions also report is that of the arguments alone on a CPU: take `total`.

    Raises:
      ValueError: a backend that does not tell.
    """
    found = program.memory_analysis()
    if found is None:
        raise ValueError("this backend says nothing of the memory of a program: compile it for a CPU or a GPU.")
    return Memory(
        found.argument_size_in_bytes, found.output_size_in_bytes, found.temp_size_in_bytes, found.alias_size_in_bytes
    )


def flops(program: Any) -> float:
    """Floating-point operations on one device; the body of a loop counts ONCE, whatever its passes. NaN if unknown."""
    return float((program.cost_analysis() or {}).get("flops", np.nan))


def collectives(program: Any) -> dict[str, Collective]:
    """The collectives that a program executes, by kind ("all-gather", ...); kinds that it has not are left out.

    Loops count all their passes, branches each. Groups of a single device count too: the compiler keeps them.

    Args:
      program: compiled, or its text in HLO.

    Raises:
      ValueError: a collective in a loop of unknown length.
    """
    parts, entry = _computations(program if isinstance(program, str) else program.as_text())
    nbytes, calls = Counter(), Counter()
    for kind, result, times in _executed(parts, entry, 1):
        nbytes[kind] += times * result
        calls[kind] += times
    return {kind: Collective(nbytes[kind], calls[kind]) for kind in KINDS if kind in calls}


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of every computation by name, and the name of the first to run."""
    parts, lines, entry = {}, [], ""
    for line in text.splitlines():
        if head := HEAD.match(line):
            lines = parts.setdefault(head["name"], [])
            entry = head["name"] if head["entry"] else entry
        else:
            lines.append(line)
    return parts, entry


def _executed(parts: dict[str, list[str]], name: str, times: int) -> Iterator[tuple[str, int, int]]:
    """(kind, bytes of the result, how often) of the collectives in a computation and in those that it calls."""
    for line in parts.get(name, ()):
        found = LINE.match(line)
        if not found:
            continue
        kind = found["op"].removesuffix("-done")
        if kind in KINDS:  # of an asynchronous pair the second has the result
            yield kind, _nbytes(found["result"]), times
        elif not found["op"].endswith(("-update", "-done")):  # they name the computation of their start again
            called = CALLED.findall(line) + [b.strip(" %") for part in BRANCHES.findall(line) for b in part.split(",")]
            for each in called:
                inner = list(_executed(parts, each, 1))
                if inner:
                    passes = _passes(line) if found["op"] == "while" else 1
                    yield from ((kind, result, times * passes * own) for kind, result, own in inner)


def _passes(line: str) -> int:
    known = PASSES.search(line)
    if not known:
        raise ValueError("a loop of unknown length holds collectives: give it a fixed number of passes.")
    return int(known[1])


def _nbytes(result: str) -> int:
    """Bytes of an array type, f32[8,4]{1,0}, or of all arrays of a tuple."""
    bits = 0
    for dtype, shape in ARRAY.findall(result):
        if dtype not in NO_ARRAYS:
            width = int(re.sub(r"\D", "", dtype) or 8)  # pred takes a byte
            bits += width * int(np.prod([int(size) for size in shape.split(",") if size], dtype=np.int64))
    return -(-bits // 8)
