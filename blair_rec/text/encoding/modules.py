"""Read from a model's own files how it encodes a text: modules, pooling, prompts, limits. No weights are loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from blair_rec.config.names import POOLINGS
from blair_rec.errors import ConfigError, UnknownEncoder, counted

FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The flag of each pooling, in models saved by sentence-transformers before version 6."""
STATIC, LOWERCASE, DENSE, LAYER_NORM, NORMALIZE = "static_embedding", "lowercase", "dense", "layer_norm", "normalize"
FIRST = ("Transformer", "StaticEmbedding")
STEPS = {"Dense": DENSE, "LayerNorm": LAYER_NORM, "Normalize": NORMALIZE}
"""Modules after the pooling, by their class in sentence-transformers. `Dropout` does nothing in a frozen model."""
STEP_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""The second file is read only if the first one is missing, and only as weights."""
DOCUMENT_PROMPTS, QUERY_PROMPTS = ("document", "passage", "corpus"), ("query",)
# Older releases named the file after the model's kind.
TRANSFORMER_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)

# Their positions start after the padding token's id, so that fewer than max_position_embeddings can be used.
OFFSET_POSITIONS = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "roberta-prelayernorm",
    "camembert",
    "mpnet",
    "longformer",
)


class PooledStep(NamedTuple):
    """A module after the pooling."""

    name: str
    """dense, layer_norm or normalize."""
    folder: Path
    """Where its config.json and its weights are."""


@dataclass(frozen=True)
class Recipe:
    """How a model encodes a text, according to its files."""

    folder: Path
    """Where the weights and the tokenizer of the first module are."""
    static: bool = False
    """Whether the first module is a table of token vectors instead of a Transformer."""
    pooling: str = ""
    """The pooling, such as mean, or cls+mean if both are concatenated; "" if the files don't say."""
    pooling_folder: Path | None = None
    include_prompt: bool = True
    """Whether the tokens of the prompt are pooled, too."""
    lowercase: bool = False
    steps: tuple[PooledStep, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str = ""
    truncate_dim: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The modules other than a Transformer and its pooling, in order, as a store records them."""
        first = (STATIC,) * self.static + (LOWERCASE,) * self.lowercase
        return first + tuple(step.name for step in self.steps)


def read_recipe(folder: Path, name: str) -> Recipe:
    """Read the recipe of the model in `folder`; messages call the model `name`.

    Raises UnknownEncoder for an unsupported module or order of modules, and for broken files.
    """
    said = read_json(folder / "config_sentence_transformers.json")
    prompts = {key: text for key, text in (said.get("prompts") or {}).items() if text}
    shared: dict[str, Any] = {
        "prompts": prompts,
        "default_prompt": prompts.get(said.get("default_prompt_name") or "", ""),
        "truncate_dim": said.get("truncate_dim"),
    }
    if not (folder / "modules.json").is_file():
        config = read_json(folder / "config.json")
        if config.get("model_type") == "model2vec":
            steps = (PooledStep(NORMALIZE, folder / "1_Normalize"),) if config.get("normalize") else ()
            return Recipe(folder, static=True, pooling="mean", steps=steps, **shared)
        modes, include = _pooling(folder / "1_Pooling", name)
        return Recipe(folder, pooling=modes, include_prompt=include, lowercase=_lowercase(folder), **shared)
    modules = list(_modules(folder, name))
    if not modules or modules[0][0] not in FIRST:
        first = modules[0][0] if modules else "nothing"
        raise _unsupported(name, f"begins with the module {first}")
    first, home = modules.pop(0)
    if first == "StaticEmbedding":
        return Recipe(home, static=True, pooling="mean", steps=tuple(_steps(modules, name)), **shared)
    _check_transformer(home, name)
    if not modules or modules[0][0] != "Pooling":
        behind = modules[0][0] if modules else "nothing"
        raise _unsupported(name, f"has {behind} after its Transformer, where a Pooling is needed")
    _, pooling_folder = modules.pop(0)
    modes, include = _pooling(pooling_folder, name)
    return Recipe(
        home,
        pooling=modes or "mean",  # sentence-transformers' default for a Pooling that names no mode
        pooling_folder=pooling_folder,
        include_prompt=include and not name.startswith("hkunlp/instructor-"),
        lowercase=_lowercase(home),
        steps=tuple(_steps(modules, name)),
        **shared,
    )


def _modules(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    """(class in sentence-transformers, folder) of each module."""
    path = folder / "modules.json"
    listed = _read(path)
    if not isinstance(listed, list):
        raise UnknownEncoder(f"{path} is not a list of modules; get the model again")
    for module in listed:
        package, _, kind = str(module.get("type")).rpartition(".")
        known = (*FIRST, "Pooling", "Dropout", *STEPS)
        if not package.startswith("sentence_transformers") or kind not in known:
            raise _unsupported(name, f"has the module {module.get('type')}")
        inside = folder / str(module.get("path", ""))
        if not inside.resolve().is_relative_to(folder.resolve()):
            raise UnknownEncoder(f"{path} names a folder outside of the model ({module.get('path')})")
        yield kind, inside


def _steps(modules: list[tuple[str, Path]], name: str) -> Iterator[PooledStep]:
    for kind, folder in modules:
        if kind == "Dropout":
            continue
        if kind not in STEPS:
            raise _unsupported(name, f"has {kind} in a place where only {', '.join(STEPS)} are supported")
        config = read_json(folder / "config.json")
        for key in ("module_input_name", "module_output_name"):
            if (config.get(key) or "sentence_embedding") != "sentence_embedding":
                raise _unsupported(name, f"has a {kind} whose {key} is {config[key]}")
        yield PooledStep(STEPS[kind], folder)


def _check_transformer(folder: Path, name: str) -> None:
    """Raise UnknownEncoder if the token vectors are not the model's last hidden states."""
    config = _transformer_config(folder)
    text = (config.get("modality_config") or {}).get("text", {"method_output_name": "last_hidden_state"})
    for key, value, known in (
        ("transformer_task", config.get("transformer_task"), "feature-extraction"),
        ("module_output_name", config.get("module_output_name"), "token_embeddings"),
        ("method", text.get("method"), "forward"),
        ("method_output_name", text.get("method_output_name"), "last_hidden_state"),
    ):
        if value not in (None, known, [known]):
            raise _unsupported(name, f"has a Transformer whose {key} is {value}")


def _unsupported(name: str, what: str) -> UnknownEncoder:
    known = ", ".join((*FIRST, "Pooling", "Dropout", *STEPS))
    return UnknownEncoder(
        f"{name} {what}; supported modules: {known}. Encode with sentence-transformers itself, then load its vectors "
        "with `blair-rec store import`"
    )


def _transformer_config(folder: Path) -> dict[str, Any]:
    return next((read_json(folder / file) for file in TRANSFORMER_FILES if (folder / file).is_file()), {})


def _lowercase(folder: Path) -> bool:
    return bool(_transformer_config(folder).get("do_lower_case"))


def _pooling(folder: Path, name: str) -> tuple[str, bool]:
    """(how the tokens are pooled, or "" if the files don't say; whether the prompt's tokens are pooled, too)."""
    config = read_json(folder / "config.json")
    mode = config.get("pooling_mode")
    if mode is None:
        flags = [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
        modes = [mode for flag, mode in FLAGS.items() if flag in flags]
        unknown = [flag for flag in flags if flag not in FLAGS]
    else:
        modes = [mode] if isinstance(mode, str) else list(mode)
        unknown = [mode for mode in modes if mode not in POOLINGS]
    if unknown:
        raise ConfigError(f"{name} was trained with pooling {' + '.join(unknown)}; known: {', '.join(POOLINGS)}")
    return "+".join(modes), bool(config.get("include_prompt", True))


def steps_of(recipe: Recipe, wanted: Sequence[str]) -> list[PooledStep]:
    """The wanted modules after the pooling, in order; if Normalize is wanted but missing, it is added at the end."""
    steps = [step for step in recipe.steps if step.name in wanted]
    if NORMALIZE in wanted and not any(step.name == NORMALIZE for step in steps):
        steps.append(PooledStep(NORMALIZE, recipe.folder))
    return steps


def prompt_of(recipe: Recipe, asked: str | None, roles: tuple[str, ...], key: str, name: str) -> str:
    """The text put in front of every item (`roles` is DOCUMENT_PROMPTS) or query (QUERY_PROMPTS); often "".

    `asked` is the name of a prompt in the model's own files, or the text itself (more than one word, or with a colon).
    With None the files decide: their prompt for the role, or their default prompt if they have none for either role.
    `key` is the name of the setting.

    Raises ConfigError for a name that the files don't have.
    """
    known = recipe.prompts
    if asked is not None:
        asked_for = roles if asked == roles[0] else (asked,)
        if found := [known[role] for role in asked_for if role in known]:
            return found[0]
        if asked and asked.strip().replace("_", "").replace("-", "").isalnum():
            raise ConfigError(
                f"{key} is {asked!r}, but {name} has no prompt of this name (it has: {', '.join(known) or 'none'}); "
                f'write the text itself, such as "{asked}: ", or leave {key} out'
            )
        return asked
    if found := [known[role] for role in roles if role in known]:
        return found[0]
    return "" if set(known) & {*DOCUMENT_PROMPTS, *QUERY_PROMPTS} else recipe.default_prompt


def capped_length(recipe: Recipe, asked: int) -> tuple[int, str]:
    """(tokens read per text, and what lowered this number from `asked`; "" if nothing did)."""
    folder, limits = recipe.folder, [(asked, "")]
    config = read_json(folder / "config.json")
    if not recipe.static and (positions := positions_of(config)) is not None:
        limits.append((positions, f"the model's {counted(positions, 'position')}"))
    said = {"max_length in config.json": config.get("max_length")} if recipe.static else {}
    if not recipe.static:
        said["model_max_length in tokenizer_config.json"] = read_json(folder / "tokenizer_config.json").get(
            "model_max_length"
        )
        for file in TRANSFORMER_FILES:
            said[f"max_seq_length in {file}"] = read_json(folder / file).get("max_seq_length")
    for what, limit in said.items():
        # A tokenizer without a limit says 1e30, as a float or as an int.
        if isinstance(limit, (int, float)) and limit < asked:
            limits.append((int(limit), what))
    return min(limits, key=lambda limit: limit[0])


def positions_of(config: Mapping[str, Any]) -> int | None:
    """Return how many tokens a model can read, by its config.json; None if it has no such limit."""
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions <= 0:
        return None
    return positions - ((config.get("pad_token_id") or 0) + 1) * (config.get("model_type") in OFFSET_POSITIONS)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a model's file; {} if the file is missing."""
    content = _read(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UnknownEncoder(f"{path} is broken ({error}); get the model again") from error
