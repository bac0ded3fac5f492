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
import traceback
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import polyarch.architectures
import polyarch.jobs
from polyarch.core.job import Job
from polyarch.core.system import Architecture

__all__ = [
    "NOT_ITS_JOB",
    "UnknownName",
    "architecture",
    "architectures",
    "defined_in",
    "defining_modules",
    "families",
    "gap",
    "job",
    "jobs",
    "matrix",
    "near",
    "offered",
]  # fmt: skip

T = TypeVar("T")


class UnknownName(LookupError):
    """Nothing has this name; says what was meant, perhaps."""


@cache
def architectures() -> dict[str, type[Architecture]]:
    """All architectures by name."""
    jobs()  # what they offer has names too
    return _discover(polyarch.architectures, Architecture)  # type: ignore[type-abstract]


@cache
def jobs() -> dict[str, type[Job]]:
    """All jobs by name."""
    return _discover(polyarch.jobs, Job)  # type: ignore[type-abstract]


def architecture(name: str) -> type[Architecture]:
    """An architecture by its name, or by the path of the file that defines it."""
    return _find(name, "architecture", architectures(), Architecture)  # type: ignore[type-abstract]


def job(name: str) -> type[Job]:
    """A job by its name, or by the path of the file that defines it."""
    return _find(name, "job", jobs(), Job)  # type: ignore[type-abstract]


def offered(architecture: type[Architecture]) -> tuple[type[Job], ...]:
    """The jobs that an architecture offers."""
    jobs()  # their modules give them their names
    return architecture.jobs


def gap(architecture: type[Architecture], job: type[Job]) -> str:
    """Why an architecture does not offer a job; empty if it does."""
    if any(issubclass(its, job) for its in architecture.jobs):
        return ""
    reason = architecture.gaps.get(job.name)
    if reason:
        return reason
    names = ", ".join(its.name for its in offered(architecture))
    return f"{NOT_ITS_JOB} {job.port.__name__} operations; it offers {names}"


NOT_ITS_JOB = "its clients do not have"
"""How the reason of a gap begins that the architecture itself says nothing about."""


def families() -> dict[str, list[str]]:
    """The names of the architectures of each family."""
    found: dict[str, list[str]] = {}
    for name, kind in architectures().items():
        found.setdefault(kind.family, []).append(name)
    return dict(sorted(found.items()))


def matrix() -> dict[str, dict[str, str]]:
    """For each job: for each architecture, the reason why not, or an empty text."""
    return {
        name: {a: gap(kind, wanted) for a, kind in architectures().items()} for name, wanted in jobs().items()
    }


def near(name: str, known: Iterable[str]) -> str:
    """The known name that was meant, perhaps; or nothing."""
    return next(iter(difflib.get_close_matches(name, list(known), 1, 0.6)), "")


def defining_modules(package: ModuleType) -> list[ModuleType]:
    """The modules of a package, and those that other distributions name under its entry point."""
    names = [m.name for m in pkgutil.iter_modules(package.__path__)]
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    for entry in entry_points(group=package.__name__):
        try:
            modules.append(entry.load())
        except Exception as error:  # somebody else's plugin must not take the catalogue down
            sys.stderr.write(f"polyarch: the plugin {entry.name} cannot be loaded: {error}\n")
    return modules


def _discover(package: ModuleType, base: type[T]) -> dict[str, type[T]]:
    found: dict[str, type[T]] = {}
    for module in defining_modules(package):
        for kind in defined_in(module, base):
            found[_name(kind, module)] = kind
    return dict(sorted(found.items()))


def defined_in(module: ModuleType, base: type[T]) -> list[type[T]]:
    """The classes of a kind that a module itself defines."""
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
    if name.endswith(".py") or "/" in name:
        return _load(Path(name), what, base)
    if what == "architecture" and name in jobs():
        offering = [a for a, kind in architectures().items() if not gap(kind, jobs()[name])]
        raise UnknownName(f"{name} is a job; architectures that offer it: {', '.join(offering) or 'none'}")
    if what == "job" and name in architectures():
        names = ", ".join(its.name for its in offered(architectures()[name]))
        raise UnknownName(f"{name} is an architecture; jobs that it offers: {names or 'none'}")
    meant = near(name, known)
    hint = f"did you mean {meant!r}?" if meant else f"there are: {', '.join(known) or 'none'}"
    raise UnknownName(f"there is no {what} {name!r}; {hint}")


def _load(path: Path, what: str, base: type[T]) -> type[T]:
    """The architecture or job that a file of the user's own defines.  Its module is called by the file's
    name, unless something else is: then by its path."""
    if not path.is_file():
        raise UnknownName(f"{str(path)!r} is {'a folder' if path.is_dir() else 'not there'}")
    file = path.resolve()
    name = file.stem
    taken = sys.modules.get(name) or importlib.util.find_spec(name)
    if taken is not None and getattr(taken, "__file__", getattr(taken, "origin", None)) != str(file):
        name = "_".join(["user", *file.with_suffix("").parts[1:]])
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UnknownName(f"{path} is no Python file: its name must end in .py")
    module = sys.modules.get(name)
    if module is None:
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a file may even exit
            del sys.modules[name]
            raise UnknownName(_why(path, file, error)) from error
    kinds = defined_in(module, base)
    if len(kinds) != 1:
        names = f" ({', '.join(kind.__name__ for kind in kinds)})" if kinds else ""
        raise UnknownName(f"{path} defines {len(kinds)} {what}s{names}; exactly one is wanted")
    _name(kinds[0], module)
    return kinds[0]


def _why(path: Path, file: Path, error: BaseException) -> str:
    """``mine.py:12: NameError: name 'Nod' is not defined``"""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    return f"{path}{f':{line}' if line else ''}: {type(error).__name__}: {text}"
