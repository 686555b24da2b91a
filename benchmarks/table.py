"""How every benchmark prints its measurements."""

from collections.abc import Mapping


def show(title: str, rows: Mapping[str, Mapping[str, float | None]]) -> None:
    """A table: one line a row, one column a key; "-" where a row has no number."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [["", *columns]] + [[name, *(_number(row.get(column)) for column in columns)] for name, row in rows.items()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{title}")
    for name, *values in cells:
        numbers = (f"{value:>{width}s}" for value, width in zip(values, widths[1:], strict=True))
        print("  ".join([f"{name:{widths[0]}s}", *numbers]), flush=True)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
