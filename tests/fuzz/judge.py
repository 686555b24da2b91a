"""What may come of a wrong call: a right answer or one clear sentence; what may not."""

import pathlib
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import subspace_jax
from tests.fuzz.mutations import Case

OURS = str(pathlib.Path(subspace_jax.__file__).parent)
TRACED = tuple(
    getattr(jax.errors, name)
    for name in ("JAXTypeError", "JAXIndexError", "UnexpectedTracerError", "ConcretizationTypeError")
)
SHAPED = "one axis more", "flat", "one less", "empty", "text", "complex", "int8", "float", "numbers"


def fault(case: Case) -> str | None:
    """What is wrong with the outcome; None where nothing is."""
    wrong = case.mutated()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)  # an imaginary part is dropped
            result = wrong.run()
        result = [np.asarray(leaf) for leaf in jax.tree.leaves(result) if is_numeric(leaf)]
    except Exception as error:
        return None if is_clear(case, error) else f"{type(error).__name__}: {str(error).splitlines()[:1]}"
    if case.kind in ("'x'", "nan") and not case.is_real():
        return None  # where an integer belongs: refused at its first use
    if case.kind in ("NaN", "nan") and not case.call.blind and all(np.isfinite(leaf).all() for leaf in result):
        return "NaN is swallowed"
    if case.kind in (*SHAPED, "0", "-1", "2.5") and any(np.isnan(leaf).any() for leaf in result):
        return "NaN of finite numbers"
    if case.kind in ("'x'", "another name"):
        return "an unknown name is accepted"
    return None


def is_clear(case: Case, error: Exception) -> bool:
    """Whether a line of the library says what is wrong, or JAX and NumPy say which shapes or dtypes do not fit."""
    if isinstance(error, TRACED) or not isinstance(error, ValueError | TypeError | KeyError):
        return type(error).__name__ in OWN
    file, line = innermost(error)
    if file.startswith(OURS):
        return not isinstance(error, KeyError) or "raise" in line_of(file, line)
    if case.kind in SHAPED:
        return not isinstance(error, KeyError)
    return (
        isinstance(error, TypeError | ValueError) and case.kind in TYPED and not (case.kind == "nan" and case.is_real())
    )


OWN = {"NotSavedError"}
TYPED = "'x'", "None", "2.5", "nan"  # NaN and fractions where an integer belongs


def innermost(error: Exception) -> tuple[str, int]:
    at = error.__traceback__
    while at.tb_next:
        at = at.tb_next
    return at.tb_frame.f_code.co_filename, at.tb_lineno


def line_of(file: str, line: int) -> str:
    return "".join(pathlib.Path(file).read_text().splitlines()[max(line - 4, 0) : line])


def is_numeric(leaf: Any) -> bool:
    if isinstance(leaf, float):
        return True
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)
