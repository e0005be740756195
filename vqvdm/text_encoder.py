"""Captions as vectors, by a text encoder of the library `transformers` in a local folder.

Any model that `AutoModel` loads will do, from safetensors alone: neither pickles nor code of the
folder are run, and nothing is fetched. The library takes seconds to import, so it is imported with
the first encoder.

Shapes: B texts, L tokens of a text, D width of an embedding.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqvdm.errors import UserError

FOLDER = "text_encoder"
"""Where the encoder lies in a bundle, and beside the latents whose captions it encoded."""
WEIGHTS = ".safetensors"
READ = (".json", ".txt", ".model", WEIGHTS)
"""Ends of the names of the files that are read: neither pickles nor code."""
TOKENIZER = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")
"""Files of which a tokenizer has at least one."""
MOST_TOKENS = 512
"""Tokens of a text at most, where neither tokenizer nor model say."""

Texts = Sequence[str | None]
Embed = Callable[[Texts], Tensor]
"""Texts to embeddings (B, D); of None, and of blanks, zeros."""


def refuse_missing_library() -> None:
    """`UserError` unless `transformers` is installed."""
    if importlib.util.find_spec("transformers") is None:
        raise UserError(
            "captions and prompts need the package transformers, which is not installed: "
            "pip install -c constraints.txt -e '.[text]'"
        )


def encoder_files(names: Iterable[str], folder: str) -> list[str]:
    """Those of the files of a folder that make an encoder; `UserError` if one is lacking."""
    found = sorted(name for name in names if name.endswith(READ) and "/" not in name)
    lacking = [
        what
        for what, is_there in (
            ("config.json", "config.json" in found),
            ("weights as .safetensors", any(name.endswith(WEIGHTS) for name in found)),
            ("a tokenizer", any(name in found for name in TOKENIZER)),
        )
        if not is_there
    ]
    if lacking:
        raise UserError(
            f"{folder} is no text encoder: it lacks {' and '.join(lacking)}; pass a folder that "
            "save_pretrained of a model and of its tokenizer wrote"
        )
    return found


def files_of(metadata: Mapping[str, Any]) -> list[str]:
    """The files of the encoder in a bundle, by its config.json; none without captions."""
    return [f"{FOLDER}/{name}" for name in metadata.get("text", {}).get("files", ())]


def standardised(text_BD: Tensor, mean_D: Tensor, std: float) -> Tensor:
    """Embeddings by the mean and deviation of those of a training, so that what they have in common
    hides no difference; zeros, which stand for no caption, stay zeros."""
    return torch.where(text_BD.any(1, keepdim=True), (text_BD - mean_D) / std, text_BD)


class TextEncoder:
    """Texts to embeddings of norm √D, fp32: what the model projects a text to, where it does (as
    CLIP), else the mean over its tokens.

    Each text is encoded alone, so its embedding depends on no other.
    """

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu") -> None:
        """`UserError` if the folder holds no model and tokenizer that the library loads."""
        refuse_missing_library()
        # Without its files, the library makes up a tokenizer that knows no word.
        encoder_files([path.name for path in Path(folder).glob("*")], str(folder))
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        # What it prints is for those who call it themselves.
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        here = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), **here)
            model, loaded = AutoModel.from_pretrained(
                str(folder),
                **here,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except Exception as error:  # Of many kinds, for whatever is wrong with the files.
            line = " ".join(str(error).split())[:200]
            raise UserError(
                f"{folder} holds no text encoder that transformers loads: {line}"
            ) from error
        if 2 * len(loaded["missing_keys"]) > len(model.state_dict()):
            raise UserError(
                f"{folder}: the weights are not those of the {type(model).__name__} that its "
                "config.json describes: save model and configuration together"
            )
        self._model = model.eval().requires_grad_(False).to(device)
        self._device = torch.device(device)
        limits = (
            self._tokenizer.model_max_length,
            getattr(model.config.get_text_config(), "max_position_embeddings", MOST_TOKENS),
        )
        self._most_tokens = min(limits)
        self.width = self._embedding("a").shape[-1]

    def __call__(self, texts: Texts) -> Tensor:
        """Texts to (B, D), on the encoder's device; of None, and of blanks, zeros. Longer texts
        than the model takes are cut."""
        none_D = torch.zeros(self.width, device=self._device)
        return torch.stack(
            [self._embedding(text) if text and text.strip() else none_D for text in texts]
        )

    @torch.inference_mode()
    def _embedding(self, text: str) -> Tensor:
        tokens = self._tokenizer(
            text, truncation=True, max_length=self._most_tokens, return_tensors="pt"
        ).to(self._device)
        embedding_D = self._pooled(tokens)
        return embedding_D / embedding_D.square().mean().sqrt().clamp(min=1e-6)

    def _pooled(self, tokens: Mapping[str, Tensor]) -> Tensor:
        if hasattr(self._model, "get_text_features"):
            ids_1L, mask_1L = tokens["input_ids"], tokens["attention_mask"]
            return self._model.get_text_features(ids_1L, mask_1L).pooler_output[0]
        is_pair = self._model.config.is_encoder_decoder
        encoder = self._model.get_encoder() if is_pair else self._model
        return encoder(**tokens).last_hidden_state[0].mean(0)
