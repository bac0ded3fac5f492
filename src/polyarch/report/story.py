"""What went wrong, told as a story: who asked what, who sent what to whom, what was lost, which answers
contradict each other.

A story is made by performing a saved schedule again and watching it.  Between the moments that matter (an
operation begins or ends, a fault begins or ends, a message is lost) runs of messages that say the same are
told together, so that a long story stays readable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import msgspec

from polyarch.core.job import Done
from polyarch.experiment.explore import Example, replay
from polyarch.experiment.performance import Result
from polyarch.faults.spec import Fault

__all__ = ["Event", "Story", "diagram", "tell", "write_page"]

_LONGEST = 70
"""Events of a story: with more, messages that say the same are told together."""
_LINKS = ("partition", "loss", "delay", "duplicate", "reorder")


@dataclasses.dataclass
class Event:
    """One line of the story.  Times are seconds since the start of the load."""

    time: float
    kind: str
    """``message``, ``operation``, ``answer``, ``fault``, ``healed``, ``several`` or ``violation``."""
    text: str
    source: str = ""
    """The process in whose column it is."""
    target: str = ""
    arrival: float | None = None
    """Of a message: when it arrived; None: never."""
    contradicts: bool = False
    count: int = 1


@dataclasses.dataclass
class Story:
    """The whole of it."""

    title: str
    summary: list[str]
    columns: list[str]
    """The processes that appear, clients first."""
    events: list[Event]
    result: Result
    exact: bool
    """Whether the run was the one that was saved: the same trace, the same violation."""


class _Watcher:
    """Notes every message between processes."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, int, str, str, str, Any, tuple[int, ...]]] = []
        self.homes: dict[str, str] = {}

    def __call__(self, session: Any) -> None:
        kernel = session.kernel
        kernel.observer = self.note
        self.homes = {address: env.process.name for address, env in kernel.directory.items()}

    def note(
        self,
        kind: str,
        time: int,
        sender: str,
        target: str,
        method: Any,
        value: Any,
        arrivals: tuple[int, ...],
    ) -> None:
        self.messages.append((kind, time, sender, target, method.name, value, arrivals))


def tell(example: Example) -> Story:
    """Perform it again, and tell what happened."""
    watcher = _Watcher()
    result = replay(example, watch=watcher)
    same = result.trace_hash == example.trace_hash and result.violations[:1] == [example.violation]
    job = example.schedule.job.make()
    conflict = list(job.conflict(result.history, result.audit)) if result.violations else []
    end = max([v.at for v in result.violations[:1]], default=example.schedule.duration)
    events = sorted(
        [
            *_operations(result.history, conflict),
            *_faults(result.schedule.faults, end),
            *_messages(watcher, result, end),
        ],
        key=lambda e: e.time,
    )
    if result.violations:
        violation = result.violations[0]
        events.append(Event(end, "violation", f"{violation.kind}: violated"))
    if len(events) > _LONGEST:
        events = list(_together(events))
    used = dict.fromkeys(name for e in events for name in (e.source, e.target) if name)
    clients = sorted(n for n in used if n == "client" or n.startswith("client-"))
    columns = clients + [n for n in used if n not in clients]
    columns[len(clients) :] = sorted(columns[len(clients) :], key=_natural)
    title = f"{example.architecture} · {example.job}: {example.violation.kind}"
    return Story(title, _summary(example, result, conflict), columns, events, result, same)


def _natural(name: str) -> tuple[str, int]:
    stem, _, number = name.rpartition("-")
    return (stem, int(number)) if number.isdigit() else (name, 0)


# -- what happened -----------------------------------------------------------------------------------------


def _summary(example: Example, result: Result, conflict: Sequence[Done]) -> list[str]:
    s = example.schedule
    values = {**s.architecture.values, **s.job.values}
    lines = [
        f"{example.architecture} with " + ", ".join(f"{n}={v}" for n, v in values.items()),
        f"seed {example.found_with_seed}; links {s.latency}; a disk's sync takes {s.disk_sync:g} s",
    ]
    lines += [f"fault: {words(fault)}" for fault in result.schedule.faults] or ["no faults"]
    violation = example.violation
    lines.append(f"violated: {violation.kind}: {violation.detail}")
    if conflict:
        lines.append("these contradict each other:")
        lines += [f"  {_line(done)}" for done in sorted(conflict, key=lambda d: d.start)]
    return lines


def words(fault: Fault) -> str:
    """A fault as ``--fault`` takes it, or as it would."""
    when = f"@{fault.start:g}" + ("" if fault.end is None else f"-{fault.end:g}")
    sources, targets = ",".join(fault.sources), ",".join(fault.targets)
    if fault.kind in _LINKS:
        link = f"{sources}{'|' if fault.both_ways else '>'}{targets}"
        amount = "" if fault.kind == "partition" else f"{fault.amount:g}:"
        return f"{fault.kind}:{amount}{link}{when}"
    if fault.kind == "operate":
        return f"operate{when}"
    amount = f":{fault.amount:g}" if fault.kind in ("skew", "drift") else ""
    torn = (
        f" (of what was not synced {fault.amount:.0%} was written)"
        if fault.kind == "crash" and fault.amount
        else ""
    )
    return f"{fault.kind}:{sources}{amount}{when}{torn}"


def _asked(done: Done) -> str:
    return f"{done.name}({', '.join(map(repr, done.arguments))})"


def _answer(done: Done) -> str:
    if done.outcome == "ok":
        return f"= {done.value!r}"
    return f"refused ({done.code})" if done.outcome == "fail" else f"not known ({done.code})"


def _line(done: Done) -> str:
    who = "in the end" if done.client < 0 else f"client {done.client}"
    when = "" if done.client < 0 else f", {done.start:.4f} to {done.end:.4f} s"
    return f"{who}: {_asked(done)} {_answer(done)}{when}"


def _client(number: int) -> str:
    return f"client-{number}" if number else "client"


def _operations(history: Sequence[Done], conflict: Sequence[Done]) -> Iterator[Event]:
    chosen = {(d.client, d.start) for d in conflict}
    for done in history:
        marked = (done.client, done.start) in chosen
        yield Event(done.start, "operation", f"{_asked(done)}?", _client(done.client), contradicts=marked)
        text = f"{_asked(done)} {_answer(done)}"
        if done.code != "running":
            yield Event(done.end, "answer", text, _client(done.client), contradicts=marked)


def _faults(faults: Sequence[Fault], end: float) -> Iterator[Event]:
    for fault in faults:
        where = fault.sources[0] if fault.kind not in _LINKS and len(fault.sources) == 1 else ""
        yield Event(fault.start, "fault", words(fault), where)
        if fault.end is not None and fault.end < end:
            yield Event(fault.end, "healed", f"over: {words(fault)}", where)


def _messages(watcher: _Watcher, result: Result, end: float) -> Iterator[Event]:
    begin = result.begin
    down = [
        (name, fault.start, end if fault.end is None else fault.end)
        for fault in result.schedule.faults
        if fault.kind == "crash"
        for name in fault.sources
    ]
    for kind, at, sender, target, method, value, arrivals in watcher.messages:
        source, goal = watcher.homes[sender], watcher.homes[target]
        time = at * 1e-9 - begin
        if not 0 <= time <= end or "experimenter" in (source, goal):
            continue
        arrival = min(arrivals) * 1e-9 - begin if arrivals else None
        if arrival is not None and any(n == goal and a <= arrival < b for n, a, b in down):
            arrival = None
        text = _said(kind, method, value)
        if len(arrivals) > 1:
            text += "  (twice)"
        yield Event(time, "message", text, source, goal, arrival)


def _said(kind: str, method: str, value: Any) -> str:
    if kind in ("call", "send"):
        return f"{method}({_short(', '.join(map(_plain, value)))})"
    if kind == "failure":
        return f"{method}: {value.code}"
    return f"{method} = {_short(_plain(value))}"


def _plain(value: Any) -> str:
    """A value in few words: records by their fields' values."""
    if isinstance(value, msgspec.Struct):
        fields = ", ".join(_plain(getattr(value, f)) for f in value.__struct_fields__)
        return f"{type(value).__name__}({fields})"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_plain, value))}]"
    return repr(value)


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _together(events: Sequence[Event]) -> Iterator[Event]:
    """Runs of messages between two moments that matter become one line for each kind of message."""
    run: list[Event] = []
    for event in events:
        if event.kind == "message" and event.arrival is not None:
            run.append(event)
            continue
        yield from _run(run)
        run = []
        yield event
    yield from _run(run)


def _run(run: Sequence[Event]) -> Iterator[Event]:
    if len(run) <= 3:
        yield from run
        return
    kinds: dict[str, list[Event]] = {}
    for event in run:
        kinds.setdefault(event.text.partition("(")[0].partition(" =")[0].partition(":")[0], []).append(event)
    for name, same in kinds.items():
        if len(same) == 1:
            yield same[0]
            continue
        among = sorted({e.source for e in same} | {e.target for e in same}, key=_natural)
        text = f"… {name}: {len(same)} messages among {_list(among)}"
        yield Event(same[0].time, "several", text, count=len(same))


def _list(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# -- in the terminal ---------------------------------------------------------------------------------------


def diagram(story: Story, width: int = 140) -> Iterator[tuple[str, str]]:
    """A space-time diagram, line by line, with the kind of each: time goes down, a column a process."""
    if not story.columns:
        return
    columns = story.columns[: max(2, (width - 50) // 6)]
    wide = min(14, max(5, (width - 60) // len(columns)))
    place = {name: wide * i + wide // 2 for i, name in enumerate(columns)}
    size = wide * len(columns)
    # Names that do not fit their column are told apart by their ends.
    yield "head", " " * 10 + "".join(name[-(wide - 1) :].center(wide) for name in columns)
    for event in story.events:
        line = [" "] * size
        for at in place.values():
            line[at] = "│"
        a, b = place.get(event.source), place.get(event.target)
        text = event.text
        if event.kind == "message" and a is not None and b is not None and a != b:
            step = 1 if b > a else -1
            for at in range(a + step, b, step):
                line[at] = "─"
            line[a] = "●"
            if event.arrival is None:
                line[b - step * max(1, abs(b - a) // 3)] = "✗"
                for at in range(b - step * max(1, abs(b - a) // 3) + step, b, step):
                    line[at] = "│" if at in place.values() else " "
                text += "  LOST"
            else:
                line[b] = "▶" if step > 0 else "◀"
        elif a is not None:
            line[a] = {"operation": "○", "answer": "●", "fault": "✗", "healed": "✓"}.get(event.kind, "·")
        elif event.kind in ("fault", "healed", "violation"):
            line = ["═" if c == " " else c for c in line]
        if event.contradicts and event.kind == "answer":
            text += "   ◀══ contradicts"
        kind = "contradicts" if event.contradicts else "lost" if "LOST" in text else event.kind
        yield kind, f"{event.time:9.4f} {''.join(line)}  {text}"


# -- as a page ---------------------------------------------------------------------------------------------

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px; padding: 0 1rem;
       color: #222; background: #fff }
h1 { font-size: 1.4rem } pre { background: #f5f5f5; padding: .8rem; overflow-x: auto }
svg { font: 12px system-ui, sans-serif; max-width: 100% } .bad { color: #b00020; font-weight: 600 }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd } pre { background: #242424 }
  svg text { fill: #ddd } }
"""
_ROW = 22
_COLOURS = {"fault": "#b35900", "healed": "#2e7d32", "violation": "#b00020", "several": "#777"}


def write_page(story: Story, folder: Path, file: str = "") -> Path:
    """The story as one page that needs nothing else: the path to open."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "index.html"
    bad = "bad"
    summary = "\n".join(
        f'<li class="{bad if line.startswith(("violated", "  ")) else ""}">{escape(line.strip())}</li>'
        for line in story.summary
    )
    again = f"<p>To see it again: <code>polyarch replay {escape(file)}</code></p>" if file else ""
    note = "" if story.exact else '<p class="bad">This run is not the one that was saved.</p>'
    page.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(story.title)}</title>'
        f"<style>{_STYLE}</style><h1>{escape(story.title)}</h1>{note}<ul>{summary}</ul>{again}{_svg(story)}"
        "<p>Time goes down, evenly from event to event; a column for each process. "
        "A dashed red arrow: a message that was lost.</p></html>\n",
        encoding="utf-8",
    )
    return page


def _svg(story: Story) -> str:
    """Time goes down, one step for each moment; arrows end where the message arrived."""
    moments = sorted(
        {e.time for e in story.events} | {e.arrival for e in story.events if e.arrival is not None}
    )
    y = {time: 50 + i * _ROW for i, time in enumerate(moments)}
    gap = max(90, min(190, 760 // max(1, len(story.columns))))
    x = {name: 90 + gap // 2 + i * gap for i, name in enumerate(story.columns)}
    right = 90 + gap * len(story.columns)
    height = 80 + len(moments) * _ROW
    out = [f'<svg viewBox="0 0 {right + 460} {height}" width="{right + 460}" role="img">']
    out.append(
        '<defs><marker id="to" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto"><path d="M0 0 8 4 0 8z" fill="#1565c0"/></marker></defs>'
    )
    for name, at in x.items():
        out.append(f'<text x="{at}" y="20" text-anchor="middle" font-weight="600">{escape(name)}</text>')
        out.append(f'<line x1="{at}" y1="30" x2="{at}" y2="{height - 20}" stroke="#bbb"/>')
    taken: dict[float, int] = {}
    for event in story.events:
        top = y[event.time]
        row = taken[event.time] = taken.get(event.time, -1) + 1
        a, b = x.get(event.source), x.get(event.target)
        title = f"<title>{event.time:.6f} s  {escape(event.text)}</title>"
        if event.kind == "message" and a is not None and b is not None:
            if event.arrival is None:
                style, end_x, end_y = (
                    'stroke="#b00020" stroke-dasharray="4 3"',
                    a + (b - a) * 0.7,
                    top + _ROW * 0.7,
                )
                out.append(f'<text x="{end_x}" y="{end_y + 4}" fill="#b00020" text-anchor="middle">✗</text>')
            else:
                style, end_x, end_y = 'stroke="#1565c0" marker-end="url(#to)"', b, y[event.arrival]
            out.append(f'<line x1="{a}" y1="{top}" x2="{end_x}" y2="{end_y}" {style}>{title}</line>')
            out.append(
                _label(right, top, f"{event.source} → {event.target} {event.text}", "", row, event.time)
            )
            continue
        colour = "#b00020" if event.contradicts else _COLOURS.get(event.kind, "")
        if event.kind in ("fault", "healed", "violation"):
            out.append(
                f'<line x1="80" y1="{top}" x2="{right}" y2="{top}" stroke="{colour}" stroke-width="1.5"/>'
            )
        if a is not None:
            fill = colour or "#1565c0"
            out.append(f'<circle cx="{a}" cy="{top}" r="5" fill="{fill}">{title}</circle>')
        text = f"{event.source}: {event.text}" if event.kind in ("operation", "answer") else event.text
        out.append(_label(right, top, text, colour, row, event.time))
    return "".join([*out, "</svg>"])


def _label(x: int, y: float, text: str, colour: str, row: int, time: float) -> str:
    """The words of a line; of several at the same time the first has the time before it."""
    stamp = f'<text x="70" y="{y + 4}" text-anchor="end" fill="#888">{time:.4f}</text>' if row == 0 else ""
    fill = f' fill="{colour}" font-weight="600"' if colour else ""
    return f'{stamp}<text x="{x + 8 + row * 14}" y="{y + 4}"{fill}>{escape(_short(text, 80))}</text>'
