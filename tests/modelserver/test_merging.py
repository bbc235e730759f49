import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermserve.modelserver.errors import ServingError
from dermserve.modelserver.merging import concatenate, count_rows, merge, padded_size, part, part_rows
from dermserve.modelserver.tensors import Value

FLOAT, STRING = 1, 7


def value(rows: list[list[float]]) -> Value:
    array = np.array(rows, "<f4").reshape(len(rows), -1)
    return Value(FLOAT, array.shape, array.tobytes())


def strings(*items: bytes) -> Value:
    return Value(STRING, (len(items),), list(items))


def rows_of(one: Value) -> list[list[float]]:
    return np.frombuffer(one.data, "<f4").reshape(one.shape).tolist()


@given(st.lists(st.lists(st.integers(-99, 99), min_size=2, max_size=2), min_size=1), st.data())
def test_what_is_merged_and_parted_again_is_what_it_was(rows: list[list[int]], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    starts, stops = [0, *cuts], [*cuts, len(rows)]
    whole = value(rows)
    parts = [part_rows(whole, start=start, stop=stop) for start, stop in zip(starts, stops, strict=True)]
    merged = merge(parts, name="x", size=len(rows), pad=False)
    assert merged == whole
    sizes = [stop - start for start, stop in zip(starts, stops, strict=True)]
    assert part(merged, sizes=sizes, size=len(rows)) == parts


def test_strings_merge_and_part_too() -> None:
    merged = merge([strings(b"a"), strings(b"", b"ccc")], name="x", size=4, pad=False)
    assert merged == strings(b"a", b"", b"ccc", b"")
    assert part(merged, sizes=[1, 2], size=4) == [strings(b"a"), strings(b"", b"ccc")]
    assert concatenate([strings(b"a"), strings(b"b")]) == strings(b"a", b"b")


def test_a_batch_is_filled_up_with_the_first_row_of_the_last_request() -> None:
    merged = merge([value([[1]]), value([[2], [3]])], name="x", size=5, pad=False)
    assert rows_of(merged) == [[1], [2], [3], [2], [2]]


def test_shorter_rows_are_filled_up_with_their_first_element() -> None:
    merged = merge([value([[1, 2, 3]]), value([[4], [5]])], name="x", size=3, pad=True)
    assert rows_of(merged) == [[1, 2, 3], [4, 4, 4], [5, 4, 4]]
    words = [Value(STRING, (1, 2), [b"a", b"b"]), Value(STRING, (1, 1), [b"c"])]
    assert merge(words, name="x", size=2, pad=True).data == [b"a", b"b", b"c", b"c"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([value([[1, 2]]), value([[1]])], "different shapes and padding is turned off"),
        ([value([[1]]), Value(9, (1, 1), bytes(8))], "different data types. Got float and int64"),
    ],
)
def test_what_does_not_fit_together_is_refused(values: list[Value], message: str) -> None:
    with pytest.raises(ServingError, match=message):
        merge(values, name="x", size=2, pad=False)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "at least one input tensor"),
        ({"x": Value(FLOAT, (), bytes(4))}, "at least one dimension"),
        ({"x": value([[1]]), "y": value([[1], [2]])}, "equal 0th-dimension size"),
    ],
)
def test_a_request_must_have_rows_to_be_batched(feeds: dict[str, Value], message: str) -> None:
    with pytest.raises(ServingError, match=message):
        count_rows(feeds)


def test_the_batch_size_is_the_first_allowed_one_that_holds_the_rows() -> None:
    assert [padded_size(rows, allowed=(2, 4, 8)) for rows in (1, 2, 3, 8)] == [2, 2, 4, 8]
    assert padded_size(3, allowed=(8, 4)) == 8
    assert padded_size(5, allowed=()) == 5
    assert padded_size(9, allowed=(2, 4)) == 9


@pytest.mark.parametrize(
    ("output", "message"), [(Value(3, (), bytes(4)), "0 dimensions"), (value([[1]]), "does not equal")]
)
def test_an_output_must_have_a_row_for_each_that_went_in(output: Value, message: str) -> None:
    with pytest.raises(ServingError, match=message):
        part(output, sizes=[2], size=2)
