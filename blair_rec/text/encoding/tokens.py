"""Texts -> token ids, by a tokenizer of transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from blair_rec.errors import ConfigError, counted

if TYPE_CHECKING:
    from blair_rec.text.encoding.source import EncoderSource

TextTokens = list[list[int]]
"""Token ids of several texts."""


def token_ids(tokenizer: Any, texts: Sequence[str], max_length: int) -> TextTokens:
    """The token ids of each text, special tokens included, cut at `max_length`."""
    return _ids(tokenizer, texts, max_length, _read_fast(tokenizer, texts, max_length))


def read_tokens(tokenizer: Any, texts: Sequence[str], max_length: int) -> tuple[TextTokens, np.ndarray]:
    """The token ids of each text, special tokens included, cut at `max_length`; and [texts] bool: which were cut."""
    encodings = _read_fast(tokenizer, texts, max_length)
    ids = _ids(tokenizer, texts, max_length, encodings)
    cut = np.zeros(len(ids), dtype=np.bool_)
    for row in [row for row, text in enumerate(ids) if len(text) >= max_length]:  # their lengths don't show it
        if encodings is not None:
            cut[row] = bool(encodings[row].overflowing)
        else:  # a tokenizer written in Python does not keep what it cuts off
            cut[row] = len(tokenizer(texts[row], verbose=False)["input_ids"]) > max_length
    return ids, cut


def _ids(tokenizer: Any, texts: Sequence[str], max_length: int, encodings: list[Any] | None) -> TextTokens:
    if encodings is not None:
        return [encoding.ids for encoding in encodings]
    ids: TextTokens = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    return ids


def check_room(length: Callable[[str], int], source: EncoderSource) -> None:
    """Check that at least one token of a text is read, and one of a query if the query prompt was asked for.

    Args:
        length: a prompt -> its number of tokens, special tokens included.

    Raises:
        ConfigError: as `check_length`.
    """
    check_length(length(source.prompt), source.prompt, source.max_length, source.name, source.capped_by)
    if source.must_fit:
        before = length(source.query_prompt)
        check_length(before, source.query_prompt, source.max_length, source.name, source.capped_by, "query")


def check_length(before: int, prompt: str, max_length: int, name: str, capped_by: str = "", read: str = "text") -> None:
    """Check that at least one token of a text is read.

    Args:
        before: tokens of the prompt, special tokens included.
        name: the encoder's name.
        capped_by: what in the model's files lowered `max_length`; empty if nothing did.
        read: what is read, "text" or "query".

    Raises:
        ConfigError: the special tokens and the prompt fill `max_length`, so that all texts would have the same vector.
    """
    if before < max_length:
        return
    kind = "query prompt" if read == "query" else "prompt"
    what, length = f"special tokens and the {kind}" if prompt else "special tokens", f"max_length is {max_length}"
    length += f" (by {capped_by})" if capped_by else ""
    cures = [f"set max_length above {before}"] * (not capped_by) + [f"shorten the {kind}"] * bool(prompt)
    raise ConfigError(
        f"{length}, but {name} adds {counted(before, 'token')} to every {read} ({what}), which leaves none for the "
        f"{read} itself; {', or '.join(cures or ['choose another encoder'])}"
    )


def filled(tokens: Sequence[Sequence[int]]) -> np.ndarray:
    """[texts, longest] bool: False at the padding. There is at least one column, even if no text has a token."""
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    real: np.ndarray = np.arange(max(1, lengths.max(initial=0))) < lengths[:, None]
    return real


def padded(tokens: Sequence[Sequence[int]], padding: int) -> tuple[np.ndarray, np.ndarray]:
    """[texts, longest] int64 token ids with `padding` at the end, and what `filled` says."""
    real = filled(tokens)
    ids = np.full(real.shape, padding, dtype=np.int64)
    ids[real] = np.fromiter(chain.from_iterable(tokens), np.int64, int(real.sum()))
    return ids, real


def _read_fast(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[Any] | None:
    """Tokenize texts in Rust, and cut them as transformers does; None for a tokenizer written in Python.

    transformers' own call adds masks and offsets, and takes half as long again.
    """
    from transformers.tokenization_utils_base import TruncationStrategy
    from transformers.utils.generic import PaddingStrategy

    if not tokenizer.is_fast:
        return None
    tokenizer.set_truncation_and_padding(
        PaddingStrategy.DO_NOT_PAD, TruncationStrategy.LONGEST_FIRST, max_length, 0, None, None
    )
    encodings: list[Any] = tokenizer.backend_tokenizer.encode_batch_fast(list(texts))
    return encodings


def lowercase(tokenizer: Any) -> None:
    """Make a tokenizer lower-case its input, except for special tokens."""
    from tokenizers.normalizers import Lowercase, Sequence

    rust = tokenizer.backend_tokenizer
    rust.normalizer = Sequence([Lowercase(), *([rust.normalizer] if rust.normalizer else [])])


def prompt_length(tokenizer: Any, prompt: str) -> int:
    """Number of tokens of a prompt, with the special tokens before it but without those after it."""
    tokens: list[int] = tokenizer(prompt)["input_ids"] if prompt else []
    return len(tokens) - (tokens[-1:] != [] and tokens[-1] in tokenizer.all_special_ids)
