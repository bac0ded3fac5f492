"""A schedule: all that decides one simulated run, in one record; and how one is drawn from a seed.

The clients' operations, the faults, the links: all of it is explicit in the record, so that a part can be
left out (``shrink.py``) and the rest kept in a file.  ``performance.py`` runs it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import msgspec

from polyarch.core.job import Job, Operation
from polyarch.core.messages import schema_of
from polyarch.core.randomness import Random
from polyarch.core.records import Record
from polyarch.core.system import Architecture, System
from polyarch.experiment.mischief import RANDOM_FAULTS, Mischief
from polyarch.faults.spec import Fault
from polyarch.runtimes.base import Named

__all__ = ["Asked", "Schedule", "Setting", "draw", "typed"]

_LINKS = ("1ms", "0.5ms-2ms", "exp:3ms")
_DISKS = (0.0002, 0.0005, 0.002, 0.01)


class Asked(Record, array_like=True):
    """One visit: who makes it, when it begins at the earliest, and its operations, one after another."""

    client: int
    at: float
    operations: tuple[Operation, ...]


class Schedule(Record):
    """All that decides a run."""

    architecture: Named
    job: Named
    seed: int
    """Of the nodes' and the links' own randomness."""
    duration: float
    """Seconds of load; then all is healed, and the system has to work again."""
    clients: int
    latency: str
    disk_sync: float
    faults: tuple[Fault, ...]
    visits: tuple[Asked, ...]

    @property
    def operations(self) -> int:
        return sum(len(visit.operations) for visit in self.visits)


@dataclasses.dataclass
class Setting:
    """What ``draw`` draws from: the same for all seeds."""

    architecture: Architecture
    job: Job
    duration: float = 10.0
    clients: int = 5
    rate: float = 10.0
    """Operations per second, of all clients together."""
    kinds: Sequence[str] = RANDOM_FAULTS
    faults: Sequence[Fault] = ()
    """To be done in every run, besides."""

    def __post_init__(self) -> None:
        self.named = (
            Named.of(self.architecture, self.architecture.values),
            Named.of(self.job, self.job.values),
        )
        if why := self.architecture.unfit(type(self.job)):
            raise ValueError(why)
        self.system = System()
        self.architecture.build(self.system)
        self.roles = {role.name: role.process_names() for role in self.system.roles.values()}
        self.processes = [name for names in self.roles.values() for name in names]
        # Who names kinds wants them, promised or not.
        spared = set(self.architecture.not_borne if tuple(self.kinds) == RANDOM_FAULTS else ())
        if type(self.architecture).operate is Architecture.operate:
            spared.add("operate")
        self.kinds = [kind for kind in self.kinds if kind not in spared]


def draw(setting: Setting, seed: int) -> Schedule:
    """The schedule of a seed."""
    random = Random(seed).fork("schedule")
    architecture, job = setting.named
    mischief = Mischief(
        random.fork("faults"), setting.kinds, setting.processes, setting.clients, setting.duration
    )
    faults = (*setting.faults, *mischief.faults())
    return Schedule(
        architecture,
        job,
        seed,
        setting.duration,
        setting.clients,
        random.choice(_LINKS),
        random.choice(_DISKS),
        faults,
        tuple(_visits(setting, faults, random.fork("visits"))),
    )


def _visits(setting: Setting, faults: Sequence[Fault], random: Random) -> Iterator[Asked]:
    """Clients that think for a while between their visits.  Half of the visits are at any time, half come
    soon after a fault has begun or ended: that is when something may be wrong.  Or nearly all come in a crowd
    after one of a few faults: what is wrong only for a moment is seen by many then."""
    visits, duration = setting.job.visits(random.fork("job")), setting.duration
    moments = [t for f in faults for t in (f.start, f.end) if t is not None and t < duration]
    soon, often = random.choice((0.05, 0.2, 0.5)), 0.5
    if random.chance(0.4):
        moments, often = random.sample(moments, min(len(moments), 1 + random.below(4))), 0.9
    times = []
    for _ in range(max(1, round(duration * setting.rate / setting.job.mean_visit))):
        at = random.between(0.0, duration)
        if moments and random.chance(often):
            at = random.choice(moments) + random.exponential(soon)
        if at < duration:
            times.append(round(at, 6))
    for at in sorted(times):
        yield Asked(random.below(setting.clients), at, next(visits))


def typed(schedule: Schedule, job: Job) -> Schedule:
    """A schedule read from a file, with the arguments of its operations typed again."""
    methods = schema_of(job.port).methods

    def operation(o: Operation) -> Operation:
        return Operation(o.name, methods[o.name].check(tuple(o.arguments)))

    visits = tuple(Asked(v.client, v.at, tuple(map(operation, v.operations))) for v in schedule.visits)
    return msgspec.structs.replace(schedule, visits=visits)
