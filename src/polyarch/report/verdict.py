"""Verdicts in words: one sentence for each architecture of a comparison.

A sentence says only what was measured and quotes the figures that it rests on.  Ratios are against the
first architecture of the comparison; what lies within the spread of the rounds is called the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from polyarch.experiment.record import BlastRadius, Comparison, Measure, RunRecord
from polyarch.report.figures import (
    P99,
    SATURATION,
    Figure,
    best,
    equal,
    measured,
    number,
    recovery,
    times,
    write,
)

__all__ = ["sentence", "sentences"]


def sentences(comparison: Comparison) -> tuple[str, ...]:
    """One sentence for each run, in the order of the runs."""
    c = comparison
    return tuple(sentence(run, c.runs, c.blast_radius, c.measures) for run in c.runs)


def sentence(
    run: RunRecord,
    runs: Sequence[RunRecord],
    cards: Sequence[BlastRadius] = (),
    measures: Sequence[Measure] = (),
) -> str:
    """The verdict on ``run`` among ``runs``, whose first is what the others are measured against."""
    parts = [
        *_wrong(run),
        *_measures(run, runs, measures),
        *_speed(run, runs),
        *_unsuccessful(run),
        *_partition(run),
        *_faults([card for card in cards if card.architecture == run.architecture]),
    ]
    return f"{run.architecture}: {'; '.join(parts) or 'nothing was measured'}."


def _wrong(run: RunRecord) -> list[str]:
    """A system that does not do its job comes first: no speed makes up for it."""
    return [
        f"WRONG, it does not hold that {verdict.name}" + (f" ({verdict.detail})" if verdict.detail else "")
        for verdict in run.verdicts
        if verdict.broken
    ]


def _measures(run: RunRecord, runs: Sequence[RunRecord], measures: Sequence[Measure]) -> list[str]:
    """The job's own figures, in its own words."""
    parts = []
    for measure in measures:
        figure = measured(measure)
        if figure.value(run) is None or not any(figure.value(other) for other in runs):
            continue  # not measured, or of nobody: a sentence does not say what did not happen
        best_of_all = {"high": " (the most)", "low": " (the least)", None: ""}[measure.better]
        words = measure.words.format(f"{write(figure, run)}{' %' if measure.unit == '%' else ''}")
        parts.append(words + (best_of_all if _stands_out(figure, run, runs) else ""))
    if not parts:
        return []
    messages = run.cost_per_operation.messages if run.cost_per_operation else None
    if messages is not None:
        parts.append(f"one costs {number(messages)} messages")
    return [", ".join(parts)]


def _speed(run: RunRecord, runs: Sequence[RunRecord]) -> list[str]:
    """Throughput and latency, joined by *but* where one is better and the other worse."""
    throughput, gain = _throughput(run, runs)
    latency, loss = _latency(run, runs, alone=not throughput)
    if not throughput or not latency:
        return [part for part in (throughput, latency) if part]
    return [f"{throughput}{', but' if gain * loss > 0 else ' and'} {latency}"]


def _throughput(run: RunRecord, runs: Sequence[RunRecord]) -> tuple[str, int]:
    """The words, and 1 for more than the first has, -1 for less, 0 where they do not differ."""
    first = runs[0]
    mine, theirs = SATURATION.value(run), SATURATION.value(first)
    if mine is None:
        return "", 0
    notes = ["the highest"] if _stands_out(SATURATION, run, runs) else []
    if run is first or not theirs:
        return ", ".join([f"{write(SATURATION, run)} /s at saturation", *notes]), 0
    figures = "; ".join([f"{write(SATURATION, run)} vs {write(SATURATION, first)} /s", *notes])
    if equal(SATURATION, run, first):
        return f"the same saturation throughput as {first.architecture} ({figures})", 0
    ratio = mine / theirs
    words = f"{times(ratio)} the saturation throughput of {first.architecture} ({figures})"
    return words, 1 if ratio > 1 else -1


def _latency(run: RunRecord, runs: Sequence[RunRecord], *, alone: bool) -> tuple[str, int]:
    """The words, and 1 for a longer p99 than the first's, -1 for a shorter one, 0 where they do not
    differ.  ``alone`` means that no words before these name the first."""
    first = runs[0]
    mine, theirs = P99.value(run), P99.value(first)
    if mine is None:
        return "", 0
    at = f" at {number(run.rate_per_s)} /s" if run.rate_per_s is not None else ""
    same_load = len({other.rate_per_s for other in runs}) == 1
    notes = ["the lowest"] if same_load and _stands_out(P99, run, runs) else []
    # Latency under different loads is not comparable, however tempting the quotient.
    if run is first or not theirs or run.rate_per_s != first.rate_per_s:
        return ", ".join([f"p99 is {write(P99, run)} ms{at}", *notes]), 0
    figures = "; ".join([f"{write(P99, run)} vs {write(P99, first)} ms{at}", *notes])
    if equal(P99, run, first):
        other = f" as that of {first.architecture}" if alone else ""
        return f"p99 is the same{other} ({figures})", 0
    other = f" that of {first.architecture}" if alone else ""
    return f"p99 is {times(mine / theirs)}{other} ({figures})", 1 if mine > theirs else -1


def _stands_out(figure: Figure, run: RunRecord, runs: Sequence[RunRecord]) -> bool:
    """Whether ``run`` is best by this figure and no other run is its equal."""
    winners = best(figure, runs)
    return len(winners) == 1 and runs[min(winners)] is run


def _unsuccessful(run: RunRecord) -> list[str]:
    """Operations that did not succeed, in figures."""
    done = run.operations
    words = []
    if done.failed:
        words.append(f"{number(done.failed)} failed")
    if done.unknown:
        words.append(f"{number(done.unknown)} stayed unknown")
    return [f"of {number(done.attempted)} operations {' and '.join(words)}"] if words else []


def _partition(run: RunRecord) -> list[str]:
    """What each side of a partition got, what both accepted, and what it cost not to be partitioned."""
    metrics = run.metrics
    answered = [
        f"clients with {metrics[side]} got answers to {_each(metrics[f'{side}_answered'], 100, ' %')}"
        for side in ("side_1", "side_2")
        if metrics.get(f"{side}_answered")
    ]
    if not answered:
        return []
    both = metrics.get("keys_written_on_both_sides")
    parts = [f"during the partition {' and '.join(answered)}"]
    if both:
        again = metrics.get("agreed_again_after_s")
        healed = "did not agree again" if again is None else f"agreed again {number(again)} s after it"
        parts.append(f"{number(both)} keys were written on both sides, which {healed}")
    elif both is not None:
        parts.append("no key was written on both sides")
    before = metrics.get("side_2_p50_before_ms")
    if before:
        parts.append(f"without a partition the median was {_each(before, 1, ' ms')}")
    return parts


def _each(figures: Mapping[str, float], factor: float, unit: str) -> str:
    """``get 67 %, put 75 %``"""
    return ", ".join(f"{kind} {number(round(value * factor, 1))}{unit}" for kind, value in figures.items())


def _faults(cards: Sequence[BlastRadius]) -> list[str]:
    """Single points of failure, then what the other kills cost, then those that cost nothing."""
    single = [card for card in cards if card.single_point_of_failure]
    others = [card for card in cards if not card.single_point_of_failure]
    harmless = [card for card in others if card.lost == card.unknown == 0 and card.recovery_s is not None]
    costly = [card for card in others if card not in harmless]
    parts = []
    if single:
        are = "is a single point" if len(_roles(single)) == 1 else "are single points"
        parts.append(f"{_list(_roles(single), 'and')} {are} of failure ({_kills(single)})")
    if costly:
        parts.append(f"killing {_list(_roles(costly), 'or')} {_kills(costly)}")
    if harmless:
        parts.append(f"killing {_list(_roles(harmless), 'or')} lost 0 operations")
    return parts


def _kills(cards: Sequence[BlastRadius]) -> str:
    """``lost 140 to 255 of 1,500 operations and left up to 3 unknown, back after 0.27 to 0.5 s``."""
    attempted = {card.attempted for card in cards}
    of = f" of {number(attempted.pop())}" if len(attempted) == 1 else ""
    words = f"lost {_range([card.lost for card in cards])}{of} operations"
    if unknown := max(card.unknown for card in cards):
        words += f" and left {'up to ' if len(cards) > 1 else ''}{number(unknown)} unknown"
    if back := [card.recovery_s for card in cards if card.recovery_s is not None]:
        words += f", back after {_range(back)} s"
    for card in cards:
        if card.recovery_s is None:
            words += f", {card.role if len(cards) > 1 else 'it'} {recovery(card)}"
    return words


def _range(values: Sequence[float]) -> str:
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def _roles(cards: Sequence[BlastRadius]) -> list[str]:
    return list(dict.fromkeys(card.role for card in cards))


def _list(words: Sequence[str], last: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
