"""Lines of text to vectors, with a frozen Hugging Face model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from blair_rec.device import moved
from blair_rec.errors import ConfigError, EncodingError, UnknownEncoder, first_of
from blair_rec.text.encoding.source import EncoderSource

if TYPE_CHECKING:
    from torch import Tensor

# torch and transformers are imported where they are used: to read what an encoder has made takes neither.

TextsDone = Callable[[int, int], None]
"""Called with (texts done, texts in all)."""
TextTokens = list[list[int]]
"""Token ids of several texts."""

CHUNK = 2048
"""Texts that are tokenised, sorted by length and finished together."""
TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 65536}
"""On a CPU for each thread: what a layer works on shall fit into the caches."""


class Encoded(NamedTuple):
    """What became of a chunk of texts."""

    vectors: np.ndarray
    """[texts, text_dim] float32, not normalised."""
    cut: np.ndarray
    """[texts] bool: whose end was not read, because the text has more than max_length tokens."""


class TextEncoder:
    """A frozen model that turns lines of text into vectors."""

    def __init__(self, source: EncoderSource, device: str = "cpu", tokens_per_batch: int | None = None) -> None:
        """Load the model in `source.dtype`, on `device`, with the fastest attention it has.

        `tokens_per_batch` bounds what the model reads at once, padding included; a longer text is read alone.
        """
        import torch

        if tokens_per_batch is not None and tokens_per_batch < 1:
            raise ConfigError(f"tokens_per_batch is {tokens_per_batch}; at least 1 token has to be read at a time")
        self.source = source
        self.device = torch.device(device)
        self.tokens_per_batch = tokens_per_batch or _tokens_per_batch(self.device.type)
        if source.dtype == "float16" and self.device.type == "cpu":
            raise ConfigError("dtype is float16, which takes a GPU; on a CPU bfloat16 is the fast one")
        self._tokenizer, model = _load(source)
        self._model = model.to(self.device, getattr(torch, source.dtype)).eval()
        if self.device.type == "cpu":
            from blair_rec.text.encoding.cpu import make_fast

            make_fast(self._model)

    @property
    def text_dim(self) -> int:
        """Width of the vectors."""
        return int(self._model.config.hidden_size)

    def encode(self, texts: Sequence[str], progress: TextsDone | None = None) -> np.ndarray:
        """[len(texts), text_dim] float32, in the order of `texts`, not normalised.

        Equal texts are read once; `progress` counts distinct ones. Raises as encode_chunks does.
        """
        distinct = list(dict.fromkeys(texts))
        chunks = [distinct[start : start + CHUNK] for start in range(0, len(distinct), CHUNK)]
        encoded = [chunk.vectors for chunk in self.encode_chunks(chunks, progress)]
        vectors = [np.empty((0, self.text_dim), np.float32), *encoded]
        row_of = {text: row for row, text in enumerate(distinct)}
        return np.concatenate(vectors)[[row_of[text] for text in texts]]

    def encode_chunks(self, chunks: Sequence[Sequence[str]], progress: TextsDone | None = None) -> Iterator[Encoded]:
        """The vectors of each chunk, as it is finished; the next one is tokenised meanwhile.

        The vectors of a chunk depend on nothing but the chunk, to the bit. Raises EncodingError for vectors that aren't
        finite.
        """
        done, total = 0, sum(map(len, chunks))
        with ThreadPoolExecutor(max_workers=1) as ahead:
            coming = [ahead.submit(self._tokens, chunk) for chunk in chunks[:1]]
            for number, chunk in enumerate(chunks):
                tokens, cut = coming.pop().result()
                coming = [ahead.submit(self._tokens, following) for following in chunks[number + 1 : number + 2]]
                vectors = np.empty((len(chunk), self.text_dim), dtype=np.float32)
                pending = []  # while a GPU computes, the next batch is put together
                for rows in _batches([len(text) for text in tokens], self.tokens_per_batch):
                    pending.append((rows, self._encode_batch([tokens[row] for row in rows])))
                    done += len(rows)
                    if progress is not None:
                        progress(done, total)
                for rows, batch in pending:
                    vectors[rows] = batch.cpu().numpy()
                self._refuse_broken(chunk, vectors)
                yield Encoded(vectors, cut)

    def _tokens(self, texts: Sequence[str]) -> tuple[TextTokens, np.ndarray]:
        """Token ids of each text, special ones included, cut at max_length; and [texts] bool, which were cut."""
        read = self._tokenizer(
            list(texts),
            truncation=True,
            max_length=self.source.max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        ids: TextTokens = read["input_ids"]
        full = [row for row, text in enumerate(ids) if len(text) >= self.source.max_length]
        cut = np.zeros(len(ids), dtype=np.bool_)
        for row in full:  # of these alone one can't tell by their length
            if read.encodings is not None:
                cut[row] = bool(read.encodings[row].overflowing)
            else:  # a tokenizer in Python keeps nothing of what it cuts off
                cut[row] = len(self._tokenizer(texts[row], verbose=False)["input_ids"]) > self.source.max_length
        return ids, cut

    def _encode_batch(self, tokens: TextTokens) -> Tensor:
        """[len(tokens), text_dim] float32, on the device."""
        import torch

        lengths = np.array([len(text) for text in tokens])
        ids = np.full((len(tokens), lengths.max()), self._tokenizer.pad_token_id or 0)
        real = np.arange(lengths.max()) < lengths[:, None]
        ids[real] = np.concatenate([np.array(text, dtype=ids.dtype) for text in tokens])
        mask = moved(torch.from_numpy(real), self.device)
        with torch.inference_mode():
            inputs = {"input_ids": moved(torch.from_numpy(ids), self.device), "attention_mask": mask.long()}
            hidden = self._model(**inputs, return_dict=True).last_hidden_state  # [texts, tokens, text_dim]
            if self.source.pooling == "cls":
                return cast("Tensor", hidden[:, 0].float())
            weights = mask.unsqueeze(-1).float()
            return (hidden.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)

    def _refuse_broken(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
        if broken:
            raise EncodingError(
                f"{self.source.name} gave NaN or infinity for {len(broken)} of {len(texts)} texts "
                f"(first: {first_of([repr(texts[row][:60]) for row in broken])}); its weights are likely damaged, or "
                f"too large for {self.source.dtype}"
            )


def distance_from_float32(encoder: TextEncoder, texts: Sequence[str], sample: int = 32) -> dict[str, float]:
    """How far an encoder's vectors are from those of the same one in float32, on texts taken evenly from `texts`.

    `texts` counts them; `cosine_min` and `cosine_mean` are over the cosines of both vectors of a text.
    """
    chosen = [texts[int(at)] for at in np.linspace(0, len(texts) - 1, min(sample, len(texts)))]
    exact = TextEncoder(dataclasses.replace(encoder.source, dtype="float32"), str(encoder.device))
    a, b = encoder.encode(chosen).astype(np.float64), exact.encode(chosen).astype(np.float64)
    cosines = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return {"texts": len(chosen), "cosine_min": float(cosines.min()), "cosine_mean": float(cosines.mean())}


def _load(source: EncoderSource) -> tuple[Any, Any]:
    """The tokenizer and the model, with every weight it needs."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # a library doesn't draw on the terminal
    try:
        # Position 0 has to be the first token, never padding.
        tokenizer = AutoTokenizer.from_pretrained(source.path, local_files_only=True, padding_side="right")
        model, loaded = AutoModel.from_pretrained(source.path, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise UnknownEncoder(f"transformers can't load {source.name} from {source.path}: {error}") from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    # What a checkpoint lacks stays at random values. Only the pooler may: it is never used here.
    if missing := sorted(key for key in loaded["missing_keys"] if "pooler" not in key):
        raise UnknownEncoder(
            f"{source.path} lacks {len(missing)} of the model's weights (first: {first_of(missing)}); "
            "the files don't belong together: get the model again"
        )
    return tokenizer, model


def _tokens_per_batch(device: str) -> int:
    import torch

    return TOKENS_PER_BATCH.get(device, TOKENS_PER_BATCH["cuda"]) * (torch.get_num_threads() if device == "cpu" else 1)


def _batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Rows of texts of like length, so that little padding is computed: at most `budget` tokens with it, or one text.

    The longest first: what doesn't fit into memory fails at once, and the time left is never underestimated.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        rows = order[start : start + max(1, budget // max(1, lengths[order[start]]))]
        yield rows
        start += len(rows)
