"""Node.js: a service that is written in another language, as a process of its own."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyarch.components.base import Component, ComponentError, accepts_connections
from polyarch.runtimes.local.guardian import Janitor

__all__ = ["NodeJsServer", "is_installed"]

SCRIPTS = Path(__file__).parent / "scripts"
MISSING = "node is not on the path: install Node.js (https://nodejs.org, or apt-get install nodejs)"


def is_installed() -> bool:
    """Whether there is a Node.js to run scripts with."""
    return shutil.which("node") is not None


class NodeJsServer(Component):
    """A script of the package that serves HTTP."""

    name = "node"
    start_seconds = 20.0

    def __init__(
        self, script: str, config: Mapping[str, Any], *, required: bool = True, port: int | None = None
    ) -> None:
        """``config`` is given to the script, with its ``port``.  ``required`` False: without Node.js there is
        a word on standard error, and no service."""
        super().__init__(port=port)
        self.script = SCRIPTS / script
        self.config = dict(config)
        self.required = required

    async def start(self, janitor: Janitor, folder: Path) -> None:
        if is_installed():
            await super().start(janitor, folder)
        elif self.required:
            raise ComponentError(MISSING)
        else:
            self.janitor, self.folder = janitor, folder
            sys.stderr.write(f"polyarch: {self.script.name} is left out: {MISSING}\n")

    async def healthy(self) -> bool:
        return await accepts_connections(self.port)

    def _command(self) -> list[str | Path]:
        config = self.folder / "config.json"
        config.write_text(json.dumps({**self.config, "port": self.port}))
        program = shutil.which("node")
        if program is None:
            raise ComponentError(MISSING)
        return [program, self.script, config]
