"""Turn the flat `blair_*` keys of a RecBole config into our typed sections."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import Field

from blair_rec.config.comparison import with_temperature
from blair_rec.config.names import TieOrder
from blair_rec.config.section import EMPTY, Section
from blair_rec.config.sections import MAY_BE_EMPTY, TextConfig, TrainConfig
from blair_rec.config.split import SplitConfig
from blair_rec.config.variant import VariantConfig
from blair_rec.config.yaml.files import read_yaml
from blair_rec.deprecation import Renamed, with_current_keys
from blair_rec.errors import BlairRecError, ConfigError

S = TypeVar("S", bound=Section)


class PluginConfig(Section):
    """The `blair_*` keys of a RecBole config, as typed sections."""

    variant: VariantConfig = Field(default_factory=VariantConfig)
    """The item side."""
    text: TextConfig = Field(default_factory=TextConfig)
    """How item text becomes vectors."""
    train: TrainConfig = Field(default_factory=TrainConfig)
    """The loss and the learning rate schedule; RecBole's own keys set the rest."""
    ties: TieOrder = "stored"
    """Order of a user's events with the same timestamp: stored (file order) or shuffled (by RecBole's seed)."""
    split: SplitConfig | None = None
    """{valid_from: time, test_from: time}: cut-off times for all users, instead of the split in eval_args."""


PLUGIN_KEYS: dict[str, tuple[type[Section], str]] = {
    "blair_items": (VariantConfig, "items"),
    "blair_transforms": (VariantConfig, "transforms"),
    "blair_control": (VariantConfig, "control"),
    "blair_fusion": (VariantConfig, "fusion"),
    "blair_max_delta": (VariantConfig, "max_delta"),
    "blair_options": (VariantConfig, "options"),
    "blair_text_fields": (TextConfig, "fields"),
    "blair_text_template": (TextConfig, "template"),
    "blair_text_items": (TextConfig, "items"),
    "blair_encoder": (TextConfig, "encoder"),
    "blair_revision": (TextConfig, "revision"),
    "blair_pooling": (TextConfig, "pooling"),
    "blair_max_length": (TextConfig, "max_length"),
    "blair_dtype": (TextConfig, "dtype"),
    "blair_prompt": (TextConfig, "prompt"),
    "blair_query_prompt": (TextConfig, "query_prompt"),
    "blair_truncate_dim": (TextConfig, "truncate_dim"),
    "blair_normalize": (TextConfig, "normalize"),
    "blair_fallback": (TextConfig, "fallback"),
    "blair_missing_text": (TextConfig, "missing_text"),
    "blair_loss": (TrainConfig, "loss"),
    "blair_loss_options": (TrainConfig, "loss_options"),
    "blair_negatives": (TrainConfig, "negatives"),
    "blair_sampling": (TrainConfig, "sampling"),
    "blair_log_q": (TrainConfig, "log_q"),
    "blair_gbce_t": (TrainConfig, "gbce_t"),
    "blair_temperature": (TrainConfig, "temperature"),
    "blair_precision": (TrainConfig, "precision"),
    "blair_stride": (TrainConfig, "stride"),
    "blair_warmup_steps": (TrainConfig, "warmup_steps"),
    "blair_schedule": (TrainConfig, "schedule"),
    "blair_ties": (PluginConfig, "ties"),
    "blair_split": (PluginConfig, "split"),
    "blair_store": (TextConfig, "store"),
}
"""The flat keys of a RecBole config, with the section and field of each."""

RENAMED_KEYS: dict[str, Renamed] = {}
"""Old names of flat keys, which still work and warn."""


def text_keys() -> list[str]:
    """The flat keys that decide how item text becomes vectors and how these are transformed."""
    of_vectors = ("transforms", "control")
    return [key for key, (cls, name) in PLUGIN_KEYS.items() if cls is TextConfig or name in of_vectors]


def differing_data(now: PluginConfig, then: PluginConfig) -> list[str]:
    """The flat keys by which the data of two configs differ: ties, split, and the text if `now` uses it."""
    pairs = [(PluginConfig, now, then)] + [(TextConfig, now.text, then.text)] * now.variant.uses_text
    return [
        key
        for cls, ours, theirs in pairs
        for key, (owner, name) in PLUGIN_KEYS.items()
        if owner is cls and getattr(ours, name) != getattr(theirs, name)
    ]


def read_plugin_config(flat: Mapping[str, Any]) -> PluginConfig:
    """Read the `blair_*` keys of a RecBole config; all other keys are RecBole's and are ignored.

    Raises:
        ConfigError: an unknown `blair_*` key, with the closest known one, or an invalid value.
    """
    given = {key: value for key, value in flat.items() if key.startswith("blair_")}
    ours = with_current_keys(given, RENAMED_KEYS)
    sections: dict[type[Section], dict[str, Any]] = {
        VariantConfig: {},
        TextConfig: {},
        TrainConfig: {},
        PluginConfig: {},
    }
    for key, value in ours.items():
        if key not in PLUGIN_KEYS:
            near = get_close_matches(key, PLUGIN_KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(PLUGIN_KEYS)}"
            raise ConfigError(f"unknown key {key!r}; {hint}")
        cls, name = PLUGIN_KEYS[key]
        if value == "" and name not in MAY_BE_EMPTY:
            raise ConfigError(f"{key} is ''; {EMPTY}")
        if name in ("fields", "transforms") and isinstance(value, str):  # as a command line gives it
            value = read_yaml(value, key) if value.startswith(("[", "{")) else value
            value = value if isinstance(value, list) else [value]
        if name == "fallback" and isinstance(value, str):
            value = {"encoder": value}
        if name in ("split", "options", "loss_options") and isinstance(value, str):
            value = read_yaml(value, key)
        sections[cls][name] = value
    text = _read(TextConfig, sections[TextConfig])
    variant = _read(VariantConfig, sections[VariantConfig])
    if variant.uses_text and not text.says_what:
        raise ConfigError(
            f"blair_items is {variant.items!r}, which needs item text; set blair_text_fields to the metadata fields to "
            "read, or blair_store to an existing store"
        )
    train = _read(TrainConfig, with_temperature(sections[TrainConfig], variant.items))
    return _read(PluginConfig, {"variant": variant, "text": text, "train": train, **sections[PluginConfig]})


def _read(cls: type[S], section: Mapping[str, Any]) -> S:
    """Read a section; its problems name the flat keys."""
    try:
        return cls(**section)
    except ConfigError as error:
        names = {name: key for key, (owner, name) in PLUGIN_KEYS.items() if owner is cls}
        fields = re.compile(rf"(?<![\w'.])({'|'.join(names)})(?![\w'])")
        lines = []
        for line in str(error).splitlines():
            said, known, values = line.partition("known:")  # behind it are values, which may have the name of a field
            lines.append(fields.sub(lambda match: names[match[1]], said) + known + values)
        raise ConfigError("\n".join(lines)) from None


_NOT_A_WORD = (
    "missing_text",
    "max_length",
    "max_delta",
    "gbce_t",
    "loss_options",
    "log_q",
    "warmup_steps",
    "pooling",
    "stride",
    "dtype",
    "query_prompt",
    "truncate_dim",
)
"""Keys of a comparison file that messages never use as ordinary words."""


@contextmanager
def in_flat_keys() -> Iterator[None]:
    """Within this block, our errors name `blair_*` keys instead of the keys of a comparison file."""
    try:
        yield
    except BlairRecError as error:
        error.args = (flat_keys_in(str(error)),)
        raise


def flat_keys_in(message: str) -> str:
    """The message with `blair_*` keys for those of a comparison file: in backquotes, or as in "max_length is 0"."""
    for key, (cls, name) in PLUGIN_KEYS.items():
        if (cls, name) == (TextConfig, "items"):  # in messages, `items` is the key of a variant
            continue
        message = re.sub(rf"`(?:text\.|train\.)?{name}(?=[:`])", f"`{key}", message)
        if name in _NOT_A_WORD:
            message = re.sub(rf"(?<![\w.`]){name}(?= is )", key, message)
    message = message.replace("train.learning_rate", "learning_rate")  # RecBole's own key
    message = re.sub(r"`text: \{fallback: \{encoder: ([^}]+)\}\}`", r"`blair_fallback: \1`", message)
    message = re.sub(r" \(`blair_\w+` in a RecBole config\)", "", message)  # this is a RecBole config
    return re.sub(r"(?<![\w`])transforms(?=: )", "blair_transforms", message)
