"""The search space of tuning: a grid of settings for each variant, and the points drawn from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np

from blair_rec.border.recbole_keys import setting_problems
from blair_rec.config.comparison import CompareConfig
from blair_rec.config.options.scorers import options_of
from blair_rec.config.section import to_dict
from blair_rec.config.variant import READ_BY_ITEMS
from blair_rec.config.yaml.files import refuse
from blair_rec.errors import ConfigError, counted

LEARNING_RATE = "train.learning_rate"


Settings = Mapping[str, Any]
"""One point of a grid: the value of each of its keys."""


def grid_of(config: CompareConfig, name: str) -> dict[str, list[Any]]:
    """The values to try for each key of a variant; empty for averages and for scorers without options and text.

    Raises:
        ConfigError: the baseline is not a model without text, or has its own settings already.
    """
    assert config.tune is not None
    variant, space = config.variants[name], config.tune.space
    if name == config.baseline:
        if not variant.is_trained or variant.uses_text or variant.train or variant.recbole or variant.made_of:
            raise ConfigError(
                f"baseline is {name!r}; for tuning, the baseline has to be a model with items: id and without its own "
                "settings, because all variants share the settings that are chosen for it"
            )
        return {key: list(values) for key, values in space.items()}
    if variant.scorer is not None:
        of_text = config.tune.text_space if variant.uses_text else {}
        own = {f"options.{option}" for option in options_of(variant.scorer)}
        keys = {key: values for key, values in of_text.items() if key == "transforms"}
        keys |= {key: values for key, values in config.tune.scorer_space.items() if key in own}
        return {key: list(values) for key, values in keys.items()}
    of_student = config.tune.distill_space if variant.distill is not None else {}
    if not variant.uses_text:
        return {key: list(values) for key, values in {**space, **of_student}.items()} if variant.is_trained else {}
    learning_rate = {LEARNING_RATE: space[LEARNING_RATE]} if LEARNING_RATE in space else {}
    return {
        key: list(values)
        for key, values in {**learning_rate, **config.tune.text_space, **of_student}.items()
        if READ_BY_ITEMS.get(key, variant.items) == variant.items
    }


def unused_keys(config: CompareConfig, grids: Mapping[str, Mapping[str, list[Any]]]) -> list[str]:
    """A line for each key of the tune section that no variant uses; `grids` are those of all variants.

    Keys of `space` are always used, by the baseline.
    """
    assert config.tune is not None
    scorers = [variant.scorer for variant in config.variants.values() if variant.scorer is not None]
    known = tuple(dict.fromkeys(f"options.{option}" for scorer in scorers for option in options_of(scorer)))
    used = {
        "scorer_space": {key for grid in grids.values() for key in grid if key in known},
        "distill_space": {
            key for name, grid in grids.items() if config.variants[name].distill is not None for key in grid
        },
        "text_space": {key for name, grid in grids.items() if config.variants[name].uses_text for key in grid},
    }
    lines = []
    for section, keys in used.items():
        for key in getattr(config.tune, section):
            if key in keys:
                continue
            why = f", which only items: {READ_BY_ITEMS[key]} reads" if key in READ_BY_ITEMS else ""
            near = get_close_matches(key, known, n=1) if section == "scorer_space" else []
            hint = f"did you mean {near[0]!r}? " if near else ""
            options = f"; options of its scorers: {', '.join(known)}" if known and section == "scorer_space" else ""
            problem = f"tune.{section}: no variant of this comparison uses {key}{why}"
            lines.append(f"{problem}; {hint}correct it, or leave it out{options}")
    return lines


def draw(config: CompareConfig, name: str, grid: Mapping[str, list[Any]]) -> list[Settings]:
    """Draw `tune.budget` different points of a grid with the seed; a larger budget starts with the same points.

    Training-free scorers have few settings: if these are fewer than the budget, all are tried.

    Raises:
        ConfigError: the grid has fewer points than the budget, or a point is not a valid config.
    """
    assert config.tune is not None
    budget, size = config.tune.budget, math.prod(len(values) for values in grid.values())
    if size < budget and config.variants[name].is_trained:
        raise ConfigError(_too_small(config, name, grid, size))
    if not grid:  # one trial with the settings as they are
        return [{}]
    chosen = np.random.default_rng(config.tune.seed).permutation(size)[:budget]
    places = np.unravel_index(chosen, [len(values) for values in grid.values()])
    points: list[Settings] = [
        {key: values[place] for (key, values), place in zip(grid.items(), point, strict=True)}
        for point in zip(*places, strict=True)
    ]
    for point in points:
        try:
            refuse(setting_problems(with_settings(config, name, point)))
        except ConfigError as error:
            raise ConfigError(f"tune: {name} with {in_words(point)}: {error}") from None
    return points


def in_grid(settings: Settings, grid: Mapping[str, list[Any]]) -> bool:
    """Whether a grid has this point."""
    return settings.keys() == grid.keys() and all(
        to_dict(value) in to_dict(grid[key]) for key, value in settings.items()
    )


def _too_small(config: CompareConfig, name: str, grid: Mapping[str, list[Any]], size: int) -> str:
    """The message for a variant whose grid is too small for the same number of trials as the others."""
    assert config.tune is not None
    many = counted(size, "point")
    problem = (
        f"tune: the grid of {name!r} has {many} ({', '.join(grid) or 'no keys'}), fewer than the budget of "
        f"{config.tune.budget}; every variant gets the same number of trials, so "
    )
    if config.variants[name].uses_text:
        return (
            f"{problem}add values to tune.text_space, such as transforms: [[center], [{{shrink: 0.5}}]] (from "
            f"tune.space a variant with text uses only {LEARNING_RATE}; the rest is shared with {config.baseline!r})"
        )
    return f"{problem}add values to tune.space, or set tune.budget to {size}"


def with_settings(config: CompareConfig, name: str, settings: Settings) -> CompareConfig:
    """The comparison with these settings for a variant; settings of the baseline apply to all variants.

    Raises:
        ConfigError: invalid values.
    """
    train, recbole, options, own = (
        {key.removeprefix(prefix): value for key, value in settings.items() if fits(key)}
        for prefix, fits in (
            ("train.", lambda key: key.startswith("train.")),
            ("recbole.", lambda key: key.startswith("recbole.")),
            ("options.", lambda key: key.startswith("options.")),
            ("", lambda key: "." not in key),
        )
    )
    if name == config.baseline:
        shared = config.train.changed(**train)
        return config.changed(train=shared, recbole={**config.recbole, **recbole})
    variant = config.variants[name]
    if options:
        own["options"] = {**variant.options, **options}
    variant = variant.changed(train={**variant.train, **train}, recbole={**variant.recbole, **recbole}, **own)
    return config.changed(variants={**config.variants, name: variant})


def chosen(config: CompareConfig, name: str) -> dict[str, Any]:
    """The chosen values of the keys that a variant was tuned over; empty if it was not tuned."""
    variant = config.variants[name]
    sections = {
        "train": config.train_of(variant),
        "recbole": config.recbole_of(variant),
        "options": variant.options,
        "": variant,
    }

    def value(key: str) -> Any:
        section, _, last = key.rpartition(".")
        found = sections[section]
        return found[last] if isinstance(found, Mapping) else getattr(found, last)

    return {key: to_dict(value(key)) for key in grid_of(config, name)} if variant.trials else {}


def in_words(settings: Settings) -> str:
    """'learning_rate 0.001, transforms [center]'."""
    return ", ".join(f"{key.rpartition('.')[2]} {json.dumps(to_dict(value))}" for key, value in settings.items())
