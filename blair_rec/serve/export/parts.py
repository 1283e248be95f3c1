"""Write one scorer of a run: its files in an exported folder, and its settings in config.json."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from blair_rec import registry
from blair_rec.errors import ConfigError
from blair_rec.experiment.loading import Loaded
from blair_rec.models.items import ItemSide
from blair_rec.models.similarity import Similarity
from blair_rec.models.text_models import item_side
from blair_rec.ranking.scorers import Baseline, LastItem, Popularity, Rules
from blair_rec.serve.export.factored import FactoredRules, table_of
from blair_rec.serve.export.graphs import (
    MASKED,
    ItemProjection,
    NeighbourEncoder,
    RulesEncoder,
    encoder_of,
    reads_any_length,
    write_text_projection,
    write_user_encoder,
)
from blair_rec.serve.export.licence import encoder_licence, public_name
from blair_rec.text.store.embeddings import as_float32
from blair_rec.text.unit import unit_rows

CHECKED, TOLERANCE = 7, 1e-4
"""Text vectors that are projected both by torch and by ONNX; the largest difference allowed, in standard deviations."""
LINKS, AT_BUILDING = 32, 200
"""Settings of faiss's HNSW graph: links of an item, and candidates compared with each new item."""


def write_part(part: Loaded, name: str, folder: Path, window: int, index: str | None) -> dict[str, Any]:
    """Write the files of a model or a baseline; return its settings for config.json. `window` is the whole export's.

    Raises:
        ConfigError: it can't be exported (and why).
    """
    model = part.model
    if isinstance(model, Baseline) and not isinstance(model, (LastItem, FactoredRules)):
        return {**_counted(model, name, folder, window), "takes_new_items": False, "least_length": 1, **_text(part)}
    if isinstance(model, LastItem):
        said = _neighbours(model, part, folder)
    elif isinstance(model, FactoredRules):
        said = {**_factored(model, folder, window), **_text(part)}
    elif isinstance(model, Similarity):
        said = _trained(model, part, name, folder, window)
    else:
        raise ConfigError(
            f"{name} can't be exported: {type(model).__name__} is not a trained model, a training-free scorer or an "
            "average of these"
        )
    if index is not None:
        _write_index(np.load(folder / "items.npy", allow_pickle=False), said["cosine"], folder / "index.faiss")
    return said


def _kind_of(side: Any) -> str:
    """The name of an item side in a comparison; the name of its class if it is not in the registry."""
    if not isinstance(side, ItemSide):
        return "id"
    known = (kind for kind in registry.names("items") if kind != "id")
    return next((kind for kind in known if registry.load("items", kind) is type(side)), type(side).__name__)


def _trained(model: Any, part: Loaded, name: str, folder: Path, window: int) -> dict[str, Any]:
    encoder = encoder_of(model, name)
    weight = item_side(model).weight.detach().float().cpu().numpy()
    vectors = weight[1 : len(part.item_tokens)]
    least = 1 if reads_any_length(model) else window
    write_user_encoder(encoder, vectors.shape[1], None if least == 1 else window, folder / "user_encoder.onnx")
    np.save(folder / "items.npy", vectors, allow_pickle=False)
    base, side = model.recbole_base.__name__, item_side(model)
    if base == MASKED:
        np.save(folder / "item_bias.npy", model.output_bias.detach().float().cpu().numpy()[1:], allow_pickle=False)
    cold = side if isinstance(side, ItemSide) and side.cold is None and side.extra is None else None
    said = {
        "kind": "encoder",
        "model": base,
        "items": _kind_of(side),
        "cosine": model.blair_temperature is not None,
        "temperature": model.blair_temperature,
        "item_bias": base == MASKED,
        "width": vectors.shape[1],
        "takes_new_items": cold is not None,
        "least_length": least,
        **_text(part),
    }
    if cold is not None:
        _projection(ItemProjection(cold, cold.transforms), part, folder)
    return said


def _neighbours(model: LastItem, part: Loaded, folder: Path) -> dict[str, Any]:
    vectors = model.item_matrix()[1:].float().cpu().numpy()
    write_user_encoder(NeighbourEncoder(model), vectors.shape[1], None, folder / "user_encoder.onnx")
    np.save(folder / "items.npy", vectors, allow_pickle=False)
    assert model.fitted_transforms is not None  # neighbours always have some, if only none at all
    _projection(ItemProjection(model, model.fitted_transforms), part, folder)
    return {
        "kind": "encoder",
        "model": type(model).__name__,
        "items": "text vectors",
        "cosine": False,
        "item_bias": False,
        "width": vectors.shape[1],
        "takes_new_items": True,
        "least_length": 1,
        **_text(part),
    }


def _text(part: Loaded) -> dict[str, Any]:
    """The facts about a part's text vectors, without paths of this machine; empty if the part uses no text."""
    if part.store is None:
        return {}
    encoder, fitted = dict(part.store.encoder), part.model.fitted_transforms
    licence = encoder_licence(encoder)
    asked = str(encoder.get("asked_for", ""))
    return {
        "text_dim": part.store.text_dim,
        "transforms": [line["step"] for line in fitted.report] if fitted else [],
        "encoder": {**encoder, "asked_for": public_name(asked), "licence": licence},
        "template": dict(part.store.template),
        "store_sha256": part.store.store_sha256,
    }


def _projection(projection: ItemProjection, part: Loaded, folder: Path) -> None:
    """Write the file that makes new items' vectors.

    Raises:
        ConfigError: it makes other vectors than the model does.
    """
    store = part.store
    assert store is not None  # a part that knows text was loaded with it
    write_text_projection(projection, store.text_dim, folder / "text_projection.onnx")
    given = as_float32(store.vectors[:CHECKED], store.dtype)
    model: Any = copy.deepcopy(part.model)
    model.append_items(given)
    from onnxruntime import InferenceSession  # not installed with the package itself

    table = model.item_matrix() if isinstance(model, LastItem) else item_side(model).weight
    expected = table[-len(given) :].detach().float().cpu().numpy()
    session = InferenceSession(folder / "text_projection.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {"store_vectors": given})[0]
    if not np.abs(found - expected).max() <= TOLERANCE * expected.std():
        raise ConfigError(
            f"{folder.name} can't be exported: new items would get other vectors than in the model itself"
        )


def _counted(model: Baseline, name: str, folder: Path, window: int) -> dict[str, Any]:
    """Write rules between items as a CSR matrix, and the scores that are added for every history."""
    size = model.n_items - 1
    if isinstance(model, Rules):
        table = csr_array(table_of(model)[1:, 1:])
        added = model.share.cpu().numpy()[1:] * np.float32(model.POPULARITY)
        reach = model.LAST_ITEMS or window
    elif isinstance(model, Popularity):
        table, added, reach = csr_array((size, size), dtype=np.float32), model.counts.cpu().numpy()[1:], 1
    else:
        raise ConfigError(f"{name} can't be exported: this version does not know how to write {type(model).__name__}")
    np.savez(
        folder / "counts.npz",
        data=table.data,
        indices=table.indices,
        indptr=table.indptr,
        shape=np.array(table.shape),
        popularity=added,
    )
    return {"kind": "counted", "model": type(model).__name__, "items": None, "reach": reach, "rules": int(table.nnz)}


def _factored(model: FactoredRules, folder: Path, window: int) -> dict[str, Any]:
    """Write rules as vectors: the ones that are summed over a history, and the ones that the sum is multiplied with."""
    sources, targets = (part[1:].cpu().numpy() for part in (model.sources, model.targets))
    reach = model.rules.LAST_ITEMS or window
    write_user_encoder(RulesEncoder(reach), sources.shape[1], None, folder / "user_encoder.onnx")
    np.save(folder / "sources.npy", sources, allow_pickle=False)
    np.save(folder / "items.npy", targets, allow_pickle=False)
    return {
        "kind": "encoder",
        "model": type(model.rules).__name__,
        "items": f"rules as vectors of rank {sources.shape[1]}",
        "rank": sources.shape[1],
        "cosine": False,
        "item_bias": False,
        "width": targets.shape[1],
        "reach": reach,
        "takes_new_items": False,
        "least_length": 1,
    }


def _write_index(vectors: np.ndarray, cosine: bool, path: Path) -> None:
    """Write an HNSW graph over the items' vectors, for search by inner product."""
    import faiss

    keys = unit_rows(vectors) if cosine else vectors
    index = faiss.IndexHNSWFlat(keys.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = AT_BUILDING
    index.add(np.ascontiguousarray(keys, dtype=np.float32))
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:  # faiss has one kind of error for all
        raise OSError(f"{path.name}: {error}") from error
