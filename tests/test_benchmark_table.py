from benchmarks.table import show


def test_a_table_has_every_column_and_a_dash_where_a_row_has_no_number(capsys):
    show("title", {"one": {"a": 1.0, "b": None}, "another": {"b": 12345.6, "c": 0.12345}})
    _, title, head, one, another = capsys.readouterr().out.split("\n")[:5]
    assert title == "title"
    assert head.split() == ["a", "b", "c"]
    assert one.split() == ["one", "1", "-", "-"]
    assert another.split() == ["another", "-", "12,346", "0.1235"]
    assert len({len(head), len(one), len(another)}) == 1
