"""Checkpoints: weights, and everything needed to resume training exactly; safetensors, never pickle."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from blair_rec.device import random_state, set_random_state
from blair_rec.errors import CheckpointError, OutputError, counted, first_of
from blair_rec.evaluate.runs.recorded import differences
from blair_rec.evaluate.runs.run_files import WEIGHTS_FILE
from blair_rec.files.places import refuse_unwritable
from blair_rec.files.writing import partial_of, replace_file, share
from blair_rec.models.scorer import Scorer

STATE = "training_state"
"""Metadata key of the JSON half of a checkpoint; the tensors in the same file are the other half."""
TRANSFORMS = "transforms/"
"""Prefix of the names of tensors that fitted transforms have found."""
GPU_STATE = "generator/gpu"
"""Prefix of the names of the GPUs' random states; the number of the GPU follows."""
SCHEMA = "1"
"""Version of checkpoints and weights; text, as all metadata of safetensors."""
REFITTED = 1e-3
"""Transforms that are fitted again, on any machine, differ by less than this share of their largest number."""


def weights_metadata(model: str, store_sha256: str | None) -> dict[str, str]:
    """Return the metadata of a file of weights: its version, the class of the model, and the store of its training."""
    return {"schema": SCHEMA, "model": model, "store_sha256": store_sha256 or ""}


def save_weights(model: Scorer, path: Path, store_sha256: str | None) -> None:
    """Save the trained weights as safetensors, under a temporary name first.

    Frozen tables are not saved: they can be made again from their store and the fitted transforms, which are saved.

    Raises:
        OutputError: the disk is full.
    """
    save_tensors(_tensors(model), path, weights_metadata(type(model).__name__, store_sha256))


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a complete safetensors file or none; the same tensors and metadata give the same bytes.

    A tensor with several names, as in FEARec, is written under each of them.

    Raises:
        OutputError: the disk is full, or the folder can't be written.
    """
    partial = partial_of(path)
    refuse_unwritable(path.parent)
    try:
        save_file(_apart(tensors), partial, metadata=metadata)
        _sort_metadata(partial)
        share(partial)
        replace_file(partial, path)
    except SafetensorError as error:
        raise OutputError(
            f"{path.parent} can't be written ({error}); free some space, then run the same command again"
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def make_folder(key: str, folder: Path) -> None:
    """Create the folder that a setting names.

    Raises:
        OutputError: the folder can't be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{key} is {str(folder)!r}, which can't be a folder ({reason}); name another one") from None


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without shared memory, which safetensors refuses to write."""
    apart: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in taken else tensor
        taken.add(place)
    return apart


def _sort_metadata(path: Path) -> None:
    """Sort the metadata of a safetensors file, which are in a random order, so that equal runs have equal files."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        assert len(text) <= size, "only the order changes"
        file.seek(8)
        file.write(text.ljust(size))


def load_weights(model: Scorer, path: Path, store_sha256: str | None) -> None:
    """Put saved weights into a model built the same way.

    Raises:
        CheckpointError: no such file, not safetensors, weights of another model, trained on another store, or a
            model whose transforms were fitted differently.
    """
    with _opened(path) as file:
        needed = (file.metadata() or {}).get("store_sha256") or None
    if needed is not None and needed != store_sha256:
        has = f"the store given is {store_sha256}" if store_sha256 else "no store was given"
        raise CheckpointError(
            f"{path} was trained on the text vectors of store {needed}, which a checkpoint doesn't contain, "
            f"but {has}; give that store, or make it again with `blair-rec encode`"
        )
    try:
        model.load_state_dict({name: tensor for name, tensor in load_file(path).items() if _is_weight(name)})
    except RuntimeError as error:
        first, *others = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        more = f" and {counted(len(others), 'more problem')}" * bool(others)
        raise CheckpointError(
            f"{path} holds weights of another model or of other settings ({first[:200]}){more}; give a checkpoint of "
            "this model with these settings"
        ) from None
    saved, transforms = saved_transforms(path), model.fitted_transforms
    if saved and transforms and (other := _differing(saved, transforms.arrays)):
        raise CheckpointError(
            f"{path} was trained on text vectors that were transformed differently from those of this model "
            f"({', '.join(other)}); build the model with blair_rec.load, which takes the transforms from the checkpoint"
        )


def saved_transforms(path: Path) -> dict[str, np.ndarray]:
    """Return what the transforms of a checkpoint's text vectors found when they were fitted; empty without transforms.

    Raises:
        CheckpointError: no such file, or not safetensors.
    """
    with _opened(path) as file:
        names = [name for name in file.keys() if name.startswith(TRANSFORMS)]  # noqa: SIM118  (no mapping)
        return {name.removeprefix(TRANSFORMS): file.get_tensor(name).numpy() for name in names}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        in_run = path.name == WEIGHTS_FILE and path.parent.is_dir()
        raise CheckpointError(f"{path}: no saved weights there" + f"; {_cure(path)}" * in_run)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(f"{path} can't be read as safetensors ({error}); {_cure(path)}") from None


def _cure(path: Path) -> str:
    """Return what to do about a damaged file: the weights of a run are a part of its folder, a checkpoint is alone."""
    if path.name == WEIGHTS_FILE:
        return f"delete the folder {path.parent}, and make it again with the same command"
    if path.suffix != ".safetensors":
        return "give a .safetensors file, as the models of blair_rec write it"
    return f"delete {path}; then the same command begins this training again"


def _tensors(model: Scorer) -> dict[str, Tensor]:
    """Return the weights of a model, and what its transforms have found."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    transforms = model.fitted_transforms
    arrays = transforms.arrays if transforms else {}
    return tensors | {f"{TRANSFORMS}{name}": torch.from_numpy(array.copy()) for name, array in arrays.items()}


def _differing(saved: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names under which two fits differ by more than rounding."""
    return [
        name
        for name in sorted({*saved, *arrays})
        if name not in saved
        or name not in arrays
        or saved[name].shape != arrays[name].shape
        or not np.allclose(saved[name], arrays[name], rtol=0, atol=REFITTED * np.abs(arrays[name]).max(initial=0))
    ]


def save_training(
    path: Path,
    model: Scorer,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    generators: Mapping[str, torch.Generator],
    settings: Mapping[str, Any],
    best: Mapping[str, Tensor] | None = None,
    store_sha256: str | None = None,
) -> None:
    """Save a whole checkpoint in one file, under a temporary name first, so that it is never half-written.

    It holds the model, the best weights so far, the optimiser, `state` and `settings` (what JSON can hold), and the
    random states of Python, NumPy, torch (of the CPU and of every GPU that holds weights) and `generators`.
    load_weights can read the model's weights from it, too.

    Args:
        settings: all settings that the weights depend on; `load_training` refuses others.

    Raises:
        OutputError: the disk is full.
    """
    tensors = _tensors(model)
    tensors |= {f"best/{name}": tensor.detach().cpu().contiguous() for name, tensor in (best or {}).items()}
    moments = optimizer.state_dict()
    for parameter, values in moments["state"].items():
        tensors |= {f"optimizer/{parameter}/{name}": tensor.cpu() for name, tensor in values.items()}
    tensors |= {f"generator/{name}": generator.get_state() for name, generator in generators.items()}
    tensors["generator/torch"] = torch.get_rng_state()
    for number, device in enumerate(_gpus(model)):
        tensors[f"{GPU_STATE}{number}"] = random_state(device)
    kind, keys, *numbers = np.random.get_state(legacy=True)  # noqa: NPY002  (RecBole's samplers draw from it)
    tensors["generator/numpy"] = torch.from_numpy(np.asarray(keys).astype(np.int64))
    everything = {
        **state,
        "settings": _plain(settings),
        "groups": moments["param_groups"],
        "numpy": [kind, *numbers],
        "python": random.getstate(),
    }
    save_tensors(tensors, path, {**weights_metadata(type(model).__name__, store_sha256), STATE: json.dumps(everything)})


def load_training(
    path: Path,
    model: Scorer,
    optimizer: torch.optim.Optimizer,
    generators: Mapping[str, torch.Generator],
    settings: Mapping[str, Any],
    store_sha256: str | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Restore everything that `save_training` saved; return the state and the best weights.

    Training resumes bit for bit on the same kind of device. On another kind, other random numbers are drawn; the same
    happens on a GPU if the checkpoint holds no random state of a GPU.

    Raises:
        CheckpointError: no such file, not a whole checkpoint, of a training with other settings, of another model, or
            trained on another store.
    """
    state = _training_state(path)
    if changed := differences(state.pop("settings"), _plain(settings)):
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise CheckpointError(
            f"{path} is the checkpoint of a training that used different settings ({first_of(changed, 5)}{more}); "
            "restore these settings, or train without this checkpoint"
        )
    load_weights(model, path, store_sha256)
    tensors = load_file(path)
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, parameter, moment = name.split("/")
            moments.setdefault(int(parameter), {})[moment] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": state.pop("groups")})
    for name, generator in generators.items():
        generator.set_state(tensors[f"generator/{name}"])
    torch.set_rng_state(tensors["generator/torch"])
    for number, device in enumerate(_gpus(model)):
        if (gpu_state := tensors.get(f"{GPU_STATE}{number}")) is not None:
            set_random_state(device, gpu_state)
    kind, *numbers = state.pop("numpy")
    np.random.set_state((kind, tensors["generator/numpy"].numpy().astype(np.uint32), *numbers))  # noqa: NPY002
    version, keys, gauss = state.pop("python")
    random.setstate((version, tuple(keys), gauss))
    return state, {name.removeprefix("best/"): tensor for name, tensor in tensors.items() if name.startswith("best/")}


def settings_of(path: Path) -> Mapping[str, Any]:
    """Return the settings of the training that a checkpoint belongs to.

    Raises:
        CheckpointError: not a whole checkpoint.
    """
    settings: Mapping[str, Any] = _training_state(path)["settings"]
    return settings


def _training_state(path: Path) -> dict[str, Any]:
    with _opened(path) as file:
        state = json.loads((file.metadata() or {}).get(STATE, "null"))
    if state is None:
        raise CheckpointError(f"{path} holds only weights, not the training state to resume from; {_cure(path)}")
    if "settings" not in state:
        raise CheckpointError(f"{path} is of an earlier version, which did not record the settings; {_cure(path)}")
    found: dict[str, Any] = state
    return found


def _plain(settings: Mapping[str, Any]) -> Any:
    """Return settings as JSON gives them back, so that they can be compared with those of a checkpoint."""
    return json.loads(json.dumps(settings, default=str))


def _gpus(model: Scorer) -> list[torch.device]:
    """Return the GPUs that hold tensors of the model."""
    found = {tensor.device for tensor in model.state_dict().values() if tensor.device.type == "cuda"}
    return sorted(found, key=str)


def _is_weight(name: str) -> bool:
    return not name.startswith(("best/", "optimizer/", "generator/", TRANSFORMS))
