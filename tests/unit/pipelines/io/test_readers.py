"""Many files read at a time: in order, and not all ahead of whoever takes them."""

import threading

import pytest

from pipelines.io.readers import READERS, WAITING, read_all


def test_results_come_in_order_from_several_threads() -> None:
    together = threading.Barrier(READERS, timeout=60)

    def read(number: int) -> int:
        together.wait()
        return number**2

    numbers = range(2 * READERS)
    assert list(read_all(read, numbers)) == [number**2 for number in numbers]


def test_little_is_read_before_it_is_taken() -> None:
    taken = 0

    def items():
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = read_all(str, items())
    for number in range(1, WAITING + 2):
        assert next(results) == str(number)
        assert taken <= number + WAITING
    results.close()


def test_an_error_of_a_reader_reaches_the_taker() -> None:
    with pytest.raises(ZeroDivisionError):
        list(read_all(lambda number: 1 / number, [1, 0, 1]))
