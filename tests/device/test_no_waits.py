"""Faults that show only on a GPU, found in the source: tensors on the wrong device, NumPy, and waiting for a GPU."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "blair_rec"
FACTORIES = {
    "arange",
    "as_tensor",
    "asarray",
    "empty",
    "eye",
    "full",
    "linspace",
    "logspace",
    "ones",
    "rand",
    "randint",
    "randn",
    "randperm",
    "scalar_tensor",
    "tensor",
    "tril_indices",
    "triu_indices",
    "zeros",
}
"""Functions of torch that create a tensor on torch's default device unless they are given one."""
ON_CPU = (
    "data/", "text/search/", "experiment/splits/", "experiment/audit/", "experiment/elsewhere/cases.py",
    "experiment/elsewhere/written/", "prepare/", "evaluate/",
)  # fmt: skip
"""Parts whose tensors are on the CPU alone, except PACKING, which packs histories that are on a GPU."""
PACKING = "data/packing.py"
EXPORT = "serve/export/"
"""Exports a model, in modules that are moved to the CPU. The run that it reads may be on a GPU."""
CPU_ALONE = {
    "experiment/elsewhere/run.py _ranks": "a data set's own tensors",
    "experiment/run.py whole_data": "a data set's own tensors",
    "experiment/members/rerank.py _items": "moved with the second stage",
    "experiment/members/rerank.py _recency": "moved with the second stage",
    "models/dropout.py __call__": "not reached on any other device",
    "models/items/build.py build_side": "moved with the model that is built",
    "models/packed.py _gru4rec": "the sizes of torch's packed sequences",
    "pretrain/batches.py __call__": "a batch before it is moved",
    "ranking/scorers/neighbours.py unit_length": "moved by the caller",
    "ranking/ensemble.py _counts": "scores that _Scored keeps on the CPU",
    "ranking/ensemble.py _score": "a data set's own tensors",
    "ranking/new_items.py _new_ranks": "a data set's own tensors",
    "ranking/scoring.py _windows": "a data set's own tensors",
    "ranking/scorers/without_user.py scores": "a table of scipy; averaged on the CPU",
    "ranking/teacher.py _best": "scores that are averaged on the CPU",
    "serve/batch/recommend.py _of_the_data_set": "a data set's own tensors",
    "serve/recommender.py user_vectors": "collected on the CPU, part by part",
    "serve/topk.py _users": "moved by last_states",
    "text/encoding/encoder.py _ended": "the copies on the CPU, which the GPU has finished",
    "training/checkpoint.py _tensors": "for a file",
    "training/checkpoint.py load_training": "from a file",
    "training/checkpoint.py save_training": "for a file",
    "training/checkpoint.py saved_transforms": "from a file",
    "training/cuda_graph.py shaped": "a batch before it is moved",
    "training/distillation.py __init__": "each batch's part is moved",
    "training/distillation.py load": "from a file",
    "training/distillation.py save": "for a file",
    "training/negatives.py draw": "drawn on the CPU, the same for every device",
    "training/parallel.py _broadcast": "copied into a tensor on the device",
}
"""Places where NumPy reads or makes tensors that are on the CPU for every device, and why they are."""
STEPS = ("models/", "training/epochs.py", "training/loop.py", "training/losses.py", "training/optimizer.py")
"""The code that a training step runs."""
WAITS = {
    "models/similarity.py user_vectors": "ranking: the lengths of a batch's histories, which shape its blocks",
    "training/loop.py rest": "the losses of several steps together",
    "training/optimizer.py _move_rows": "a count on the CPU; only once, after loading a checkpoint, it is on the GPU",
}
"""Places where a step may wait for a GPU, and for what."""


@dataclass(frozen=True)
class Call:
    """A call in the source."""

    where: str
    """Module and function, such as models/packed.py last_states."""
    line: int
    node: ast.Call
    function: str
    followed_by: frozenset[str]
    """Methods that are called on its result, one after another."""

    @property
    def on(self) -> str:
        """The method whose result this one is called on, such as cpu in x.cpu().numpy()."""
        called = self.node.func.value if isinstance(self.node.func, ast.Attribute) else None
        return called.func.attr if isinstance(called, ast.Call) and isinstance(called.func, ast.Attribute) else ""


def calls_in(source: str, name: str) -> Iterator[Call]:
    def walk(node: ast.AST, function: str, chain: frozenset[str]) -> Iterator[Call]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            yield Call(f"{name} {function}".strip(), node.lineno, node, called, chain)
            if isinstance(node.func, ast.Attribute):
                yield from walk(node.func.value, function, chain | {node.func.attr})
                children: list[ast.AST] = [*node.args, *node.keywords]
            else:
                children = list(ast.iter_child_nodes(node))
            given = frozenset({"to"} if called == "moved" else ())  # device.moved moves its argument to the device
            for child in children:
                yield from walk(child, function, given)
            return
        for child in ast.iter_child_nodes(node):
            yield from walk(child, function, frozenset())

    return walk(ast.parse(source), "", frozenset())


def without_a_device(call: Call) -> bool:
    """A tensor is created on torch's default device. Not in `__init__`: those tensors move with their module."""
    torch, _, function = call.function.rpartition(".")
    named = {keyword.arg for keyword in call.node.keywords}
    return torch == "torch" and function in FACTORIES and "device" not in named and not call.where.endswith("__init__")


def stays_on_the_cpu(call: Call) -> bool:
    """A tensor comes from NumPy and isn't moved immediately."""
    return call.function in ("torch.from_numpy", "torch.frombuffer") and not call.followed_by & {"to", "copy_"}


def reads_a_gpu_as_numpy(call: Call) -> bool:
    """A tensor is read as NumPy, which fails on a GPU."""
    return call.function.endswith(".numpy") and not call.node.args and call.on != "cpu"


def loads_where_it_was_saved(call: Call) -> bool:
    """A file is loaded without map_location: if it was written on a GPU, it needs that GPU."""
    return call.function == "torch.load" and all(keyword.arg != "map_location" for keyword in call.node.keywords)


def waits(call: Call) -> bool:
    """The call needs numbers that a GPU may still be computing."""
    return call.function.rpartition(".")[2] in ("item", "tolist", "cpu", "numpy", "synchronize")


def excepted(call: Call, exceptions: dict[str, str]) -> bool:
    return call.where in exceptions or call.where.split()[0] in exceptions


def faults(source: str, name: str) -> list[str]:
    """Return the faults of a module, one line each."""
    found = []
    for call in calls_in(source, name):
        if name.startswith(EXPORT) and not reads_a_gpu_as_numpy(call):
            continue
        wrong = [check for check in (without_a_device, loads_where_it_was_saved) if check(call)]
        if (name == PACKING or not name.startswith(ON_CPU)) and not excepted(call, CPU_ALONE):
            wrong += [check for check in (stays_on_the_cpu, reads_a_gpu_as_numpy) if check(call)]
        if name.startswith(STEPS) and waits(call) and not excepted(call, {**WAITS, **CPU_ALONE}):
            wrong.append(waits)
        found += [f"{call.where}, line {call.line}: {call.function} {check.__name__}" for check in wrong]
    return found


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("def f(x): return x + torch.arange(3)", "without_a_device"),
        ("def f(x): return torch.zeros((), dtype=x.dtype)", "without_a_device"),
        ("def f(a): return torch.from_numpy(a).float()", "stays_on_the_cpu"),
        ("def f(x): return x[torch.from_numpy(a)]", "stays_on_the_cpu"),
        ("def f(x): return x.detach().numpy()", "reads_a_gpu_as_numpy"),
        ("def f(x): return x.cpu().float().numpy()", "reads_a_gpu_as_numpy"),
        ("def f(p): return torch.load(p)", "loads_where_it_was_saved"),
        ("def f(loss): return loss.item()", "waits"),
    ],
)
def test_the_faults_are_seen(source: str, fault: str) -> None:
    assert any(line.endswith(fault) for line in faults(source, "models/any.py"))


def test_an_export_may_create_tensors_on_the_cpu_but_reads_its_run_from_any_device() -> None:
    assert faults("def f(a): return torch.zeros(3) + torch.from_numpy(a)", f"{EXPORT}any.py") == []
    assert faults("def f(model): return model.counts.numpy()", f"{EXPORT}any.py") != []


def test_code_without_faults_passes() -> None:
    right = """
class Side(nn.Module):
    def __init__(self): self.w = nn.Parameter(torch.zeros(3))
    def f(self, x, a):
        y = torch.arange(3, device=x.device) + torch.from_numpy(a).float().to(x)
        return x.new_zeros(3) + torch.zeros_like(y)
"""
    assert faults(right, "models/any.py") == []


def modules() -> list[Path]:
    """All modules except `testing/`, whose contracts are tests on the CPU."""
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE / "testing")


def test_no_tensor_of_the_package_is_on_the_wrong_device_and_no_step_waits() -> None:
    found = [
        line for path in modules() for line in faults(path.read_text("utf-8"), path.relative_to(PACKAGE).as_posix())
    ]
    assert found == [], "name the device, move the tensor immediately, or add the place and the reason to this file"


def test_every_exception_is_still_needed() -> None:
    calls = [
        call for path in modules() for call in calls_in(path.read_text("utf-8"), path.relative_to(PACKAGE).as_posix())
    ]
    checked = {"CPU_ALONE": (CPU_ALONE, (stays_on_the_cpu, reads_a_gpu_as_numpy)), "WAITS": (WAITS, (waits,))}
    for name, (exceptions, checks) in checked.items():
        met = {
            place for call in calls for check in checks if check(call) for place in (call.where, call.where.split()[0])
        }
        assert sorted(set(exceptions) - met) == [], name
