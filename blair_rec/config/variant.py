"""One variant of a comparison: what scores the items, and which keys fit together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler

from blair_rec.config.names import (
    ControlName,
    Fusion,
    Weighting,
)
from blair_rec.config.passed_to_recbole import RecBoleSettings
from blair_rec.config.section import (
    AboveZero,
    FieldProblem,
    FromOneOn,
    ItemKind,
    KeysAndValues,
    ListOfNames,
    Problem,
    ScorerName,
    Section,
    default_of,
    part_of,
)
from blair_rec.config.sections import TextConfig, TrainConfig
from blair_rec.config.steps import Step, order_problems, step_problems, step_schema
from blair_rec.registry import TEXT_SCORERS, is_outside

READ_BY_ITEMS = {"fusion": "id_text", "max_delta": "text_delta"}
"""Keys of a variant that only one item side reads."""


class _StepSchema:
    """Adds the known steps to the JSON Schema, at the moment when the schema is made."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "array", "items": step_schema()}


def _steps(steps: Any) -> Any:
    """Check the steps before pydantic does, because its message would name two types for each wrong step."""
    if not isinstance(steps, (list, tuple)):
        raise FieldProblem([f" is {steps!r}; expected a list, such as [center, {{pca: 64}}]"])
    if wrong := [line for step in steps for line in step_problems(step)] or order_problems(steps):
        raise FieldProblem(wrong)
    return tuple(steps)


class VariantConfig(Section):
    """One variant of the comparison: a model with an item side, a training-free scorer, or an average or a second stage
    over other variants."""

    items: ItemKind = "id"
    """The item side, which turns item ids into vectors: id, text, text_init, text_delta, id_text, unisrec, sasrec_text,
    one that another package adds, or `module:Class`."""
    transforms: Annotated[tuple[Step, ...], BeforeValidator(_steps), _StepSchema()] = ()
    """Steps applied to the text vectors before training, in this order: center, l2, {pca: width}, {whiten: zca or pca},
    {shrink: degree}, {rescale: size}, a step that another package adds, or {`module:Class`: options}."""
    control: ControlName | None = None
    """A control, whose text vectors carry no meaning: shuffle (item texts randomly reassigned) or random (random
    Gaussian vectors)."""
    fusion: Fusion | None = None
    """How id_text joins its two vectors: sum (the default), concat or gate."""
    max_delta: AboveZero | None = None
    """How far text_delta may move an item from its text vector, as a share of that vector's length. The default is
    0.5."""
    options: KeysAndValues = Field(default_factory=dict)
    """Constructor arguments, by name, for an item side or a scorer from another package or `module:Class`."""
    model: str | None = None
    """Another RecBole sequential model for this variant, such as GRU4Rec. null: the comparison's `model`."""
    text: Annotated[KeysAndValues, part_of(TextConfig)] = Field(default_factory=dict)
    """Keys of the text section to override for this variant, such as the encoder."""
    train: Annotated[KeysAndValues, part_of(TrainConfig)] = Field(default_factory=dict)
    """Keys of the train section to override for this variant, such as the learning rate."""
    recbole: RecBoleSettings = Field(default_factory=dict)
    """Settings of the RecBole model to override for this variant, such as the dropout."""
    trials: Annotated[int, Field(ge=0)] = 0
    """How many configurations were tried on validation before this one was chosen. `blair-rec tune` writes it."""
    scorer: ScorerName | None = None
    """A training-free scorer instead of a model. popularity, markov and sequential_rules count events; last_item,
    mean_history and recent_history look up nearest neighbours by text. It can also be one that another package adds, or
    `module:Class`; such a scorer gets text vectors if the variant sets `transforms`, `control` or `text`."""
    average: ListOfNames = ()
    """Variants whose scores are normalised and averaged, instead of a model."""
    weights: Weighting = "validation"
    """Weights of the average: validation (the best on validation, by evaluate.protocol), masked or unmasked (the best
    on validation by that protocol, even if the members were selected by the other one), or equal. A second stage
    (`rerank`) is fitted by the same protocol; equal is only for averages."""
    rerank: ListOfNames = ()
    """Variants whose best items a second stage (LightGBM's LambdaMART) orders, instead of a model. It needs the extra
    `rerank`: docs/rerank.md."""
    candidates: FromOneOn | None = None
    """How many of the best items of each member the second stage orders. The default is 50."""

    def _problems(self) -> Iterator[Problem]:
        """Keys for a part that this variant doesn't have."""
        if self.members:
            yield from self._problems_of_members()
            return
        if self.weights != "validation":
            yield ("average", "weights"), f"weights is {self.weights!r}, but the variant has no average; leave it out"
        if self.candidates is not None:
            yield ("rerank", "candidates"), "candidates is only for a second stage (rerank); leave it out"
        for name in ("items", "model", "train", "recbole") if self.scorer is not None else ():
            if getattr(self, name) != default_of(VariantConfig, name):
                yield ("scorer", name), f"scorer: {self.scorer} is not trained, so leave {name} out"
        if not self.uses_text and (self.transforms or self.control or self.text):
            kind = "items: id" if self.scorer is None else f"scorer: {self.scorer}"
            keys = ("items", "scorer", "transforms", "control", "text")
            yield keys, f"{kind} uses no text; leave transforms, control and text out"
        if self.options and not (is_outside("items", self.items) or is_outside("scorers", self.scorer)):
            yield ("options", "items", "scorer"), f"options are only for parts of other packages; {self.kind} is ours"
        for name, kind in READ_BY_ITEMS.items():
            if getattr(self, name) is not None and self.items != kind:
                yield ("items", name), f"{name} works only with items: {kind}, but this variant has items: {self.items}"

    def _problems_of_members(self) -> Iterator[Problem]:
        """Keys that an average or a second stage can't have, and members that it can't have."""
        if self.average and self.rerank:
            yield ("average", "rerank"), "a variant has either average or rerank; leave one of them out"
            return
        kind, words = ("average", "an average") if self.average else ("rerank", "a second stage")
        own = ("average", "weights") if self.average else ("rerank", "weights", "candidates")
        for name in VariantConfig.model_fields:
            if name not in own and getattr(self, name) != default_of(VariantConfig, name):
                yield (kind, name), f"{name} can't be set on {words}; set it on its members"
        if len(self.members) < 2 or len(set(self.members)) != len(self.members):
            yield (kind,), f"{kind} is {list(self.members)}; name at least two variants, each once"
        if self.rerank and self.weights == "equal":
            yield ("rerank", "weights"), "weights is 'equal', but a second stage needs validation, masked or unmasked"

    @property
    def members(self) -> tuple[str, ...]:
        """The variants that this one averages, or whose best items it orders; empty for all others."""
        return self.average or self.rerank

    @property
    def uses_text(self) -> bool:
        """Whether the variant itself reads text vectors. An average or second stage doesn't; its members may."""
        if is_outside("scorers", self.scorer):  # its keys decide, because its class would have to be imported
            return bool(self.transforms or self.control or self.text)
        return self.items != "id" or self.scorer in TEXT_SCORERS

    @property
    def is_trained(self) -> bool:
        """Whether the variant has a model to train; scorers, averages and second stages have none."""
        return self.scorer is None and not self.members

    @property
    def kind(self) -> str:
        """What scores the items, in one word: the model's item side, the scorer, "average", or "rerank"."""
        if self.members:
            return "average" if self.average else "rerank"
        return self.scorer or self.items


TEXT_KEYS = ("transforms", *READ_BY_ITEMS)
"""Keys of a variant that decide how it uses text."""
