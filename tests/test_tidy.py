"""Style as a test: each rule names what to use instead (a habit of TigerBeetle's ``tidy.zig``)."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "polyarch"

INSTEAD = {
    "time": "self.now, self.sleep(…), self.after(…): a node's own clock",
    "datetime": "self.now: a node's own clock",
    "random": "self.random: a node's own seeded stream",
    "secrets": "self.random: a node's own seeded stream",
    "uuid": "self.random.bits64(): a node's own seeded stream",
    "asyncio": "await messages, self.sleep(…), gather, first, self.future()",
    "threading": "self.spawn(…)",
    "subprocess": "a component (polyarch.components)",
    "socket": "messages: @rpc, @oneway, and Http",
    "os": "self.disk, and parameters of the architecture",
}
"""What the author of a node must not import, and what is there for it."""

EXCEPTIONS = {
    "blocks/online_retail.py": {"datetime"},  # reads the dates in a file; it asks no clock
}

LONGEST = {"architectures": 400, "": 600}
"""Lines that a file may have, by package: it is read in one sitting."""

LONGER = {"architectures/raft.py": 450}
"""Files that are longer for now: make this list shorter, never longer."""


def files(*packages: str) -> list[Path]:
    found = [path for package in packages for path in sorted((SOURCE / package).rglob("*.py"))]
    assert found, packages
    return found


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, (node.module or "").partition(".")[0]


def called(tree: ast.Module) -> Iterator[tuple[int, str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            yield node.lineno, name, node


def forbidden_imports(path: Path, text: str) -> list[str]:
    allowed = EXCEPTIONS.get(path.relative_to(SOURCE).as_posix(), set())
    return [
        f"{path}:{line}: no {name} in a node's file; use {INSTEAD[name]}"
        for line, name in imported(ast.parse(text))
        if name in INSTEAD and name not in allowed
    ]


def iterated_sets(path: Path, text: str) -> list[str]:
    """Loops over sets, whose order depends on PYTHONHASHSEED or on addresses."""
    tree = ast.parse(text)
    sets = set()
    for node in ast.walk(tree):
        target, kind = None, None
        if isinstance(node, ast.AnnAssign):
            target, kind = node.target, node.annotation
        elif isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, kind = node.targets[0], node.value
        elif isinstance(node, ast.arg) and node.annotation is not None:
            target, kind = ast.Name(node.arg), node.annotation
        if target is not None and kind is not None and _makes_a_set(kind, sets):
            sets.add(ast.unparse(target))
    loops = [node for node in ast.walk(tree) if isinstance(node, (ast.For, ast.comprehension))]
    return [
        f"{path}:{loop.iter.lineno}: a loop over a set has no fixed order; use sorted(…), or a dict"
        for loop in loops
        if _makes_a_set(loop.iter, sets)
    ]


def _makes_a_set(node: ast.expr, known: set[str]) -> bool:
    if isinstance(node, (ast.Set, ast.SetComp)) or ast.unparse(node) in known:
        return True
    name = ast.unparse(node.func if isinstance(node, ast.Call) else node).partition("[")[0]
    return name in ("set", "frozenset")


def test_a_nodes_file_touches_the_world_only_through_what_the_node_was_given() -> None:
    wrong = [
        line
        for path in files("architectures", "jobs", "blocks")
        for line in forbidden_imports(path, path.read_text())
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", INSTEAD)
def test_a_forbidden_import_is_found_wherever_it_is_and_its_replacement_named(name: str) -> None:
    for text in f"import {name}", f"from {name} import x", f"def f():\n    import {name}.x as y":
        (found,) = forbidden_imports(SOURCE / "architectures" / "x.py", text)
        assert INSTEAD[name] in found


def test_the_core_and_the_simulator_read_no_wall_clock_and_no_global_randomness() -> None:
    allowed = {"os"}
    wrong = [
        f"{path}:{line}: no {name} here: time is the kernel's, randomness comes from its seed"
        for path in files("core", "runtimes/sim")
        for line, name in imported(ast.parse(path.read_text()))
        if name in INSTEAD.keys() - allowed
    ]
    wrong += [
        f"{path}:{line}: hash() and id() differ from run to run; use crc32 of what is meant"
        for path in files("runtimes/sim")
        for line, name, _ in called(ast.parse(path.read_text()))
        if name in ("hash", "id")
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_that_a_simulation_runs_loops_over_a_set() -> None:
    wrong = [
        line
        for path in files("core", "runtimes/sim", "architectures", "blocks", "jobs")
        for line in iterated_sets(path, path.read_text())
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "for x in {1, 2}: pass",
        "for x in set(y): pass",
        "[x for x in {y for y in z}]",
        "def f(s: set[str]):\n    for x in s: pass",
        "class A:\n    def f(self):\n        self.s = set()\n        return [x for x in self.s]",
        "s: frozenset[int] = g()\nfor x in s: pass",
    ],
)
def test_a_loop_over_a_set_is_found_and_a_sorted_one_is_not(text: str) -> None:
    assert len(iterated_sets(Path("x.py"), text)) == 1
    assert iterated_sets(Path("x.py"), "s = set()\nfor x in sorted(s): pass\nfor x in {1: 2}: pass") == []


def test_nothing_that_comes_from_outside_is_ever_executed() -> None:
    wrong = []
    for path in files("."):
        tree = ast.parse(path.read_text())
        for line, name in imported(tree):
            if name in ("pickle", "marshal", "shelve", "dill", "cloudpickle"):
                wrong.append(f"{path}:{line}: no {name}; use records and polyarch.core.wire")
        for line, name, call in called(tree):
            builtin = isinstance(call.func, ast.Name)
            # core/messages.py makes stubs and checks from the signatures of methods, once per class.
            ours = path.relative_to(SOURCE).as_posix() == "core/messages.py"
            if builtin and (name == "eval" or (name == "exec" and not ours)):
                wrong.append(f"{path}:{line}: no {name}(…)")
    assert not wrong, "\n".join(wrong)


def test_everything_listens_on_the_loopback_address_only() -> None:
    everywhere = {"0.0.0.0", "localhost"}
    wrong = [
        f"{path}:{node.lineno}: {node.value!r}: listen on 127.0.0.1"
        for path in files("runtimes", "components", "cli", "experiment")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in everywhere
    ]
    for path in files("."):
        for line, name, call in called(ast.parse(path.read_text())):
            if name in ("create_server", "start_server"):
                hosts = [*call.args[1:2], *(k.value for k in call.keywords if k.arg == "host")]
                if not hosts or getattr(hosts[0], "value", "127.0.0.1") in (None, ""):
                    wrong.append(f"{path}:{line}: {name} without a host listens everywhere; say 127.0.0.1")
    assert not wrong, "\n".join(wrong)


def test_every_file_can_be_read_in_one_sitting() -> None:
    wrong = []
    for path in files("."):
        place = path.relative_to(SOURCE)
        most = LONGER.get(place.as_posix()) or LONGEST.get(place.parts[0], LONGEST[""])
        lines = len(path.read_text().splitlines())
        if lines > most:
            wrong.append(f"{path}: {lines} lines; at most {most}: make two files of it, one per idea")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", [p for p in sorted(SOURCE.rglob("*.py")) if p.read_text().strip()], ids=str)
def test_a_module_says_what_it_is_for_and_its_public_names_do_too(path: Path) -> None:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    module = importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    assert module.__doc__, f"{path}: begin with a docstring"
    for name in getattr(module, "__all__", ()):
        thing = getattr(module, name)  # AttributeError: __all__ names what does not exist
        if inspect.isclass(thing) or inspect.isfunction(thing):
            own = thing.__dict__.get("__doc__") if inspect.isclass(thing) else thing.__doc__
            assert own or thing.__module__ != module.__name__, f"{path}: {name} needs a docstring"


def test_a_code_of_failure_means_one_thing() -> None:
    """What comes over a wire is made again by its code: the class that was defined last would be it."""
    given: dict[str, str] = {}
    wrong = []
    for path in files("."):
        for node in ast.walk(ast.parse(path.read_text())):
            for word in node.keywords if isinstance(node, ast.ClassDef) else ():
                if word.arg == "code" and isinstance(word.value, ast.Constant):
                    code = str(word.value.value)
                    if code in given:
                        wrong.append(
                            f"{path}: {node.name} has the code {code!r} of {given[code]}: another word"
                        )
                    given[code] = f"{node.name} in {path}"
    assert not wrong, "\n".join(wrong)
