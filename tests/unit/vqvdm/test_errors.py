"""The user's mistake is found, however it was wrapped on its way."""

import pytest

from vqvdm.errors import UserError, find_user_error


class FrameworkError(Exception):
    """Carries errors as frameworks do: in attributes."""

    def __init__(self, cause: object = None, worker_failures: object = None) -> None:
        super().__init__("a task failed")
        self.cause = cause
        if worker_failures is not None:
            self.worker_failures = worker_failures


class CopiedError(FrameworkError, UserError):
    """A framework's own copy of the error."""


def chained(error: BaseException) -> BaseException:
    try:
        raise RuntimeError("above") from error
    except RuntimeError as wrapped:
        return wrapped


MISTAKE = UserError("pass --root")


@pytest.mark.parametrize(
    "error",
    [
        MISTAKE,
        chained(MISTAKE),
        FrameworkError(cause=MISTAKE),
        FrameworkError(worker_failures={0: OSError("gone"), 1: FrameworkError(cause=MISTAKE)}),
        CopiedError(cause=MISTAKE),
        chained(chained(FrameworkError(cause=chained(MISTAKE)))),
    ],
)
def test_the_plain_mistake_is_found(error: BaseException) -> None:
    assert find_user_error(error) is MISTAKE


@pytest.mark.parametrize(
    "error", [ValueError("no"), chained(OSError()), FrameworkError(cause="text"), FrameworkError()]
)
def test_another_error_is_nobodys_mistake(error: BaseException) -> None:
    assert find_user_error(error) is None


def test_circles_end() -> None:
    a, b = FrameworkError(), FrameworkError()
    a.cause, b.cause = b, a
    assert find_user_error(a) is None


def test_it_is_a_value_error() -> None:
    assert isinstance(MISTAKE, ValueError)
