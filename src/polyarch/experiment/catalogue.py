"""The catalogue: every job and architecture that can be found, and which goes with which.

They are discovered, never listed: a module in ``polyarch.architectures`` or ``polyarch.jobs`` is in the
catalogue, and so is one that another distribution names under the entry points of the same names, or a
file of the user's own, given by its path.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import polyarch.architectures
import polyarch.jobs
from polyarch.core.job import Job
from polyarch.core.system import Architecture

__all__ = ["UnknownName", "architecture", "architectures", "gap", "job", "jobs", "matrix", "suggestion"]

T = TypeVar("T")


class UnknownName(LookupError):
    """Nothing has this name; says what was meant, perhaps."""


@cache
def architectures() -> dict[str, type[Architecture]]:
    """All architectures by name."""
    jobs()  # what they offer has names too
    return _discover(polyarch.architectures, Architecture)


@cache
def jobs() -> dict[str, type[Job]]:
    """All jobs by name."""
    return _discover(polyarch.jobs, Job)


def architecture(name: str) -> type[Architecture]:
    """An architecture by its name, or by the path of the file that defines it."""
    return _find(name, "architecture", architectures(), Architecture)


def job(name: str) -> type[Job]:
    """A job by its name, or by the path of the file that defines it."""
    return _find(name, "job", jobs(), Job)


def gap(architecture: type[Architecture], job: type[Job]) -> str:
    """Why an architecture does not offer a job; empty if it does."""
    if any(issubclass(offered, job) for offered in architecture.jobs):
        return ""
    reason = architecture.gaps.get(job.name)
    if reason:
        return reason
    offered = ", ".join(j.name for j in architecture.jobs)
    return f"offers {offered}: its clients have no {job.port.__name__} operations"


def matrix() -> dict[str, dict[str, str]]:
    """For each job: for each architecture, the reason why not, or an empty text."""
    return {
        name: {a: gap(kind, wanted) for a, kind in architectures().items()} for name, wanted in jobs().items()
    }


def suggestion(name: str, known: Any) -> str:
    """``; did you mean 'raft'?``, or what there is."""
    near = difflib.get_close_matches(name, list(known), 1, 0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known) or 'none'}"


def _discover(package: ModuleType, base: type[T]) -> dict[str, type[T]]:
    modules = [
        importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)
    ]
    for entry in entry_points(group=package.__name__):
        try:
            modules.append(entry.load())
        except Exception as error:  # somebody else's plugin must not take the catalogue down
            sys.stderr.write(f"polyarch: the plugin {entry.name} cannot be loaded: {error}\n")
    found: dict[str, type[T]] = {}
    for module in modules:
        for kind in _defined(module, base):
            found[_name(kind, module)] = kind
    return dict(sorted(found.items()))


def _defined(module: ModuleType, base: type[T]) -> list[type[T]]:
    return [
        kind
        for kind in vars(module).values()
        if inspect.isclass(kind)
        and issubclass(kind, base)
        and not inspect.isabstract(kind)
        and kind.__module__ == module.__name__
    ]


def _name(kind: Any, module: ModuleType) -> str:
    if not kind.__dict__.get("name"):
        kind.name = module.__name__.rpartition(".")[2]
    return str(kind.name)


def _find(name: str, what: str, known: dict[str, type[T]], base: type[T]) -> type[T]:
    if name in known:
        return known[name]
    path = Path(name)
    if path.suffix == ".py":
        return _load(path, what, base)
    raise UnknownName(f"there is no {what} {name!r}; {suggestion(name, known)}")


def _load(path: Path, what: str, base: type[T]) -> type[T]:
    if not path.is_file():
        raise UnknownName(f"there is no file {str(path)!r}")
    spec = importlib.util.spec_from_file_location(path.stem, path.absolute())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UnknownName(f"{path}: {type(error).__name__}: {error}") from error
    kinds = _defined(module, base)
    if len(kinds) != 1:
        raise UnknownName(f"{path} defines {len(kinds)} {what}s; exactly one is wanted")
    _name(kinds[0], module)
    return kinds[0]
