"""Words for the links of a simulation, as the command line gives them."""

from __future__ import annotations

import math
import re

from polyarch.runtimes.sim.network import Constant, Exponential, Latency, LogNormal, Regional, Uniform

__all__ = ["HANDLER_COST", "parse_latency", "parse_seconds"]

HANDLER_COST = 2e-6
"""Core seconds of a message where it is handled, unless the user says otherwise.  Measured: the processor
time of a server process for each call on the local runtime, 32 and 256 in flight, is 1.7 to 2.1 us (the
system of benchmarks/rpc.py, 2026-11-20).  An author's own work in a handler is on top: ``self.work``."""

_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def parse_seconds(word: str, what: str) -> float:
    """``250us``, ``1.5ms``, ``0.2s`` or plain seconds; ``ValueError`` says what would be right."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e-?\d+)?)\s*(s|ms|us|ns)?", word.strip())
    seconds = float(match[1]) * _UNITS[match[2] or "s"] if match else math.inf
    if match is None or not math.isfinite(seconds):
        raise ValueError(f"{what} is a time such as 250us, 1.5ms or 0.2s, not {word!r}")
    return seconds


def parse_latency(word: str) -> Latency:
    """One-way latency: ``1ms`` (constant), ``1ms-5ms`` (uniform), ``exp:2ms``, ``lognormal:1ms:0.5`` (median
    and sigma), ``regions`` (ten measured cloud regions), ``regions:0.1`` (with jitter)."""
    what = "--latency"
    kind, _, rest = word.partition(":")
    if kind == "regions":
        try:
            return Regional(_spread(rest) if rest else 0.0)
        except ValueError:
            raise ValueError(f"{what} regions:JITTER takes a number such as 0.1, not {rest!r}") from None
    if kind == "exp":
        return Exponential(parse_seconds(rest, what))
    if kind == "lognormal":
        median, _, sigma = rest.partition(":")
        try:
            return LogNormal(parse_seconds(median, what), _spread(sigma or "0.3"))
        except ValueError:
            wanted = "lognormal:MEDIAN:SIGMA such as lognormal:1ms:0.5"
            raise ValueError(f"{what} is {wanted}, not {word!r}") from None
    low, dash, high = word.partition("-")
    if dash and "e" not in low:
        a, b = parse_seconds(low, what), parse_seconds(high, what)
        if b < a:
            raise ValueError(f"{what} {word}: the range ends before it starts")
        return Uniform(a, b)
    try:
        return Constant(parse_seconds(word, what))
    except ValueError:
        raise ValueError(
            f"{what} is a time (1ms), a range (1ms-5ms), exp:2ms, lognormal:1ms:0.5 or regions, not {word!r}"
        ) from None


def _spread(word: str) -> float:
    value = float(word)
    if not 0 <= value <= 10:
        raise ValueError(word)
    return value
