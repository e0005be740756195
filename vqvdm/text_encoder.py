"""Captions as vectors, by a text encoder of the library `transformers` in a local folder.

A model of texts that `AutoModel` loads will do, or one of texts and pictures that projects both to
the same width (CLIP, SigLIP). Weights are read from safetensors alone: neither pickles nor code of
the folder are run, and nothing is fetched. The library takes seconds to import, so it is imported
with the first encoder.

Shapes: B texts, L tokens of a text, D width of an embedding.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqvdm.errors import UserError, listed

FOLDER = "text_encoder"
"""Where the encoder lies in a bundle, and beside the latents whose captions it encoded."""
WEIGHTS = ".safetensors"
READ = (".json", ".txt", ".model", WEIGHTS)
"""Ends of the names of the files that are read: neither pickles nor code."""
TOKENIZER = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
"""Files of which a tokenizer has at least one."""
MOST_TOKENS = 512
"""Tokens of a text at most, where the tokenizer does not say: a model has some positions more than
it takes tokens."""
UNLIMITED = 10**9
"""Above any limit of tokens that means one: tokenizers write 10³⁰ for none."""
PADDED = ("siglip", "siglip2")
"""Models that were trained on texts padded to the full length, and read the last position."""

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
    found = sorted(filter(_may_be_read, names))
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


def _may_be_read(name: str) -> bool:
    """Whether a name is that of a file right in an encoder's folder, and of a kind that is read."""
    return name.endswith(READ) and "/" not in name and "\0" not in name


def sums_of(metadata: Mapping[str, Any]) -> dict[str, str]:
    """sha256 of each file of the encoder, by the config.json of a bundle or the index.json of
    latents; none without captions. `UserError` for a name that no encoder's file has: files are
    written by these names."""
    found = dict(metadata.get("text", {}).get("files", {}))
    if strange := [name for name in found if not _may_be_read(name)]:
        raise UserError(
            f"{strange[0]!r} cannot be a file of a text encoder, as which the config.json of the "
            "model, or the index.json of the latents, names it: no job wrote that; find out who "
            "did, and make model or latents again with --overwrite"
        )
    return found


def files_of(metadata: Mapping[str, Any]) -> list[str]:
    """The files of the encoder below the folder of a bundle, by its config.json; as `sums_of`."""
    return [f"{FOLDER}/{name}" for name in sums_of(metadata)]


def check_files(folder: str, metadata: Mapping[str, Any], there: Iterable[str]) -> None:
    """`UserError` unless the encoder that the config.json of a bundle tells of is whole; `there`
    are the names in the bundle's folder of it."""
    names = set(there)
    lacking = [name for name in files_of(metadata) if name.rpartition("/")[2] not in names]
    if lacking:
        raise UserError(
            f"{folder} lacks {listed(lacking)}, which read{'s' * (len(lacking) == 1)} its prompts: "
            f"copy the whole folder again, with {FOLDER}"
        )


def standardised(text_BD: Tensor, mean_D: Tensor, std: float) -> Tensor:
    """Embeddings by the mean and deviation of those of a training, so that what they have in common
    hides no difference; zeros, which stand for no caption, stay zeros."""
    return torch.where(text_BD.any(1, keepdim=True), (text_BD - mean_D) / std, text_BD)


class TextEncoder:
    """Texts to embeddings of norm √D, fp32: what the model projects a text to, where it holds texts
    and pictures (as CLIPModel), else the mean over its tokens, of a pair those of the encoder.

    Each text is encoded alone, so its embedding depends on no other.
    """

    def __init__(
        self, folder: str | Path, device: torch.device | str = "cpu", name: str | None = None
    ) -> None:
        """`UserError` if the folder, which messages call by `name`, holds no model and tokenizer
        that the library loads and that turn a text into a vector."""
        refuse_missing_library()
        name = name or str(folder)
        # Without its files, the library makes up a tokenizer that knows no word.
        encoder_files([path.name for path in Path(folder).glob("*")], name)
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        # What it prints is for those who call it themselves.
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        here = {"local_files_only": True, "trust_remote_code": False}
        self._device = torch.device("cpu")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), **here)
            model, loaded = AutoModel.from_pretrained(
                str(folder),
                **here,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
            # What the file lacks is random: it may only be what no text comes through.
            spoil(model, loaded["missing_keys"])
            self._model = _of_texts(model).eval().requires_grad_(False)
            self._most_tokens = most_tokens(self._tokenizer, model)
            tried_D = self._embedding("a")
        except Exception as error:  # Of many kinds, for whatever is wrong with the files.
            line = " ".join(str(error).split())[:200]
            raise UserError(
                f"{name} holds no text encoder that transformers loads: {line}"
            ) from error
        if not tried_D.isfinite().all():
            raise UserError(
                f"{name}: the weights are not those of the {type(model).__name__} that its "
                "config.json describes: save model and configuration together"
            )
        self.width = len(tried_D)
        self._device = torch.device(device)
        self._model.to(self._device)

    def __call__(self, texts: Texts) -> Tensor:
        """Texts to (B, D), on the encoder's device; of None, and of blanks, zeros. Longer texts
        than the model takes are cut, halves of characters are escaped."""
        none_D = torch.zeros(self.width, device=self._device)
        return torch.stack(
            [self._embedding(text) if text and text.strip() else none_D for text in texts]
        )

    @torch.inference_mode()
    def _embedding(self, text: str) -> Tensor:
        is_padded = self._model.config.model_type in PADDED
        tokens = self._tokenizer(
            text.encode("utf-8", "backslashreplace").decode(),
            truncation=True,
            max_length=self._most_tokens,
            padding="max_length" if is_padded else False,
            return_attention_mask=not is_padded,
            return_tensors="pt",
        ).to(self._device)
        embedding_D = self._pooled(tokens)
        return embedding_D / embedding_D.square().mean().sqrt().clamp(min=1e-6)

    def _pooled(self, tokens: Mapping[str, Tensor]) -> Tensor:
        if hasattr(self._model, "get_text_features"):
            ids_1L, mask_1L = tokens["input_ids"], tokens.get("attention_mask")
            return self._model.get_text_features(ids_1L, mask_1L).pooler_output[0]
        return self._model(**tokens).last_hidden_state[0].mean(0)


def spoil(model: torch.nn.Module, keys: Iterable[str]) -> None:
    """Fill weights with NaN, so that whatever is computed of them tells."""
    weights = model.state_dict()
    for key in keys:
        if key in weights and weights[key].is_floating_point():
            weights[key].fill_(torch.nan)


def most_tokens(tokenizer: Any, model: Any) -> int:
    """Tokens of a text that a model takes: what its tokenizer states, or else `MOST_TOKENS`, and no
    more than there are positions, where these are limited."""
    stated = tokenizer.model_max_length
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0
    most = stated if 0 < stated < UNLIMITED else MOST_TOKENS
    return min(most, positions - _reserved(model, positions)) if positions > 0 else most


def _reserved(model: torch.nn.Module, positions: int) -> int:
    """Positions that stand for no token: of RoBERTa and its kin, tokens are counted from behind the
    position of padding on, and nothing but their table of positions says so."""
    tables = [
        module
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding)
    ]
    padding = [t.padding_idx for t in tables if t.num_embeddings == positions]
    return max((1 + each for each in padding if each is not None), default=0)


def _of_texts(model: Any) -> Any:
    """The part of a model that reads texts: of an encoder and a decoder the first, whatever its
    configuration calls itself."""
    is_pair = hasattr(model, "encoder") and hasattr(model, "decoder")
    return model.get_encoder() if is_pair else model
