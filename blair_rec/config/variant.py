"""One variant of a comparison: what scores the items, and which keys fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, create_model

from blair_rec.config.names import (
    ELSEWHERE,
    FROM,
    MATRICES,
    ControlName,
    Fusion,
    Weighting,
)
from blair_rec.config.options.elsewhere import FilesElsewhere, file_of
from blair_rec.config.options.scorers import option_problems
from blair_rec.config.passed_to_recbole import RecBoleSettings
from blair_rec.config.section import (
    AboveZero,
    Factor,
    FieldProblem,
    FromOneOn,
    ItemKind,
    KeysAndValues,
    ListOfNames,
    ModelName,
    NotEmpty,
    Problem,
    ScorerName,
    Section,
    ShareOfOne,
    default_of,
    part_of,
)
from blair_rec.config.sections import TextConfig, TrainConfig
from blair_rec.config.steps import Step, order_problems, step_problems, step_schema
from blair_rec.config.yaml.files import shown
from blair_rec.registry import TEXT_SCORERS, is_outside

NO_CANDIDATES = "candidates is only for a second stage (rerank); leave it out"
READ_BY_ITEMS = {"fusion": "id_text", "max_delta": "text_delta"}
"""Keys of a variant that only one item side reads."""


class _StepSchema:
    """Adds the known steps to the JSON Schema, at the moment when the schema is made."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "array", "items": step_schema()}


def _steps(steps: Any) -> Any:
    """Check the steps before pydantic does, because its message would name two types for each wrong step."""
    if not isinstance(steps, (list, tuple)):
        raise FieldProblem([f" is {shown(steps)}; expected a list, such as [center, {{pca: 64}}]"])
    if wrong := [line for step in steps for line in step_problems(step)] or order_problems(steps):
        raise FieldProblem(wrong)
    return tuple(steps)


_FROM = """Top lists or score matrices that another system made for the cases of `blair-rec split`: one file, or one for
each seed, such as {1: a.csv, 2: b.csv}. The history is among the candidates. See docs/other_systems.md."""
if TYPE_CHECKING:
    _WithFrom = Section
else:  # `from` is a keyword of Python, so no class body can name this field
    _WithFrom = create_model(
        "_WithFrom", __base__=Section, **{"from": (FilesElsewhere, Field(default=None, description=_FROM))}
    )


class VariantConfig(_WithFrom):
    """One variant of the comparison: a model with an item side, a training-free scorer, an average or a second stage
    over other variants, or what another system recommends."""

    from_masked: FilesElsewhere = None
    """Top lists of the same system without the items of the history, for the masked protocol. null: `from` is used for
    both protocols."""
    from_valid: FilesElsewhere = None
    """Top lists or score matrices of the same system for the validation cases. An average chooses its weights with
    them (matrices alone), a second stage fits its trees."""
    from_valid_masked: FilesElsewhere = None
    """Top lists of the same system for the validation cases without the items of the history, where `from_masked` has
    those of the test cases."""
    label: NotEmpty | None = None
    """The name of a system of `from` on the board, such as HSTU (RecTools)."""

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
    max_delta: Factor | None = None
    """How far text_delta may move an item from its text vector, as a share of that vector's length. The default is
    0.5."""
    options: KeysAndValues = Field(default_factory=dict)
    """Options of the scorer, by name, such as {source_power: 0.5}; docs/scorers.md lists them. An item side or a scorer
    from another package or `module:Class` gets them as arguments of its constructor."""
    model: ModelName | None = None
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
    """A training-free scorer instead of a model. popularity, markov and sequential_rules count events;
    last_item, mean_history and recent_history look up nearest neighbours by text; text_rules does both. It can also be
    one that another package adds, or `module:Class`; such a scorer gets text vectors if the variant sets `transforms`,
    `control` or `text`."""
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
    distill: str | None = None
    """The teacher: an average, a model or a scorer of this comparison, whose ranking of the training positions this
    model learns in addition to the next item (knowledge distillation). See docs/distill.md."""
    distill_weight: ShareOfOne | None = None
    """The teacher's part of the loss, from 0 (none) to 1 (the teacher alone). The default is 0.5."""
    distill_temperature: AboveZero | None = None
    """The temperature of the teacher's scores, standardised in each list: higher makes its items more equal. The
    default is 1."""

    def _problems(self) -> Iterator[Problem]:
        """Keys for a part that this variant doesn't have."""
        yield from self._problems_elsewhere()
        if self.is_elsewhere:
            return
        if self.members:
            yield from self._problems_of_members()
            return
        said = self.model_fields_set  # with items or a scorer, an empty default is only written out
        if empty := [] if "items" in said or self.scorer else [name for name in ("average", "rerank") if name in said]:
            yield from (((name,), f"{name} is empty; name at least two variants, each once") for name in empty)
            return
        if self.weights != "validation":
            yield (
                ("average", "rerank", "weights"),
                f"weights is {self.weights!r}, but only an average or a second stage has weights; leave it out",
            )
        if self.candidates is not None:
            yield ("average", "rerank", "candidates"), NO_CANDIDATES
        for name in ("items", "model", "train", "recbole", "distill") if self.scorer is not None else ():
            if getattr(self, name) != default_of(VariantConfig, name):
                yield ("scorer", name), f"scorer: {self.scorer} is not trained, so leave {name} out"
        for name in ("distill_weight", "distill_temperature") if self.distill is None else ():
            if getattr(self, name) is not None:
                line = f"{name} needs distill, with the variant to learn from; leave it out, or add it"
                yield ("distill", name), line
        if not self.uses_text and (self.transforms or self.control or self.text):
            kind = "items: id" if self.scorer is None else f"scorer: {self.scorer}"
            keys = ("items", "scorer", "transforms", "control", "text")
            yield keys, f"{kind} uses no text; leave transforms, control and text out"
        yield from ((("options", "items", "scorer"), line) for line in self._wrong_options())
        for name, kind in READ_BY_ITEMS.items():
            if getattr(self, name) is not None and self.items != kind:
                yield ("items", name), f"{name} works only with items: {kind}, but this variant has items: {self.items}"

    def _problems_elsewhere(self) -> Iterator[Problem]:
        """Keys that don't fit together with `from`."""
        own = (*FROM, "label")
        if not self.is_elsewhere:
            for name in own[1:]:
                if getattr(self, name) is not None:
                    yield ("from", name), f"{name} needs `from`, with the lists of the other system"
            return
        for name in VariantConfig.model_fields:
            if name not in (*own, "trials") and getattr(self, name) != default_of(VariantConfig, name):
                yield ("from", name), f"{name} can't be set with `from`: the variant was trained elsewhere"
        if self.from_valid_masked is not None and None in (self.from_valid, self.from_masked):
            yield FROM, "from_valid_masked needs from_valid and from_masked, with the lists of the same system"
        by_seed = [name for name in FROM if isinstance(getattr(self, name), Mapping)]
        given = [name for name in FROM if getattr(self, name) is not None]
        if by_seed and by_seed != given:
            single = " and ".join(name for name in given if name not in by_seed)
            words = f"{' and '.join(by_seed)}: a file for each seed, but {single}: a single one; give all in one way"
            yield FROM, words
        elif by_seed and len({frozenset(getattr(self, name)) for name in by_seed}) > 1:
            yield FROM, f"{' and '.join(by_seed)} name different seeds; give each the same ones"

    @property
    def is_elsewhere(self) -> bool:
        """Whether another system made the recommendations of this variant."""
        return getattr(self, "from") is not None

    def problems_in_average(self, name: str, weights: str) -> Iterator[str]:
        """Problems of this variant as a member of an average, which needs a score for every item."""
        for key in ("from", "from_valid") if self.is_elsewhere else ():
            files = self._files_of(key)
            if lists := [file for file in files if not file.lower().endswith(MATRICES)]:
                yield f".average names {name!r}, whose {key} is a top list ({lists[0]}); give score matrices"
            if not files and weights != "equal":
                cure = "add it, or set weights: equal"
                yield f".average names {name!r}, which has no from_valid to choose weights with; {cure}"

    def problems_in_second_stage(self, name: str) -> Iterator[str]:
        """Problems of this variant as a member of a second stage, whose trees are fitted on validation cases."""
        files, valid = (self._files_of(key) for key in ("from", "from_valid"))
        if self.is_elsewhere and not valid:
            yield (
                f".rerank names {name!r}, which has no from_valid: the trees are fitted on validation cases; add the "
                "same system's lists for them"
            )
        elif len({file.lower().endswith(MATRICES) for file in (*files, *valid)}) > 1:
            yield (
                f".rerank names {name!r}, whose from and from_valid are a top list ({', '.join(self._lists)}) and a "
                "score matrix; give both in one way"
            )

    @property
    def has_lists(self) -> bool:
        """Whether another system gave top lists, so that most items have no score."""
        return bool(self._lists)

    @property
    def _lists(self) -> list[str]:
        files = [*self._files_of("from"), *self._files_of("from_valid")]
        return [file for file in files if not file.lower().endswith(MATRICES)]

    def _files_of(self, key: str) -> list[str]:
        """The files of all seeds under a key."""
        files = getattr(self, key)
        return list(files.values()) if isinstance(files, Mapping) else [files] * (files is not None)

    @property
    def elsewhere_by_seed(self) -> bool:
        """Whether another system gave files for each seed."""
        return isinstance(getattr(self, "from"), Mapping)

    def elsewhere_of(self, seed: int) -> dict[str, str]:
        """The files of another system for a seed, by key, as in FROM; without those not given."""
        found = {name: file_of(getattr(self, name), seed) for name in FROM}
        return {name: file for name, file in found.items() if file is not None}

    def _wrong_options(self) -> Iterator[str]:
        """A line for each option that can't be set. Other packages check theirs when they are imported."""
        if not self.options or is_outside("items", self.items) or is_outside("scorers", self.scorer):
            return
        if self.scorer is None:
            yield f"options are for scorers and for parts of other packages; items: {self.items} has none"
            return
        yield from option_problems(self.scorer, self.options)

    def _problems_of_members(self) -> Iterator[Problem]:
        """Keys that an average or a second stage can't have, and members that it can't have."""
        if self.average and self.rerank:
            yield ("average", "rerank"), "a variant has either average or rerank; leave one of them out"
            return
        kind, words = ("average", "an average") if self.average else ("rerank", "a second stage")
        own = ("average", "weights") if self.average else ("rerank", "weights", "candidates")
        for name in VariantConfig.model_fields:
            if name not in own and getattr(self, name) != default_of(VariantConfig, name):
                cure = f"{name} can't be set on {words}; set it on its members"
                yield (kind, name), NO_CANDIDATES if name == "candidates" else cure
        if len(self.members) < 2 or len(set(self.members)) != len(self.members):
            yield (kind,), f"{kind} is {list(self.members)}; name at least two variants, each once"
        if self.rerank and self.weights == "equal":
            yield ("rerank", "weights"), "weights is 'equal', but a second stage needs validation, masked or unmasked"

    @property
    def members(self) -> tuple[str, ...]:
        """The variants that this one averages, or whose best items it orders; empty for all others."""
        return self.average or self.rerank

    @property
    def made_of(self) -> tuple[str, ...]:
        """The variants whose finished runs this one is made of: its members or its teacher; empty for all others."""
        return self.members or (() if self.distill is None else (self.distill,))

    @property
    def uses_text(self) -> bool:
        """Whether the variant itself reads text vectors. An average or second stage doesn't; its members may. Nor does
        a student without text; its teacher may."""
        if is_outside("scorers", self.scorer):  # its keys decide, because its class would have to be imported
            return bool(self.transforms or self.control or self.text)
        return self.items != "id" or self.scorer in TEXT_SCORERS

    @property
    def is_trained(self) -> bool:
        """Whether the variant has a model to train here: no scorer, average, second stage or other system has one."""
        return self.scorer is None and not self.members and not self.is_elsewhere

    @property
    def kind(self) -> str:
        """The item side of the model, or the scorer, or "average", "rerank" or "trained elsewhere"."""
        if self.is_elsewhere:
            return ELSEWHERE
        if self.members:
            return "average" if self.average else "rerank"
        return self.scorer or self.items


TEXT_KEYS = ("transforms", *READ_BY_ITEMS)
"""Keys of a variant that decide how it uses text."""
