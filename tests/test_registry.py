"""The registry: every list of names comes from it, packages add to it, and nobody else decides which code is run."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from comparisons import config_of, raw_config, write_config
from hypothesis import given
from hypothesis import strategies as st

import blair_rec
from blair_rec import registry
from blair_rec.config.comparison import CompareConfig, load_config, read_config
from blair_rec.config.names import READ_BY
from blair_rec.config.sections import TrainConfig
from blair_rec.config.steps import STEPS
from blair_rec.config.variant import VariantConfig
from blair_rec.errors import ChangedRuns, ConfigError, UntrustedCode
from blair_rec.evaluate.runs.recorded import hash_of
from blair_rec.experiment.compare import compare
from blair_rec.experiment.planning.subset import plan_all
from blair_rec.models.items import ItemSide, build_items
from blair_rec.models.transforms import Transform, fit_transforms
from blair_rec.prepare.public.search import SearchData
from blair_rec.ranking.scorers import Baseline, build_baseline, scorer_kind
from blair_rec.testing.items import replaced_embedding, text_vectors
from blair_rec.text.encoding.encoder import load_encoder
from blair_rec.text.encoding.source import resolve_encoder
from blair_rec.training.losses import sampled_loss

REPOSITORY = Path(__file__).parents[1]
PAGES = "".join((REPOSITORY / page).read_text("utf-8") for page in ("docs/compare.md", "datasets/README.md"))

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a package with entry points, and its module, into a folder that Python imports from."""

    def put(package: str, points: dict[str, dict[str, str]], module: str = "", version: str = "1.0") -> Path:
        site = tmp_path / "site"
        info = site / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n", "utf-8")
        lines = [
            line
            for group, names in points.items()
            for line in (f"[blair_rec.{group}]", *(f"{name} = {target}" for name, target in names.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n", "utf-8")
        if module:
            name = next(iter(next(iter(points.values())).values())).partition(":")[0]
            (site / f"{name}.py").write_text(module, "utf-8")
            monkeypatch.delitem(sys.modules, name, raising=False)
        if str(site) not in sys.path:
            monkeypatch.syspath_prepend(site)
        registry._plugins.cache_clear()
        return site

    return put


# One list


def test_to_list_names_and_to_check_a_config_imports_nothing_heavy() -> None:
    script = """
import sys
from blair_rec import registry
for group in registry.BUILT_IN:
    assert registry.names(group) or group == "encoders"
from blair_rec.config.comparison import CompareConfig, read_config
text = {"items": "text", "transforms": ["l2"], "text": {"fields": ["title"]}}
read_config({"dataset": "x", "variants": {"id": {}, "t": text, "p": {"scorer": "markov"}}, "train": {"loss": "bpr"}})
CompareConfig.model_json_schema()
print(*{"torch", "recbole", "numpy", "transformers", "polars"} & {*sys.modules})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize("group", registry.BUILT_IN)
def test_every_name_of_ours_leads_to_something_of_its_kind(group: str) -> None:
    kinds: dict[str, Any] = {"items": ItemSide, "scorers": Baseline, "transforms": Transform}
    for name in registry.BUILT_IN[group]:
        found = registry.load(group, name)
        if group in kinds and name != "id":
            assert issubclass(found, kinds[group]), name
        assert callable(found)
        assert found.__module__ == registry.BUILT_IN[group][name].partition(":")[0] or name == "id"


def test_the_lists_that_know_more_of_a_name_know_every_name() -> None:
    assert [*STEPS] == [*registry.BUILT_IN["transforms"]]
    named = {loss for losses in READ_BY.values() for loss in losses} - {"a loss of another package"}
    assert named <= {*registry.BUILT_IN["losses"]}
    assert {*registry.TEXT_SCORERS} == {
        name for name in registry.BUILT_IN["scorers"] if registry.load("scorers", name).uses_text
    }


FIELDS = [
    (VariantConfig, "items", "items"),
    (VariantConfig, "scorer", "scorers"),
    (VariantConfig, "transforms", "transforms"),
    (TrainConfig, "loss", "losses"),
]


@pytest.mark.parametrize("section, field, group", FIELDS)
def test_what_a_config_says_of_a_field_has_every_name(section: Any, field: str, group: str) -> None:
    said = section.model_fields[field].description
    assert [name for name in registry.BUILT_IN[group] if name not in said] == []


def test_the_pages_on_comparisons_and_data_have_every_name() -> None:
    for group in ("items", "scorers", "transforms", "losses", "sources"):
        assert [name for name in registry.BUILT_IN[group] if name not in PAGES] == [], group


def test_prepare_offers_the_sources_and_no_others() -> None:
    from blair_rec.cli.commands.data.prepare import add

    commands = argparse.ArgumentParser().add_subparsers()
    add(commands)
    (kinds,) = [
        action for action in commands.choices["prepare"]._actions if isinstance(action, argparse._SubParsersAction)
    ]
    assert [*kinds.choices] == [*registry.BUILT_IN["sources"]]
    for name in ("amazon-c4", "esci"):
        assert SearchData(name, Path("x")).name == name


@pytest.mark.parametrize(
    "setting, message",
    [
        ("variants.text.items=txt", "variants.text.items is 'txt'; did you mean 'text'? known: id, text, text_init"),
        ("variants.text.scorer=marko", "variants.text.scorer is 'marko'; did you mean 'markov'? known: popularity"),
        ("variants.text.transforms=[centre]", "variants.text.transforms is 'centre'; did you mean 'center'? known: ce"),
        ("variants.text.train={loss: gbcee}", "variants.text.train.loss is 'gbcee'; did you mean 'gbce'? known: full"),
        ("train.loss=gbcee", "train.loss is 'gbcee'; did you mean 'gbce'? known: full_softmax, sampled_softmax, gbce"),
        ("variants.text.items='os:'", "variants.text.items is 'os:'"),
        ("variants.text.items=os/path:join", "variants.text.items is 'os/path:join'"),
        (
            "variants.text.options={a: 1}",
            "variants.text.options are for scorers and for parts of other packages; items: text has none",
        ),
        (
            "train.loss_options={a: 1}",
            "train.loss_options has no effect with loss: full_softmax; leave it out, or choose",
        ),
    ],
)
def test_a_name_is_checked_in_set_as_well(tmp_path: Path, setting: str, message: str) -> None:
    file = write_config(tmp_path / "my.yaml", tmp_path / "data", "encoder", seeds=[1])
    with pytest.raises(ConfigError) as error:
        load_config(file, [setting])
    assert message in str(error.value)


def test_an_editor_is_told_the_names(install: Install) -> None:
    install("other", {"scorers": {"mine": "other_parts:Mine"}})
    schema = CompareConfig.model_json_schema()["$defs"]["VariantConfig"]["properties"]
    scorer, nothing = schema["scorer"]["anyOf"]
    assert scorer["else"]["enum"] == [*registry.BUILT_IN["scorers"], "mine"] and nothing == {"type": "null"}
    assert scorer["if"] == {"pattern": ":"} and scorer["then"] == {"pattern": f"^{registry.CODE}$"}
    assert schema["items"]["else"]["enum"] == [*registry.BUILT_IN["items"]]


# Names of other packages


def test_installed_packages_add_names_that_are_listed_and_proposed_without_an_import(install: Install) -> None:
    install("other", {"items": {"mine": "other_parts:Mine"}}, "raise SystemExit('imported')")
    assert registry.names("items")[-1] == "mine" and registry.is_outside("items", "mine")
    assert registry.plugins("items")["mine"] == ("other_parts:Mine", "other", "1.0")
    variants = {"id": {}, "own": {"items": "mnie"}}
    with pytest.raises(ConfigError, match="variants.own.items is 'mnie'; did you mean 'mine'"):
        read_config({"dataset": "x", "variants": variants})
    assert "other_parts" not in sys.modules


@pytest.mark.parametrize("group", registry.OPEN)
def test_a_name_that_two_packages_bring_is_an_error_that_names_both(install: Install, group: str) -> None:
    install("first", {group: {"mine": "first_parts:Mine"}})
    install("second", {group: {"mine": "second_parts:Mine"}})
    with pytest.raises(ConfigError, match=r"(first and second|second and first) both define the .* 'mine'; uninstall"):
        registry.names(group)


@pytest.mark.parametrize("group", [group for group in registry.OPEN if registry.BUILT_IN[group]])
def test_a_name_of_ours_that_a_package_claims_is_an_error_that_names_it(install: Install, group: str) -> None:
    name = next(iter(registry.BUILT_IN[group]))
    install("greedy", {group: {name: "greedy_parts:Mine"}})
    with pytest.raises(ConfigError, match=f"packages blair-rec and greedy both define the .* '{name}'; uninstall one"):
        registry.names(group)
    assert registry.load(group, name).__module__ != "greedy_parts"


def test_a_package_that_is_found_twice_counts_once(install: Install, tmp_path: Path) -> None:
    site = install("other", {"items": {"mine": "other_parts:Mine"}})
    install("Other", {"items": {"mine": "other_parts:Mine"}}, version="0.9")
    assert registry.plugins("items")["mine"].package in ("other", "Other")
    assert site.is_dir()


def test_a_package_in_the_working_directory_is_not_installed(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = install("other", {"items": {"mine": "other_parts:Mine"}})
    monkeypatch.chdir(site)
    for place in ("", str(site), "."):
        monkeypatch.syspath_prepend(place)
    registry._plugins.cache_clear()
    assert registry.plugins("items") == {}
    with pytest.raises(ConfigError, match="unknown item side 'mine'; install the package that defines it"):
        registry.load("items", "mine")


BROKEN = [
    ("raise ImportError('no such library')", "items", "can't be imported from other_parts:Mine .ImportError: no such"),
    ("def f(:", "scorers", "can't be imported from other_parts:Mine .SyntaxError"),
    ("x = 1", "transforms", "can't be imported from other_parts:Mine .AttributeError"),
]


@pytest.mark.parametrize("module, group, message", BROKEN)
def test_a_package_that_cant_be_imported_is_told(install: Install, module: str, group: str, message: str) -> None:
    install("other", {group: {"mine": "other_parts:Mine"}}, module)
    with pytest.raises(ConfigError, match=message):
        registry.load(group, "mine")


PARTS = """
import torch
from blair_rec.models.items import ItemSide
from blair_rec.models.transforms import Transform
from blair_rec.ranking.scorers import LastItem, Popularity


class Side(ItemSide):
    def __init__(self, vectors, replaced, width=None):
        super().__init__(vectors, replaced)
        self.keep_frozen(vectors)
        self.width = width or self.embedding_dim

    def rows(self, which=None):
        return self.some_of(self.table, which)[:, : self.width]


class Rowless(ItemSide):
    pass


class Fitless(Transform):
    pass


class Counts(Popularity):
    def __init__(self, n_items, item_seq, item_seq_len, events=1):
        super().__init__(n_items, item_seq, item_seq_len)


class Near(LastItem):
    pass


class Halves(Transform):
    def __init__(self, share=2):
        super().__init__()
        self.share = share

    def apply(self, vectors):
        return vectors[:: self.share]

    def fit(self, vectors):
        pass


def whole(own, others, margin):
    return own - margin
"""
POINTS = {
    "items": {"side": "other_parts:Side", "wrong_side": "other_parts:Near", "rowless": "other_parts:Rowless"},
    "scorers": {"counts": "other_parts:Counts", "near": "other_parts:Near", "wrong": "other_parts:whole"},
    "transforms": {"halves": "other_parts:Halves", "wrong_step": "other_parts:Side", "fitless": "other_parts:Fitless"},
    "losses": {"whole": "other_parts:whole"},
}


@pytest.fixture
def parts(install: Install) -> Path:
    """A package with parts that don't do what they should."""
    return install("other", POINTS, PARTS)


def side(**variant: Any) -> Any:
    """The item side of a variant over a small catalogue."""
    return build_items(VariantConfig(**variant), text_vectors(), replaced_embedding(), seed=0)


def scorer(**setup: Any) -> Any:
    """The scorer of a set-up over no data."""
    fields = {"ITEM_ID_FIELD": "item_id", "LIST_SUFFIX": "_list", "ITEM_LIST_LENGTH_FIELD": "item_length"}
    recbole = {**fields, "device": "cpu"}
    return build_baseline({"transforms": [], "control": None, "seed": 1, "text": None, **setup}, recbole, 5, None)


def test_what_is_of_another_kind_takes_no_such_options_or_has_the_wrong_shape_is_told(parts: Path) -> None:
    expected = "the item side wrong_side is not a subclass of blair_rec.models.items.base.ItemSide; make it one"
    with pytest.raises(ConfigError, match=expected):
        side(items="wrong_side")
    with pytest.raises(
        ConfigError, match="the item side side can't be called with 2 values of ours and the options {'wdth': 3}"
    ):
        side(items="side", options={"wdth": 3})
    with pytest.raises(
        ConfigError,
        match=r"the item side side has a table of \[31, 3\], but the embedding that it replaces has \[31, 6",
    ):
        side(items="side", options={"width": 3})
    assert side(items="side", options={"width": 6}).weight.shape == (31, 6)
    with pytest.raises(
        ConfigError, match=r"the scorer wrong is not a subclass of blair_rec\.ranking\.scorers\.base\.Baseline"
    ):
        scorer(scorer="wrong")
    with pytest.raises(
        ConfigError, match="the scorer counts can't be called with 3 values of ours and the options {'evens': 1}"
    ):
        scorer(scorer="counts", options={"evens": 1})
    assert scorer(scorer="counts", options={"events": 1}).n_items == 5
    with pytest.raises(
        ConfigError, match="the scorer near uses item text, but its variant has neither text nor transforms; add"
    ):
        scorer(scorer="near")
    with pytest.raises(ConfigError, match="the scorer counts uses no text, so transforms, control and text have no"):
        scorer(scorer="counts", text={"fields": ["title"]})
    with pytest.raises(ConfigError, match="wrong_step is not a subclass of blair_rec.models.transforms.Transform"):
        fit_transforms(text_vectors(), ["wrong_step"])
    with pytest.raises(ConfigError, match=r"transforms: halves: \{'share': 3\} turns \[31, 12\] into \[11, 12\]"):
        fit_transforms(text_vectors(), [{"halves": {"share": 3}}])
    with pytest.raises(
        ConfigError, match="the transform halves can't be called with 0 values of ours and the options {'shar': 1}"
    ):
        fit_transforms(text_vectors(), [{"halves": {"shar": 1}}])
    assert fit_transforms(text_vectors(), [{"halves": 1}])[1].shape == (31, 12)
    with pytest.raises(
        ConfigError, match="the loss whole can't be called with 2 values of ours and no options: missing a requi"
    ):
        sampled_loss(TrainConfig(loss="whole"), 5)
    loss = sampled_loss(TrainConfig(loss="whole", loss_options={"margin": 1}), 5)
    with pytest.raises(
        blair_rec.errors.TrainingError, match=r"the loss whole returns \[4\], not one number; return the mean"
    ):
        loss(torch.zeros(4), torch.zeros(4, 2), torch.zeros(2))


def test_a_part_without_a_method_that_it_needs_is_told(parts: Path) -> None:
    with pytest.raises(ConfigError, match="the item side rowless lacks the method `rows`; docs/extend.md says what"):
        side(items="rowless")
    with pytest.raises(ConfigError, match="the transform fitless lacks the methods `fit` and `apply`"):
        fit_transforms(text_vectors(), ["fitless"])


METHODLESS = """
from blair_rec.ranking.scorers import Baseline, Counted, LastItem, Rules


class Empty(Counted):
    pass


class Uncounted(Counted):
    scores_by_product = False

    def full_sort_predict(self, interaction):
        return interaction


class Unscored(Baseline):
    def user_vectors(self, interaction):
        return interaction


class Productless(Baseline):  # ranking multiplies, because it says that its scores are products
    def full_sort_predict(self, interaction):
        return interaction


class Tableless(Rules):
    pass


class OwnCount(Rules):
    def count(self, sequences):
        pass


class Whole(Uncounted):
    def count(self, sequences):
        pass


class Near(LastItem):
    pass


number = 5
"""
SCORERS = {"Empty": "methods `count`, `user_vectors` and `item_matrix`", "Uncounted": "method `count`"} | {
    "Unscored": "method `item_matrix`",
    "Productless": "methods `user_vectors` and `item_matrix`",
    "Tableless": "method `table`",
}


@pytest.mark.parametrize("name", SCORERS)
def test_a_scorer_that_lacks_a_method_is_told_before_anything_is_trained(
    name: str, install: Install, tiny: Path, tmp_path: Path
) -> None:
    install("other", {"scorers": {"mine": f"methodless:{name}"}}, METHODLESS)
    config = config_of(tiny, "none", variants={"id": {}, "own": {"scorer": "mine"}})
    expected = f"variants.own: the scorer mine lacks the {SCORERS[name]}; docs/extend.md says what"
    with pytest.raises(ConfigError, match=expected):
        compare(config, tmp_path / "out")
    assert [*(tmp_path / "out").glob("runs/*")] == []


@pytest.mark.parametrize("name", ["OwnCount", "Whole", "Near"])
def test_a_scorer_needs_only_the_methods_that_are_called(name: str, install: Install) -> None:
    install("other", {"scorers": {"mine": f"methodless:{name}"}}, METHODLESS)
    text = {"fields": ["title"]} if name == "Near" else None
    assert scorer_kind({"scorer": "mine", "text": text}).__name__ == name


def test_a_loss_or_an_encoder_that_cant_be_called_is_told(install: Install) -> None:
    install("other", {"losses": {"mine": "methodless:number"}, "encoders": {"mine": "methodless:number"}}, METHODLESS)
    expected = "the {} mine is int 5, which can't be called; name a class or a function"
    with pytest.raises(ConfigError, match=expected.format("loss")):
        sampled_loss(TrainConfig(loss="mine"), 5)
    with pytest.raises(ConfigError, match=expected.format("encoder")):
        load_encoder(resolve_encoder("mine"))


def test_what_is_wrong_with_a_part_is_told_before_the_data_is_read(
    parts: Path, tiny: Path, roberta: Path, tmp_path: Path
) -> None:
    variants = {"id": {}, "own": {"items": "side", "options": {"wdth": 3}, "transforms": ["center"]}}
    (tiny / "tiny.inter").write_text("broken", "utf-8")
    with pytest.raises(
        ConfigError, match="variants.own: the item side side can't be called with .* the options {'wdth': 3}"
    ):
        compare(config_of(tiny, roberta, variants=variants), tmp_path / "out")


def test_a_scorer_of_another_package_uses_text_where_its_variant_says_how(parts: Path) -> None:
    assert not VariantConfig(scorer="near").uses_text
    for said in ({"transforms": ["l2"]}, {"control": "shuffle"}, {"text": {"fields": ["title"]}}):
        assert VariantConfig(scorer="near", **said).uses_text


# Code that nobody vouches for

MARK = "import pathlib; pathlib.Path(__file__).with_name('imported').touch()\nclass Side: pass\ndef encode(): pass\n"


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that appears once a module of the working directory is imported."""
    (tmp_path / "trap.py").write_text(MARK, "utf-8")
    (tmp_path / "nest").mkdir()
    (tmp_path / "nest" / "__init__.py").write_text(MARK.replace("__file__", "__file__ + '/..'"), "utf-8")
    (tmp_path / "nest" / "trap.py").write_text(MARK, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "imported"  # type: ignore[misc]
    for name in ("trap", "nest", "nest.trap"):
        sys.modules.pop(name, None)


@pytest.fixture
def finished(tiny: Path, roberta: Path, tmp_path: Path) -> Path:
    """A finished comparison of what is counted."""
    variants = {"a": {"scorer": "popularity"}, "b": {"scorer": "markov"}, "c": {"average": ["a", "b"]}}
    compare(config_of(tiny, roberta, variants=variants, baseline="a", seeds=[1]), tmp_path / "out")
    return tmp_path / "out"


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change a JSON or YAML file as somebody else might have."""
    content = yaml.safe_load(path.read_text("utf-8"))
    change(content)
    if "setup" in content:  # the hash is no secret
        content["hashes"]["config"] = hash_of(content["setup"])
    path.write_text(json.dumps(content), "utf-8")


CODE = ["trap:Side", "nest.trap:Side", "os:system"]


@pytest.mark.parametrize("code", CODE)
@pytest.mark.parametrize("key", ["scorer", "items", "transforms", "named"])
def test_a_run_that_names_code_imports_nothing(finished: Path, trap: Path, code: str, key: str) -> None:
    def change(result: Any) -> None:
        named = {"transforms": [code], "named": [{code: 3}]}
        result["setup"]["transforms" if key == "named" else key] = named.get(key, code)

    edit(finished / "runs" / "a-1" / "result.json", change)
    for use in (blair_rec.load, lambda run: blair_rec.export_vectors(run, finished.parent / "vectors")):
        with pytest.raises(UntrustedCode, match=rf"{code}: this Python code is named by .*trusted=\['{code}'\]"):
            use(finished / "runs" / "a-1")
    assert not trap.exists() and "trap" not in sys.modules and "nest" not in sys.modules


def test_a_run_that_names_what_is_no_name_is_refused(finished: Path) -> None:
    edit(finished / "runs" / "a-1" / "result.json", lambda result: result["setup"].update(scorer="os.system"))
    with pytest.raises(ConfigError, match="no installed package defines the scorer 'os.system'; install the package"):
        blair_rec.load(finished / "runs" / "a-1")


def test_what_is_trusted_is_imported_and_only_within_the_call(finished: Path, trap: Path) -> None:
    edit(finished / "runs" / "a-1" / "result.json", lambda result: result["setup"].update(scorer="trap:Side"))
    with pytest.raises(
        ConfigError, match="the scorer trap:Side is not a subclass of blair_rec.ranking.scorers.base.Baseline"
    ):
        blair_rec.load(finished / "runs" / "a-1", trusted=["trap:Side"])
    assert trap.exists()
    with pytest.raises(UntrustedCode):
        blair_rec.load(finished / "runs" / "a-1")


@pytest.mark.parametrize("code", CODE)
def test_a_folder_whose_config_names_code_imports_nothing(
    finished: Path, trap: Path, code: str, tiny: Path, roberta: Path
) -> None:
    def change(config: Any) -> None:
        config["variants"]["evil"] = {"scorer": code}
        config["variants"]["twice"] = {"average": ["evil", "a"]}

    edit(finished / "config.yaml", change)
    for name in ("evil-1", "twice-1"):  # as if it had run
        (finished / "runs" / name).mkdir()
        for file in (finished / "runs" / "a-1").iterdir():
            (finished / "runs" / name / file.name).write_bytes(file.read_bytes())
        edit(finished / "runs" / name / "result.json", lambda result, name=name: result.update(variant=name[:-2]))
    own = config_of(tiny, roberta, variants={"a": {"scorer": "popularity"}}, baseline="a", seeds=[1])
    plan = plan_all(own, finished)
    assert "evil" not in plan.config.variants
    assert any("leaves out evil: it uses Python code" in warning for warning in plan.warnings)
    with pytest.raises(
        ConfigError, match="config.yaml was written by a comparison and may come from someone else, so the"
    ):
        compare(finished / "config.yaml", finished)
    with pytest.raises(blair_rec.errors.BlairRecError):  # the copied runs are of another config
        blair_rec.leaderboard(finished)
    assert not trap.exists() and "trap" not in sys.modules and "nest" not in sys.modules


def test_a_members_run_may_name_no_code_that_the_config_doesnt(
    finished: Path, trap: Path, tiny: Path, roberta: Path
) -> None:
    edit(finished / "runs" / "a-1" / "result.json", lambda result: result["setup"].update(scorer="trap:Side"))
    with pytest.raises(UntrustedCode):
        blair_rec.load(finished / "runs" / "c-1")
    assert not trap.exists()


@pytest.mark.parametrize("code", CODE)
def test_a_store_that_names_code_imports_nothing(tiny: Path, roberta: Path, trap: Path, code: str) -> None:
    blair_rec.encode(tiny / "tiny.item", "store", fields=["title"], encoder=str(roberta), pooling="cls")
    (header,) = [path for path in Path("store").iterdir() if path.suffix == ".json" and "encoder" in path.read_text()]

    def change(store: Any) -> None:
        store["encoder"].update(name=code, asked_for=code, revision="1 2", pooling="own")

    edit(header, change)
    with pytest.raises(UntrustedCode, match=code):
        blair_rec.TextSearch(blair_rec.open_store("store", verify=False))
    assert not trap.exists() and "trap" not in sys.modules


def test_an_encoder_that_is_named_by_hand_is_imported(tiny: Path, trap: Path) -> None:
    with pytest.raises(ConfigError, match="the encoder trap:encode can't be called with .* the options {'device'"):
        blair_rec.encode(tiny / "tiny.item", "store", fields=["title"], encoder="trap:encode", device="cpu")
    assert trap.exists()


@given(st.text("ab.:_/ 0\n", max_size=8))
def test_code_is_a_module_and_a_name_in_it(text: str) -> None:
    module, colon, name = text.partition(":")
    parts = [*module.split("."), name]
    assert registry.is_code(text) == (bool(colon) and all(part.isidentifier() for part in parts))


# What a run notes of code


def test_a_changed_package_is_told_of_its_own_runs_alone_and_can_be_accepted(
    parts: Path, tiny: Path, roberta: Path, tmp_path: Path
) -> None:
    variants = {"a": {"scorer": "popularity"}, "own": {"scorer": "counts", "options": {"events": 2}}}
    config = config_of(tiny, roberta, variants=variants, baseline="a", seeds=[1])
    before = compare(config, tmp_path / "out")
    module = parts / "other_parts.py"
    module.write_text(module.read_text("utf-8") + "# edited", "utf-8")
    with pytest.raises(ChangedRuns, match=r"1 finished run .*own-1.*: the code of other 1.0\. .*--accept-code"):
        compare(config, tmp_path / "out")
    assert compare(config, tmp_path / "out", accept_code=True) is not None
    assert compare(config, tmp_path / "out") is not None
    assert before is not None and [row.variant for row in before.rows]
    (parts / "other-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: other\nVersion: 1.1\n", "utf-8"
    )
    registry._plugins.cache_clear()
    with pytest.raises(ChangedRuns, match=r"the code of other 1.0; the code of other 1.1"):
        compare(config, tmp_path / "out")


def test_the_hash_follows_the_whole_package_and_nothing_is_imported(tmp_path: Path, monkeypatch: Any) -> None:
    package = tmp_path / "mine"
    (package / "deep").mkdir(parents=True)
    for name in ("__init__.py", "deep/__init__.py", "deep/sides.py", "layers.py"):
        (package / name).write_text("raise SystemExit('imported')", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with registry.trusting(["mine.deep.sides:Side"]):
        before = registry.source_hash("items", "mine.deep.sides:Side")
        assert [*before] == ["mine"] and before == registry.source_hash("items", "mine.deep.sides:Side")
        (package / "layers.py").write_text("", "utf-8")
        assert registry.source_hash("items", "mine.deep.sides:Side") != before
    assert registry.source_hash("items", "text") == {}


def test_a_module_in_folders_alone_is_its_file(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "place" / "deep").mkdir(parents=True)
    (tmp_path / "place" / "deep" / "sides.py").write_text("x = 1", "utf-8")
    (tmp_path / "place" / "other.py").write_text("x = 1", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with registry.trusting(["place.deep.sides:Side"]):
        assert [*registry.source_hash("items", "place.deep.sides:Side")] == ["place.deep.sides"]


@pytest.mark.parametrize("code", ["sys:exit", "no_such_module:Side", "zipimport:x"])
def test_code_without_a_file_is_told(code: str) -> None:
    with registry.trusting([code]), pytest.raises(ConfigError, match=f"the item side {code} has no Python file"):
        registry.source_hash("items", code)


def test_all_code_of_a_config_is_found_and_names_of_packages_are_none(parts: Path) -> None:
    raw = raw_config(Path("x"), "m:Encoder", seeds=[1])
    raw["train"]["loss"] = "m:loss"
    raw["text"]["fallback"] = {"encoder": "m:Fallback"}
    raw["variants"] = {
        "id": {},
        "own": {"items": "m:Side", "transforms": ["l2", "m:Step", {"m.n:Step": 3}]},
        "near": {"scorer": "near", "transforms": ["halves"]},
        "count": {"scorer": "m:Count"},
        "both": {"average": ["id", "count"]},
    }
    config = read_config(raw)
    code = ["Encoder", "Fallback", "Side", "Step", "Count", "loss"]
    assert config.code == {*(f"m:{name}" for name in code), "m.n:Step"}
    assert config.outside("near") == [
        ("transforms", "halves"),
        ("scorers", "near"),
        ("encoders", "m:Encoder"),
        ("encoders", "m:Fallback"),
    ]
    assert config.outside("count") == [("scorers", "m:Count")] and config.outside("both") == []
    assert typing.get_type_hints(registry.Plugin)["target"] is str
