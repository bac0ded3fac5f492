"""What shows, measured, how a row of the catalogue answers its lecture question (*What is the problem with
this?*): for each architecture some comparisons at several values of a parameter, and the figures to look at.

``polyarch answer NAME`` runs them; each is a ``polyarch compare`` that anybody can run with other values.
Sizes are such that an answer takes seconds; the laws (``polyarch laws``) hold the same figures against theory
at the sizes of the papers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["ANSWERS", "Shown"]


@dataclass(frozen=True)
class Shown:
    """One thing that can be seen in a sweep on ``sim``."""

    says: str
    """What is to be seen."""
    job: str
    who: str
    """The architectures, as on the command line."""
    vary: str
    """``PARAMETER=v1,v2,…``"""
    figures: tuple[str, ...]
    """By which it is seen, as the sweep names them."""
    given: Mapping[str, str] = field(default_factory=dict)
    """Other options, without their dashes."""

    @property
    def command(self) -> str:
        """What to type to see all of it."""
        more = "".join(f" --{name} {value}" for name, value in self.given.items())
        return f"polyarch compare {self.job} {self.who} --vary {self.vary}{more}"


_STABLE = {"formation": "converged"}
_CRASHES = "fault=crash:10%:peer@0.1,crash:30%:peer@0.1,crash:50%:peer@0.1"
_SIZES = "nodes=16,64,256"
_CHURN = "churn=poisson:1:crash,poisson:4:crash,poisson:16:crash"
_KV = Shown(
    "The key-value store on it while peers come and go without a word, as many a second as stated: keys "
    "that lost a write, stale reads, and what keeping copies costs",
    "kv", "", "churn=poisson:1:crash,poisson:4:crash",
    ("lost_keys", "stale_reads", "failed", "unknown", "timeouts", "copies", "upkeep"),
    {"nodes": "32", "duration": "9", "rate": "50"},
)  # fmt: skip


def _structured(name: str) -> tuple[Shown, ...]:
    """What is asked of all overlays that route to keys."""
    return (
        Shown(
            "Against the number of peers: the way is short and grows slowly; links and upkeep are the price; "
            "and neighbouring keys are strangers: a range is as many lookups as it has keys",
            "lookup", name, _SIZES,
            ("hops", "messages per operation", "links", "upkeep", "neighbours"), _STABLE,
        ),
        Shown(
            "While peers come, and go without a word, as many a second as stated: dead peers on the way",
            "lookup", name, _CHURN, ("success", "hops", "timeouts", "latency p99", "upkeep"),
            {**_STABLE, "nodes": "64"},
        ),
        Shown(
            "When a part of the peers fails at once",
            "lookup", name, _CRASHES, ("success", "hops", "timeouts", "latency p99"),
            {**_STABLE, "nodes": "64"},
        ),
        Shown(_KV.says, _KV.job, name, _KV.vary, _KV.figures, _KV.given),
    )  # fmt: skip


def _epidemic(name: str, *more: Shown) -> tuple[Shown, ...]:
    """What is asked of all that tell everybody."""
    return (
        *more,
        Shown(
            "Against the number of peers: what one delivery costs, and when the last one has heard it",
            "broadcast", name, _SIZES, ("coverage", "copies_per_delivery", "seconds_to_last"),
        ),
        Shown(
            "When a part of the peers fails at once",
            "broadcast", name, _CRASHES, ("coverage", "copies_per_delivery"), {"nodes": "64"},
        ),
    )  # fmt: skip


_SEARCH = ("success", "coverage", "messages_per_hit", "duplicates")

ANSWERS: dict[str, Sequence[Shown]] = {
    "flooding": (
        Shown(
            "What a time to live finds, and what it costs",
            "lookup", "flooding", "ttl=1,2,3,4,5,6", _SEARCH, {**_STABLE, "nodes": "200"},
        ),
        Shown(
            "Copies help more than a longer reach",
            "lookup", "flooding", "copies=1,4,16", _SEARCH, {**_STABLE, "nodes": "200", "ttl": "3"},
        ),
        Shown(
            "A fifth fails by accident, and the best connected fifth is attacked: a random graph against one "
            "with hubs, of which nobody repairs anything (largest_component: those still connected)",
            "lookup", "flooding:graph=random,flooding:graph=scale-free",
            "fault=crash:20%:peer@0.1,crash:best:20%:peer@0.1", ("largest_component", "success"),
            {**_STABLE, "nodes": "200", "repair": "0"},
        ),
    ),
    "random_walk": (
        Shown(
            "A rare key takes many steps: walks beside floods",
            "lookup", "flooding,random_walk", "copies=1,4,16",
            ("success", "messages_per_hit", "hops", "latency p99"), {**_STABLE, "nodes": "200"},
        ),
        Shown(
            "More walkers are faster, and cost more",
            "lookup", "random_walk", "walkers=1,4,16,64", ("success", "messages_per_hit", "latency p50"),
            {**_STABLE, "nodes": "200"},
        ),
    ),
    "static_peers": (
        Shown(
            "One hop, and a table of everybody at everybody",
            "lookup", "static_peers,chord:formation=converged", _SIZES,
            ("hops", "links", "upkeep", "imbalance"),
        ),
        Shown(
            "Nobody repairs the table: every peer finds the dead ones by itself",
            "lookup", "static_peers", _CRASHES, ("success", "timeouts", "latency p99"), {"nodes": "64"},
        ),
    ),
    "ring_overlay": (
        Shown(
            "Little to keep up, and a way that grows like the ring",
            "lookup", "ring_overlay,chord", _SIZES, ("hops", "latency p99", "links", "upkeep"), _STABLE,
        ),
    ),
    "central_index": (
        Shown(
            "Two hops' worth of messages at any size; but the index does all of the work",
            "lookup", "central_index,chord", _SIZES, ("messages per operation", "latency p99", "imbalance"),
            _STABLE,
        ),
        Shown(
            "While the index is down for that long, in a load of two seconds, nothing is found",
            "lookup", "central_index", "fault=crash:index@0.5-0.7,crash:index@0.5-1,crash:index@0.5-1.5",
            ("success", "failed"), {"duration": "6"},
        ),
    ),
    "chord": _structured("chord"),
    "pastry": _structured("pastry"),
    "kademlia": _structured("kademlia"),
    "encrypted_chord": (
        Shown(
            "What sealing every message costs, beside Chord in the clear",
            "lookup", "chord,encrypted_chord", "nodes=16,64",
            ("bytes per operation", "messages per operation", "latency p99", "handshakes"),
        ),
    ),
    "cyclon": _epidemic("cyclon"),
    "hyparview": _epidemic("hyparview"),
    "scamp": _epidemic("scamp"),
    "gossip": _epidemic(
        "gossip",
        Shown(
            "How many are told by each: some are always missed",
            "broadcast", "gossip", "fanout=1,2,4,8", ("coverage", "copies_per_delivery"), {"nodes": "128"},
        ),
    ),
    "anti_entropy": _epidemic(
        "anti_entropy",
        Shown(
            "Who asks and who tells",
            "broadcast", "anti_entropy", "style=push,pull,push-pull",
            ("coverage", "seconds_to_last", "messages_per_delivery"), {"nodes": "64"},
        ),
    ),
    "rumour_mongering": _epidemic(
        "rumour_mongering",
        Shown(
            "After how many contacts in vain interest is lost: some are missed, and nobody knows it",
            "broadcast", "rumour_mongering", "k=1,2,3,4",
            ("coverage", "copies_per_delivery", "seconds_to_last"),
            {"nodes": "64"},
        ),
    ),
    "averaging": (
        Shown(
            "What is lost in messages is lost of the sum: the error, against the share that is lost",
            "aggregate", "averaging",
            "fault=loss:1%@0-9,loss:10%@0-9,loss:50%@0-9", ("error", "spread"),
            {"nodes": "64", "duration": "27"},
        ),
    ),
    "swim": (
        Shown(
            "Against the number of members: two messages each and period, whatever their number; and how "
            "long it takes until somebody knows of a crash",
            "membership", "swim", _SIZES, ("messages_per_period", "detection_s", "wrongly_dead"),
            {**_STABLE, "fault": "crash:4:peer@1-12", "duration": "39"},
        ),
        Shown(
            "Messages that are lost make it suspect the living; without suspicion it declares them dead",
            "membership", "swim:suspicion=0,swim:suspicion=3",
            "fault=loss:1%@0-9,loss:10%@0-9,loss:30%@0-9",
            ("wrongly_dead", "suspicions", "messages_per_period"),
            {**_STABLE, "nodes": "32", "duration": "27"},
        ),
    ),
    "multicast": (
        Shown(
            "A tree beside flooding over the same overlay: copies, and how long it takes",
            "broadcast", "multicast:spread=tree,multicast:spread=flood", "nodes=16,64,128",
            ("copies_per_delivery", "seconds_to_last", "stress_most", "upkeep"), _STABLE,
        ),
        Shown(
            "A tree that is broken must be repaired first",
            "broadcast", "multicast:spread=tree,multicast:spread=flood", _CRASHES,
            ("coverage", "seconds_to_last"), {**_STABLE, "nodes": "64"},
        ),
    ),
}  # fmt: skip
"""By architecture."""
