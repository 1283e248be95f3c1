"""Lines of text -> vectors, with a frozen model. All encoders are loaded here."""

from __future__ import annotations

import dataclasses
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blair_rec.device import moved
from blair_rec.errors import ConfigError, EncodingError, UnknownEncoder, counted, first_of
from blair_rec.text.encoding.modules import LOWERCASE, STATIC, Recipe, read_recipe, steps_of
from blair_rec.text.encoding.quiet import quiet_transformers
from blair_rec.text.encoding.source import EncoderSource
from blair_rec.text.encoding.tokens import TextTokens, check_room, filled, lowercase, padded, prompt_length, read_tokens
from blair_rec.text.unit import unit_rows

if TYPE_CHECKING:
    from torch import Tensor

# torch and transformers are imported where they are used: reading a finished store needs neither.

logger = logging.getLogger("blair_rec")

TextsDone = Callable[[int, int], None]
"""Called with (texts done, total texts)."""

CHUNK = 2048
"""Texts that are tokenised, sorted by length and finished together."""
AHEAD = 2
"""Chunks that are tokenised before the model reads them."""
TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 32768}
"""On a CPU per thread, so that a layer's data fits into the caches. On a GPU as measured on an H100 and an H200."""
NEIGHBOURS = 10
CLOSE = {"cosine_min": 0.999, "neighbours_10": 0.98}
"""Least agreement of a lower precision with float32; below it a warning is logged."""


class Encoded(NamedTuple):
    """The result of encoding a chunk of texts."""

    vectors: np.ndarray
    """[texts, text_dim] float32, not normalised."""
    cut: np.ndarray
    """[texts] bool: True where the text has more than max_length tokens, so that its end was not read."""


class _Running(NamedTuple):
    """A chunk whose vectors a GPU may still be computing."""

    texts: Sequence[str]
    cut: np.ndarray
    parts: list[tuple[list[int], Tensor]]
    """Rows of the chunk, and their vectors on the CPU."""
    finished: Any
    """The event after which the vectors are there; None on a CPU."""


def load_encoder(source: EncoderSource, device: str = "cpu", tokens_per_batch: int | None = None) -> SentenceEncoder:
    """Load an encoder that resolve_encoder found. Everything that encodes texts goes through here.

    Raises ConfigError or UnknownEncoder if it can't be loaded with these settings.
    """
    if source.outside:
        from blair_rec.text.encoding.outside import OutsideEncoder

        return OutsideEncoder(source, device)
    if STATIC in source.modules:
        from blair_rec.text.encoding.static import StaticEncoder

        return StaticEncoder(source, device)
    return TextEncoder(source, device, tokens_per_batch)


class SentenceEncoder(ABC):
    """Base of all encoders: lines of text -> vectors."""

    source: EncoderSource
    device: Any
    """The torch.device that it computes on."""

    @property
    @abstractmethod
    def text_dim(self) -> int:
        """Width of the vectors."""

    @abstractmethod
    def encode_chunks(self, chunks: Sequence[Sequence[str]], progress: TextsDone | None = None) -> Iterator[Encoded]:
        """Yield the vectors of each chunk as soon as it is done; they depend only on that chunk, bit for bit.

        Raises EncodingError for vectors that aren't finite.
        """

    def encode(self, texts: Sequence[str], progress: TextsDone | None = None) -> np.ndarray:
        """Return [len(texts), text_dim] float32 vectors, in the order of `texts`, as the model gives them.

        Equal texts are encoded once; `progress` counts distinct texts. Raises as encode_chunks does.
        """
        distinct = list(dict.fromkeys(texts))
        chunks = [distinct[start : start + CHUNK] for start in range(0, len(distinct), CHUNK)]
        encoded = [chunk.vectors for chunk in self.encode_chunks(chunks, progress)]
        vectors = [np.empty((0, self.text_dim), np.float32), *encoded]
        row_of = {text: row for row, text in enumerate(distinct)}
        return np.concatenate(vectors)[[row_of[text] for text in texts]]

    def _refuse_broken(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
        if broken:
            raise EncodingError(
                f"{self.source.name} gave NaN or infinity for {len(broken)} of {counted(len(texts), 'text')} "
                f"(first: {first_of([repr(texts[row][:60]) for row in broken])}); its weights are probably damaged, "
                f"or too large for {self.source.dtype}"
            )


class TextEncoder(SentenceEncoder):
    """A frozen Transformer, its pooling, and the modules that its files list after the pooling.

    Texts are padded at their end, whatever the tokenizer's own setting is. Attention masks hide the padding, and in a
    decoder no token sees what comes after it. So a text has the same vector in any batch.
    """

    def __init__(self, source: EncoderSource, device: str = "cpu", tokens_per_batch: int | None = None) -> None:
        """Load the model in `source.dtype`, on `device`, with the fastest attention it has.

        `tokens_per_batch` limits the tokens of a batch, padding included; a text with more tokens is read alone.
        """
        import torch

        from blair_rec.text.encoding.fast import unpadded
        from blair_rec.text.encoding.layers import load_steps

        if tokens_per_batch is not None and tokens_per_batch < 1:
            raise ConfigError(f"tokens_per_batch is {tokens_per_batch}; it has to be at least 1")
        self.source = source
        self.device = torch.device(device)
        if source.dtype == "float16" and self.device.type == "cpu":
            raise ConfigError("dtype is float16, which needs a GPU; on a CPU use bfloat16")
        recipe = read_recipe(source.path, source.name)
        self._tokenizer, model = _load(source, recipe)
        self._model = model.to(self.device, getattr(torch, source.dtype)).eval()
        width = int(self._model.config.get_text_config().hidden_size) * len(source.pooling.split("+"))
        steps, width = load_steps(steps_of(recipe, source.modules), width)
        self._steps = steps.to(self.device)
        self._width = min(width, source.truncate_dim or width)
        if source.truncate_dim and source.truncate_dim > width:
            raise ConfigError(
                f"truncate_dim is {source.truncate_dim}, but {source.name} makes vectors of width {width}"
            )
        self._left_out = 0 if recipe.include_prompt else prompt_length(self._tokenizer, source.prompt)
        self._unpadded = unpadded.reads_unpadded(self._model, self.device)
        if self._unpadded:
            unpadded.prepare(self._model)
        self.tokens_per_batch = tokens_per_batch or _tokens_per_batch(self.device.type)
        if self.device.type == "cpu":
            from blair_rec.text.encoding.fast.cpu import make_fast

            make_fast(self._model)

    @property
    def text_dim(self) -> int:
        """Width of the vectors."""
        return self._width

    def encode_chunks(self, chunks: Sequence[Sequence[str]], progress: TextsDone | None = None) -> Iterator[Encoded]:
        """Yield the vectors of each chunk as soon as it is done; the next ones are tokenised meanwhile.

        A GPU gets the work of a chunk before the vectors of the chunk before it are taken from it, so that it has work
        while the program copies them. The vectors of a chunk depend only on that chunk, bit for bit. Raises
        EncodingError for vectors that aren't finite.
        """
        done, total = 0, sum(map(len, chunks))
        running: deque[_Running] = deque()
        with ThreadPoolExecutor(max_workers=1) as ahead:
            coming = deque(ahead.submit(self._tokens, chunk) for chunk in chunks[:AHEAD])
            for number, chunk in enumerate(chunks):
                tokens, cut = coming.popleft().result()
                coming.extend(ahead.submit(self._tokens, one) for one in chunks[number + AHEAD : number + AHEAD + 1])
                parts = []
                for rows in _batches([len(text) for text in tokens], self.tokens_per_batch):
                    batch = self._encode_batch([tokens[row] for row in rows])
                    parts.append((rows, batch.to("cpu", non_blocking=True)))  # there once `finished` has happened
                    done += len(rows)
                    if progress is not None:
                        progress(done, total)
                running.append(_Running(chunk, cut, parts, self._after_this()))
                if running[-1].finished is None or len(running) > 1:
                    yield self._ended(running.popleft())
            while running:
                yield self._ended(running.popleft())

    def _after_this(self) -> Any:
        """Return an event that happens when the GPU has done everything asked so far; None on a CPU."""
        import torch

        if self.device.type != "cuda":
            return None
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _ended(self, running: _Running) -> Encoded:
        if running.finished is not None:
            running.finished.synchronize()
        vectors = np.empty((len(running.texts), self.text_dim), dtype=np.float32)
        for rows, batch in running.parts:
            vectors[rows] = batch.numpy()
        self._refuse_broken(running.texts, vectors)
        return Encoded(vectors, running.cut)

    def _tokens(self, texts: Sequence[str]) -> tuple[TextTokens, np.ndarray]:
        """Token ids of each text with its prompt in front, special tokens included, cut at max_length; and [texts]
        bool: which texts were cut."""
        return read_tokens(self._tokenizer, [self.source.prompt + text for text in texts], self.source.max_length)

    def _encode_batch(self, tokens: TextTokens) -> Tensor:
        """[len(tokens), text_dim] float32, on the device."""
        import torch

        from blair_rec.text.encoding.fast import unpadded
        from blair_rec.text.encoding.layers import pool, shortened

        mask = moved(torch.from_numpy(filled(tokens)), self.device)
        with torch.inference_mode():
            if self._unpadded:
                hidden = unpadded.read(self._model, tokens, self.device)  # [texts, tokens, width]
            else:
                hidden = self._read_padded(tokens)
            finished: Tensor = self._steps(pool(hidden, mask, self.source.pooling, self._left_out))
            return shortened(finished, self.source)

    def _read_padded(self, tokens: TextTokens) -> Tensor:
        """[texts, longest, width]: the hidden states."""
        import torch

        ids, seen = padded(tokens, self._tokenizer.pad_token_id or 0)
        seen[~seen.any(axis=1), 0] = True  # attention to nothing at all would be NaN
        inputs = [moved(torch.from_numpy(part), self.device) for part in (ids, seen)]
        hidden: Tensor = self._model(
            input_ids=inputs[0], attention_mask=inputs[1].long(), return_dict=True
        ).last_hidden_state
        return hidden


def distance_from_float32(encoder: SentenceEncoder, texts: Sequence[str], sample: int = 128) -> dict[str, float]:
    """Measure how far an encoder's vectors are from those of the same encoder in float32.

    The sample is taken evenly from `texts`; the key `texts` of the result is its size. `cosine_min` and `cosine_mean`
    are over the cosines between both vectors of a text. `neighbours_10` is the share of a text's ten nearest texts that
    stays the same; it needs more than ten texts. A value below CLOSE logs a warning.
    """
    chosen = [texts[int(at)] for at in np.linspace(0, len(texts) - 1, min(sample, len(texts)))]
    exact = load_encoder(dataclasses.replace(encoder.source, dtype="float32"), str(encoder.device))
    a, b = (unit_rows(one.encode(chosen).astype(np.float64)) for one in (encoder, exact))
    cosines = (a * b).sum(axis=1)
    found = {"texts": len(chosen), "cosine_min": float(cosines.min()), "cosine_mean": float(cosines.mean())}
    if len(chosen) > NEIGHBOURS:
        both = [np.argpartition(-_without_itself(v), NEIGHBOURS, axis=1)[:, :NEIGHBOURS].tolist() for v in (a, b)]
        kept = [len({*ours} & {*theirs}) / NEIGHBOURS for ours, theirs in zip(*both, strict=True)]
        found[f"neighbours_{NEIGHBOURS}"] = float(np.mean(kept))
    if any(found.get(key, 1.0) < least for key, least in CLOSE.items()):
        said = ", ".join(f"{key} {found[key]:.4f} (at least {least:g})" for key, least in CLOSE.items() if key in found)
        logger.warning(
            "%s in %s is further from float32 than it should be: %s; leave dtype out to be exact",
            encoder.source.name, encoder.source.dtype, said,
        )  # fmt: skip
    return found


def _without_itself(unit: np.ndarray) -> np.ndarray:
    """[n, n] products of all pairs of vectors, with -inf on the diagonal."""
    products = unit @ unit.T
    np.fill_diagonal(products, -np.inf)
    return products


@quiet_transformers()
def _load(source: EncoderSource, recipe: Recipe) -> tuple[Any, Any]:
    """The tokenizer and the model, with every weight it needs. Settings that read no text are refused before that."""
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

    # Code in a model's folder is never run.
    settings: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        # Position 0 has to be the first token, never padding.
        tokenizer = AutoTokenizer.from_pretrained(recipe.folder, padding_side="right", **settings)
        check_room(lambda prompt: len(tokenizer(prompt)["input_ids"]), source)
        config = AutoConfig.from_pretrained(recipe.folder, **settings)
        # For T5 and similar models, only the encoder is loaded.
        encodes = MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(config.model_type, "").endswith("EncoderModel")
        if config.is_encoder_decoder and not encodes:
            raise UnknownEncoder(
                f"{source.name} is a {config.model_type} with an encoder and a decoder, which is not supported (only "
                "T5 and similar models are, by their encoder); choose another encoder"
            )
        kind = AutoModelForTextEncoding if encodes else AutoModel
        model, loaded = kind.from_pretrained(recipe.folder, output_loading_info=True, **settings)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise UnknownEncoder(f"transformers can't load {source.name} from {recipe.folder}: {error}") from error
    # Weights that a checkpoint lacks keep random values. Only the pooler may be missing: it is never used here.
    if missing := sorted(key for key in loaded["missing_keys"] if "pooler" not in key):
        raise UnknownEncoder(
            f"{recipe.folder} lacks {len(missing)} of the model's weights (first: {first_of(missing)}); "
            "the files don't belong together: get the model again"
        )
    model.config.get_text_config().use_cache = False  # no decoder needs its cache: no next token is generated
    if LOWERCASE in source.modules:
        lowercase(tokenizer)
    return tokenizer, model


def _tokens_per_batch(device: str) -> int:
    import torch

    return TOKENS_PER_BATCH["cuda"] if device != "cpu" else TOKENS_PER_BATCH["cpu"] * torch.get_num_threads()


def _batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield batches of rows with similar length, to save padding: at most `budget` tokens with padding, or one text.

    The longest texts come first: a batch that doesn't fit into memory fails early, and the time left is never
    underestimated.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        rows = order[start : start + max(1, budget // max(1, lengths[order[start]]))]
        yield rows
        start += len(rows)
