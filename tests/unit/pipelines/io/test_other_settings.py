"""Settings that filled a place before are compared with those of now."""

import pytest

from pipelines.io.other_settings import refuse_other
from vqvdm.errors import UserError


def test_other_settings_are_refused_by_name() -> None:
    refuse_other("clips", "abc", "abc")
    with pytest.raises(UserError) as caught:
        refuse_other("clips", "abc", "def")
    assert str(caught.value) == (
        "clips was filled with other settings, from other input or by an earlier version: pass "
        "--overwrite to replace it, or another --root"
    )
    with pytest.raises(UserError) as caught:
        refuse_other("samples/a", "abc", "def", "steps 1300 → 250", "--output")
    assert str(caught.value) == (
        "samples/a was filled with other settings (steps 1300 → 250): pass --overwrite to replace "
        "it, or another --output or --root"
    )
