"""``polyarch check`` and ``polyarch replay``: find a schedule that breaks a promise, and show it again."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter as Option
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from polyarch.cli import options, output
from polyarch.cli.options import BadUse, check_file
from polyarch.core.randomness import Random
from polyarch.core.records import Record
from polyarch.experiment import catalogue
from polyarch.experiment.explore import CheckRecord, Tally, check, load
from polyarch.experiment.mischief import RANDOM_FAULTS
from polyarch.experiment.record import save
from polyarch.experiment.schedule import Setting
from polyarch.faults.spec import doable, parse
from polyarch.report.story import Story, diagram, tell, write_page

__all__ = ["check_", "replay_"]

_COLOURS = {
    "contradicts": "bold red", "violation": "bold red", "lost": "red", "fault": "yellow", "healed": "green",
    "several": "dim", "head": "bold", "operation": "cyan", "answer": "cyan",
}  # fmt: skip

Report = Annotated[str | None, Option(help="Write the story as an HTML page to a folder.")]


def check_(
    architecture: options.Arch,
    job: options.JobName | None = None,
    /,
    *,
    seeds: Annotated[int, Option(help="Schedules to try.")] = 1000,
    seed: Annotated[int, Option(help="The first seed.")] = 0,
    duration: Annotated[float, Option(help="Simulated seconds of each.")] = 10.0,
    clients: Annotated[int, Option(help="Clients, each with one operation in flight.")] = 5,
    rate: Annotated[float, Option(help="Operations per second, of all clients together.")] = 10.0,
    fault: options.Faults = (),
    random: Annotated[
        str, Option(help=f"Random faults: all, none, or some of {','.join(RANDOM_FAULTS)}.")
    ] = "all",
    folder: Annotated[str, Option(help="Where a schedule that fails is saved.")] = "failing",
    workers: Annotated[int | None, Option(help="Processes that explore.  [default: all cores]")] = None,
    json: options.Json = None,
    report: Report = None,
    **parameters: options.Parameters,
) -> int:
    """Explore schedules on the simulator until one breaks a promise; then make it small, save it, tell it.

    Each seed decides what clients ask for, when, which faults happen, and how long messages take.  Exit code
    0: nothing was found; 1: a violation.  ``polyarch replay FILE`` shows what was saved again.
    """
    kind = catalogue.architecture(architecture)
    wanted = catalogue.job(job if job is not None else catalogue.offered(kind)[0].name)
    reason = catalogue.gap(kind, wanted)
    if reason:
        raise BadUse(f"{kind.name} does not do the job {wanted.name}: {reason}")
    (values,), job_values = options.values_of(parameters, [kind], wanted)
    small = {name: str(value) for name, value in wanted.small.items()}
    for name, number in (("seeds", seeds), ("clients", clients), ("workers", workers)):
        if number is not None and not 1 <= number <= 10_000_000:
            raise BadUse(f"--{name} takes an integer of at least 1, not {number}")
    for name, amount in (("duration", duration), ("rate", rate)):
        if not 0 < amount < 1e6:
            raise BadUse(f"--{name} takes a number above 0, not {amount:g}")
    if not 0 <= seed < 2**62:
        raise BadUse(f"--seed takes an integer of at least 0, not {seed}")
    check_file("--json", json)
    _check_folder("--folder", folder)
    _check_folder("--report", report)
    made = options.make(kind, values), options.make(wanted, {**small, **job_values})
    setting = Setting(*made, duration=duration, clients=clients, rate=rate, kinds=_kinds(random))
    setting.faults = [
        doable(parse(f, setting.roles, Random(seed)), setting.system, "sim", duration) for f in fault
    ]
    with _progress(seeds, quiet=json == "-") as progress:
        record, _ = check(setting, seeds, first=seed, workers=workers, folder=Path(folder), progress=progress)
    story = None
    if record.violation is not None and record.violation.file is not None:
        story = tell(load(Path(record.violation.file)))
        if report is not None:
            write_page(story, Path(report), record.violation.file)
    if json:
        save(record, json)
    if json != "-":
        _print(record, story, report)
    return 0 if record.violation is None else 1


def replay_(
    file: Annotated[Path, Option(help="What polyarch check has saved.")],
    /,
    *,
    json: options.Json = None,
    report: Report = None,
) -> int:
    """Perform a saved schedule again, tell it, and say whether it is exactly the run that was saved.

    Exit code 1: the promise was broken again; 0: it was not (the code has changed since).
    """
    if not file.is_file():
        raise BadUse(f"{str(file)!r} is {'a folder' if file.is_dir() else 'not there'}")
    check_file("--json", json)
    check_file("--report", report, folder=True)
    example = load(file)
    story = tell(example)
    result = story.result
    if report is not None:
        write_page(story, Path(report), str(file))
    if json:
        save(_Replayed(
            str(file), example.architecture, example.job, story.exact, result.trace_hash, example.trace_hash,
            tuple(f"{v.kind}: {v.detail}" for v in result.violations),
        ), json)  # fmt: skip
    if json != "-":
        _print_story(story)
        console = output.console()
        if story.exact:
            console.print(f"[green]Reproduced exactly[/]: the same trace, {result.trace_hash}.")
        else:
            what = "fails in another way" if result.violations else "does not fail any more"
            console.print(
                f"[yellow]Not the run that was saved[/]: it {what}; "
                f"trace {result.trace_hash}, saved {example.trace_hash}."
            )
        if report is not None:
            console.print(f"report: {Path(report) / 'index.html'}")
    return 1 if result.violations else 0


class _Replayed(Record):
    """What a replay found."""

    file: str
    architecture: str
    job: str
    exact: bool
    trace_hash: str
    saved_trace_hash: str
    violations: tuple[str, ...]
    kind: str = "replay"


def _check_folder(option: str, name: str | None) -> None:
    """It can be written; it is made only when there is something to write."""
    new = name is not None and not Path(name).exists()
    check_file(option, name, folder=True)
    if name is not None and new:
        Path(name).rmdir()


def _kinds(words: str) -> tuple[str, ...]:
    if words == "all":
        return RANDOM_FAULTS
    if words == "none":
        return ()
    kinds = tuple(word.strip() for word in words.split(",") if word.strip())
    for kind in kinds:
        if kind not in RANDOM_FAULTS:
            known = ", ".join(RANDOM_FAULTS)
            raise BadUse(f"--random takes all, none, or some of {known}, separated by commas, not {kind!r}")
    return kinds


def _print(record: CheckRecord, story: Story | None, report: str | None) -> None:
    console = output.console()
    speed = f" ({record.seeds_per_s:g} a second on {record.cores} cores)" if record.seeds_per_s else ""
    tried = (
        f"{record.seeds_tried:,} schedules of {record.duration_s:g} s with {record.clients} clients, "
        f"{record.operations:,} operations{speed}"
    )
    if record.undecided:
        tried += f"; {record.undecided} could not be decided"
    found = record.violation
    if found is None:
        console.print(f"[green]No violation[/] in {tried}.")
        return
    if story is not None:
        _print_story(story)
    console.print(f"[bold red]Violation[/] with seed {found.seed}, after {tried}.")
    console.print(f"{found.kind}: {found.detail}", markup=False)
    console.print(f"{found.events} operations and faults shrank to {found.shrunk_events}.")
    if found.file is not None:
        console.print(f"To see it again: polyarch replay {shlex.quote(found.file)}", markup=False)
    if report is not None:
        console.print(f"report: {Path(report) / 'index.html'}")


def _print_story(story: Story) -> None:
    console = output.console()
    console.print(f"[bold]{story.title}[/]\n")
    for line in story.summary:
        console.print(Text(line, "bold red" if line.startswith(("violated", "  ")) else ""))
    console.print()
    for kind, line in diagram(story, console.width):
        console.print(Text(line, _COLOURS.get(kind, "")), no_wrap=True, crop=console.is_terminal)
    console.print()


@contextlib.contextmanager
def _progress(seeds: int, *, quiet: bool) -> Iterator[Callable[[str, Tally], None]]:
    """A bar where somebody looks.  It is drawn only when something is told: no thread of its own, since the
    workers are forks."""
    err = Console(stderr=True)
    if quiet or not err.is_terminal:
        yield lambda phase, tally: None
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), console=err, transient=True, auto_refresh=False) as bar:
        line: Any = bar.add_task("exploring", total=seeds)

        def tell_(phase: str, tally: Tally) -> None:
            speed = f"{tally.seeds / tally.seconds:.0f} seeds/s" if tally.seconds > 0.5 else ""
            shown = f"{phase} {speed}" if phase == "exploring" else phase
            bar.update(line, completed=min(seeds, tally.seeds), description=shown, refresh=True)

        yield tell_
