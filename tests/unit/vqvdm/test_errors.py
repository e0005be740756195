"""The user's mistake is found, however it was wrapped on its way."""

from vqvdm.errors import UserError

MISTAKE = UserError("pass --root")


def test_it_is_a_value_error() -> None:
    assert isinstance(MISTAKE, ValueError)
