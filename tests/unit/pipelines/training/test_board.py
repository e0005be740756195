"""What driver and workers of a training leave for each other."""

from pipelines.training.board import Board


def test_one_attempt_is_ended_and_not_the_next() -> None:
    board = Board()
    assert board.begun() == ""
    assert not board.stop_requested("first")
    assert board.begun() == "first"
    board.end_attempt("first")
    assert board.stop_requested("first")
    assert not board.stop_requested("second")
    assert board.begun() == "second"
    board.request_stop()
    assert board.stop_requested("second") and board.stop_requested("third")
