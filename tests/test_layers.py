"""Imports point downwards only (design, section 3).  The table is the rule; a test names the line that
breaks it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "polyarch"

MAY_IMPORT = {
    # L0: what a node author sees
    "core": ["core"],
    # L1: mechanisms and jobs; a job's model may be a checker, which knows nothing but values
    "checkers": ["core", "checkers"],
    "blocks": ["core", "blocks", "jobs"],
    "jobs": ["core", "blocks", "jobs", "checkers"],
    # L2: an architecture only declares the components that it wants; it may stand on another one (a feature
    # of an overlay: multicast, encryption)
    "architectures": ["core", "blocks", "jobs", "components.declared", "architectures"],
    "components": ["core", "blocks", "components", "runtimes.local.guardian"],
    "measure": ["measure"],
    "faults": ["core", "faults", "runtimes.base"],
    "runtimes": ["core", "runtimes.base", "runtimes.sim.session", "runtimes.local.session"],
    "runtimes.sim": ["core", "runtimes.base", "runtimes.sim"],
    "runtimes.local": ["core", "runtimes.base", "runtimes.local", "components.base", "measure"],
    # L3: the one path from a question to a result
    "experiment": [
        "core",
        "jobs",
        "architectures",
        "checkers",
        "faults",
        "measure",
        "runtimes",
        "experiment",
        "laws",
    ],
    "laws": [
        "core",
        "blocks",
        "jobs",
        "architectures",
        "checkers",
        "measure",
        "runtimes",
        "experiment",
        "laws",
    ],
    # L4
    "report": ["core", "faults", "measure", "experiment", "report"],
    "web": ["core", "measure", "experiment", "report", "web"],
    "cli": ["core", "faults", "runtimes", "experiment", "report", "web", "cli"],
}
"""Package (the longest name that fits counts): what it may import, with everything below it."""


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def rule_of(module: str) -> list[str]:
    packages = [package for package in MAY_IMPORT if is_within(module, package)]
    assert packages, f"{module} is in no package of MAY_IMPORT: add its package to the table"
    return MAY_IMPORT[max(packages, key=len)]


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of everything of ours that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: say the whole name of what is imported"
            names = [node.module or ""]
            if node.module == "polyarch":
                names = [f"polyarch.{alias.name}" for alias in node.names]
            elif is_package(node.module or ""):
                # Either a name that the package offers, or one of its modules.
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if is_module(name) else node.module or "" for name in inner]
        else:
            continue
        for name in names:
            if is_within(name, "polyarch"):
                yield node.lineno, name.removeprefix("polyarch").removeprefix(".")


def is_package(name: str) -> bool:
    return (SOURCE.parent / name.replace(".", "/") / "__init__.py").exists()


def is_module(name: str) -> bool:
    return (SOURCE.parent / (name.replace(".", "/") + ".py")).exists() or is_package(name)


def wrong_imports(module: str, path: Path) -> list[str]:
    allowed = rule_of(module)
    return [
        f"{path}:{line}: {module} imports {name}; it may import: {', '.join(allowed)}"
        for line, name in imports_of(path)
        if not any(is_within(name, package) for package in allowed)
    ]


def test_imports_point_downwards() -> None:
    wrong = [line for module, path in modules() if module for line in wrong_imports(module, path)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("core.node", "from polyarch.runtimes.base import Rule"),
        ("blocks.ring", "from polyarch.runtimes.sim.kernel import Kernel"),
        ("jobs.kv", "import polyarch.architectures.raft"),
        ("architectures.raft", "from polyarch.components.postgresql import PostgreSQL"),
        ("architectures.raft", "def f():\n    from polyarch import runtimes"),
        ("runtimes.sim.kernel", "from polyarch.runtimes.local import process"),
        ("experiment.run", "from polyarch.cli.main import main"),
    ],
)
def test_an_import_that_points_upwards_is_found(tmp_path: Path, module: str, line: str) -> None:
    file = tmp_path / "file.py"
    file.write_text(line)
    (found,) = wrong_imports(module, file)
    assert f"{module} imports " in found


def test_the_simulator_needs_nothing_of_a_live_system() -> None:
    live = {"asyncpg", "nats", "psutil", "uvloop", "httptools", "numpy", "asyncio"}
    program = (
        "import sys, polyarch.runtimes.sim.session, polyarch.architectures.chord\n"
        f"print(*{live} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
