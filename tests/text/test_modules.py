"""A model's recipe is read from its files; an unsupported module is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blair_rec.config.names import POOLINGS
from blair_rec.errors import ConfigError, UnknownEncoder
from blair_rec.text.encoding.modules import DOCUMENT_PROMPTS, FLAGS, QUERY_PROMPTS, Recipe, prompt_of
from blair_rec.text.encoding.modules import read_recipe as read
from blair_rec.text.encoding.source import resolve_encoder

TRANSFORMER = ("sentence_transformers.models.Transformer", "")
POOLING = ("sentence_transformers.models.Pooling", "1_Pooling")


def write(folder: Path, name: str, content: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def modules(folder: Path, *listed: tuple[str, str]) -> None:
    write(folder, "modules.json", [{"type": kind, "path": path} for kind, path in listed])


@pytest.mark.parametrize(
    "kind",
    ["sentence_transformers.models.CNN", "sentence_transformers.models.WeightedLayerPooling", "custom_st.Transformer",
     "sentence_transformers.base.modules.router.Router", "sentence_transformers.models.CLIPModel", "os.system", None],
)  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
def test_an_unknown_module_is_refused_by_name(tmp_path: Path, kind: str, first: bool) -> None:
    modules(tmp_path, *([] if first else [TRANSFORMER, POOLING]), (kind, "2_Other"))
    with pytest.raises(UnknownEncoder, match=f"mine has the module {kind}; supported modules: .*store import"):
        read(tmp_path, "mine")


@pytest.mark.parametrize(
    "listed, said",
    [
        ([], "begins with the module nothing"),
        ([POOLING], "begins with the module Pooling"),
        ([TRANSFORMER], "has nothing after its Transformer"),
        ([TRANSFORMER, ("sentence_transformers.models.Dense", "1_Dense"), POOLING], "has Dense after its Transformer"),
        ([TRANSFORMER, POOLING, POOLING], "has Pooling in a place where only Dense"),
    ],
)
def test_an_order_that_makes_no_vector_is_refused(tmp_path: Path, listed: list[tuple[str, str]], said: str) -> None:
    modules(tmp_path, *listed)
    with pytest.raises(UnknownEncoder, match=f"mine {said}"):
        read(tmp_path, "mine")


@pytest.mark.parametrize(
    "config, said",
    [
        ({"transformer_task": "fill-mask"}, "transformer_task is fill-mask"),
        ({"module_output_name": "sentence_embedding"}, "module_output_name is sentence_embedding"),
        ({"modality_config": {"text": {"method": "get_text_features"}}}, "method is get_text_features"),
        ({"modality_config": {"text": {"method_output_name": ["hidden_states", 1]}}}, "method_output_name is "),
    ],
)
def test_token_vectors_of_another_kind_are_refused(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    modules(tmp_path, TRANSFORMER, POOLING)
    write(tmp_path, "sentence_bert_config.json", config)
    with pytest.raises(UnknownEncoder, match=f"has a Transformer whose {said}"):
        read(tmp_path, "mine")


def test_a_module_that_works_on_tokens_is_refused(tmp_path: Path) -> None:
    modules(tmp_path, TRANSFORMER, POOLING, ("sentence_transformers.models.Dense", "2_Dense"))
    write(tmp_path, "2_Dense/config.json", {"module_input_name": "token_embeddings"})
    with pytest.raises(UnknownEncoder, match="has a Dense whose module_input_name is token_embeddings"):
        read(tmp_path, "mine")


def test_a_model_cannot_name_a_folder_outside_of_itself(tmp_path: Path) -> None:
    modules(tmp_path, TRANSFORMER, ("sentence_transformers.models.Pooling", "../other"))
    with pytest.raises(UnknownEncoder, match="names a folder outside of the model"):
        read(tmp_path, "mine")


@pytest.mark.parametrize("content", ["{", '{"a": 1}'])
def test_a_broken_list_of_modules_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(UnknownEncoder, match=r"modules.json is (broken|not a list of modules)"):
        read(tmp_path, "mine")


@given(st.sets(st.sampled_from(sorted(FLAGS))), st.booleans())
def test_flags_and_names_say_the_same_pooling(
    tmp_path_factory: pytest.TempPathFactory, on: set[str], include: bool
) -> None:
    folder = tmp_path_factory.mktemp("model")
    write(folder, "1_Pooling/config.json", {**{flag: flag in on for flag in FLAGS}, "include_prompt": include})
    recipe = read(folder, "mine")
    expected = [mode for mode in POOLINGS if any(FLAGS[flag] == mode for flag in on)]
    assert (recipe.pooling, recipe.include_prompt) == ("+".join(expected), include)
    write(folder, "1_Pooling/config.json", {"pooling_mode": expected})
    assert read(folder, "mine").pooling == "+".join(expected)


@pytest.mark.parametrize("config", [{"pooling_mode": "attention"}, {"pooling_mode_attention": True}])
def test_an_unknown_pooling_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    write(tmp_path, "1_Pooling/config.json", config)
    with pytest.raises(ConfigError, match=r"mine was trained with pooling (pooling_mode_)?attention; known: cls, max"):
        read(tmp_path, "mine")


@pytest.mark.parametrize("name", ["sentence_bert_config.json", "sentence_roberta_config.json"])
def test_small_letters_and_length_are_read_from_files_of_either_name(tmp_path: Path, name: str) -> None:
    modules(tmp_path, TRANSFORMER, POOLING)
    write(tmp_path, name, {"do_lower_case": True, "max_seq_length": 9})
    assert read(tmp_path, "mine").names == ("lowercase",)


# Prompts


def recipe(default: str = "", **prompts: str) -> Recipe:
    return Recipe(Path(), prompts=prompts, default_prompt=default)


@pytest.mark.parametrize(
    "of, document, query",
    [
        (recipe(), "", ""),
        (recipe(query="q: ", document="d: "), "d: ", "q: "),
        (recipe(query="q: ", passage="p: "), "p: ", "q: "),
        (recipe(corpus="c: "), "c: ", ""),
        (recipe(query="q: ", default="q: "), "", "q: "),  # a model whose items have none
        (recipe(cluster="x: ", default="x: "), "x: ", "x: "),
        (recipe(cluster="x: "), "", ""),
    ],
)
def test_the_model_decides_its_prompts_by_default(of: Recipe, document: str, query: str) -> None:
    assert prompt_of(of, None, DOCUMENT_PROMPTS, "prompt", "mine") == document
    assert prompt_of(of, None, QUERY_PROMPTS, "query_prompt", "mine") == query


@pytest.mark.parametrize(
    "asked, expected",
    [("document", "p: "), ("passage", "p: "), ("query", "q: "), ("", ""), ("title: none | ", "title: none | ")],
)  # fmt: skip
def test_a_prompt_is_a_name_or_the_text_itself(asked: str, expected: str) -> None:
    assert prompt_of(recipe(query="q: ", passage="p: "), asked, DOCUMENT_PROMPTS, "prompt", "mine") == expected


@pytest.mark.parametrize("asked", ["qurey", "document", "search_query"])
def test_a_prompt_that_the_model_does_not_name_is_refused(asked: str) -> None:
    with pytest.raises(ConfigError, match=f"prompt is '{asked}', but mine has no prompt of this name .it has: query"):
        prompt_of(recipe(query="q: "), asked, DOCUMENT_PROMPTS, "prompt", "mine")


# What a store's identity is made of


def test_models_of_a_transformer_and_its_pooling_have_the_header_and_revision_that_they_always_had(
    own_roberta: Path,
) -> None:
    write(own_roberta, "1_Pooling/config.json", {"pooling_mode": "mean"})
    before = resolve_encoder(str(own_roberta))
    modules(own_roberta, TRANSFORMER, POOLING)
    write(own_roberta, "config_sentence_transformers.json", {"prompts": {"query": "", "document": ""}})
    after = resolve_encoder(str(own_roberta))
    assert after.header() == before.header()
    assert list(after.header()) == ["name", "asked_for", "fallback", "revision", "pooling", "max_length", "dtype"]


def test_weights_of_every_module_count_for_the_revision(own_roberta: Path) -> None:
    write(own_roberta, "1_Pooling/config.json", {"pooling_mode": "mean"})
    modules(own_roberta, TRANSFORMER, POOLING, ("sentence_transformers.models.Dense", "2_Dense"))
    seen = set()
    for content in (b"a", b"b"):
        (own_roberta / "2_Dense").mkdir(exist_ok=True)
        (own_roberta / "2_Dense" / "model.safetensors").write_bytes(content)
        seen.add(resolve_encoder(str(own_roberta)).revision)
    write(own_roberta, "2_Dense/config.json", {"activation_function": "torch.nn.modules.linear.Identity"})
    seen.add(resolve_encoder(str(own_roberta)).revision)
    assert len(seen) == 3
    assert resolve_encoder(str(own_roberta)).header()["modules"] == ["dense"]


def test_truncate_dim_has_to_be_positive(roberta: Path) -> None:
    with pytest.raises(ConfigError, match="truncate_dim is 0; at least 1 dimension"):
        resolve_encoder(str(roberta), pooling="cls", truncate_dim=0)
