"""Memory of a GPU that runs out is told in one line."""

import pytest
import torch

from pipelines.cluster.gpu_memory import enough_memory
from pipelines.cluster.join import find_user_error
from vqvdm.errors import UserError

SAID = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 14.74 GiB of "
    "which 1.06 GiB is free. Including non-PyTorch memory, this process has 13.67 GiB memory in "
    "use. Of the allocated memory 13.2 GiB is allocated by PyTorch, and 300.00 MiB is reserved."
)


def test_the_line_names_the_card_what_it_has_and_what_was_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    with pytest.raises(UserError) as found, enough_memory("pass --batch-size 8"):
        raise torch.OutOfMemoryError(SAID)
    assert str(found.value) == (
        "Tesla T4 has 14.74 GiB of memory, 1.06 GiB of it free, and 2.50 GiB more were asked for: "
        "pass --batch-size 8"
    )
    assert find_user_error(found.value)


def test_other_words_of_pytorch_are_a_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with (
        pytest.raises(UserError, match=r"^the GPU has too little memory: less$"),
        enough_memory("less"),
    ):
        raise torch.OutOfMemoryError("out of memory")


def test_other_errors_stay() -> None:
    with pytest.raises(RuntimeError, match=r"^other$"), enough_memory("less"):
        raise RuntimeError("other")
