"""Laws that Raft and Paxos share: what never happens, and how many message delays agreement takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from polyarch.architectures import multi_paxos, paxos
from polyarch.architectures.multi_paxos import MultiPaxos
from polyarch.architectures.paxos import Paxos
from polyarch.architectures.raft import RaftStore
from polyarch.blocks.replicas import REGISTER, Command, Replica
from polyarch.core import Failure, Random, parameter
from polyarch.experiment.explore import Tally, explore
from polyarch.experiment.laws import Expected, Figure, Law, Tell, exactly
from polyarch.experiment.schedule import Setting
from polyarch.jobs.kv import Kv
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Endpoint, Network, ns
from polyarch.runtimes.sim.session import SimSession

STORES: dict[str, Any] = {"raft": RaftStore, "multi_paxos": MultiPaxos, "paxos": Paxos}


class Safety(Law):
    """What holds whatever is lost, reordered, crashed or cut off."""

    id = "RA-07"
    architecture = "raft/paxos"
    claim = "One leader a term, log matching, leader completeness, state-machine safety, append-only leaders"
    source = "Ongaro and Ousterhout, USENIX ATC 2014, figure 3; for Paxos: one value is chosen"
    certainty = "quoted from the paper"
    note = (
        "random schedules of operations and faults, as polyarch check explores them: the states of the "
        "servers against the invariants of their architecture, the clients' histories for linearizability; "
        "10,000 of Raft's with the law's whole name"
    )
    seeds = 1
    store: Literal["raft", "multi_paxos", "paxos"] = parameter("raft", "which")
    schedules: int = parameter(300, "random schedules", least=1, most=1_000_000)
    duration: float = parameter(3.0, "of each, in virtual time", least=0.5, most=60, unit="s")
    listed = ({"store": "raft"}, {"store": "multi_paxos"}, {"store": "paxos"})
    long = ({"store": "raft", "schedules": 10_000},)

    def expected(self) -> dict[str, Expected]:
        return {"violations": exactly(0), "schedules": exactly(self.schedules)}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        setting = Setting(STORES[self.store](), Kv(**Kv.small), duration=self.duration)
        first = seeds[0] * self.schedules

        def progress(tally: Tally) -> None:
            tell(tally.seeds / self.schedules)

        tally = explore(setting, range(first, first + self.schedules), progress=progress)
        figures: dict[str, Figure] = {
            "violations": int(tally.failing is not None),
            "schedules": tally.seeds,
            "operations": tally.operations,
            "histories the checker gave up": tally.undecided,
        }
        if tally.failing is not None:
            figures["seed of the violation"] = tally.failing
        return figures


class Unit:
    """A message takes one unit of time, whatever its way; the experimenter stands beside everybody."""

    seconds_each = 0.01

    def sample(self, source: Endpoint, target: Endpoint, random: Random) -> int:
        return 0 if "experimenter" in (source.name, target.name) else ns(self.seconds_each)


class Delays(Law):
    """How many message delays agreement takes."""

    id = "RA-08"
    architecture = "paxos"
    claim = "Message delays: two phases 4 at the proposer; with a leader 2, and 4 for a client of it"
    source = "Lamport, The part-time parliament, 1998; Paxos made simple, 2001"
    certainty = "theory (well known), value computed here"
    note = (
        "in a simulation where each message takes one unit and disks are instant.  Not checked: 3 delays to "
        "a remote learner (multi_paxos tells others with its next message to them, not by one of its own); "
        "and Fast Paxos (2 delays to learners, quorums of ceil(3n/4)), which the catalogue does not have"
    )
    n: int = parameter(5, "servers", least=2, most=25)
    listed = ({"n": 5}, {"n": 3}, {"n": 7})

    def expected(self) -> dict[str, Expected]:
        return {
            "paxos: delays at the proposer": exactly(4),
            "multi_paxos: delays at the proposer": exactly(2),
            "multi_paxos: delays of a client": exactly(4),
        }

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        found = [{**self.classic(seed), **self.led(seed)} for seed in seeds]
        if found.count(found[0]) < len(found):
            raise ValueError(f"the seeds disagree: {found}")
        return found[0]

    def session(self, store: Any, seed: int) -> SimSession:
        network = Network(latency=Unit())
        return SimSession(store, seed=seed, network=network, detailed=False, links=True, disk_sync=0.0)

    def classic(self, seed: int) -> dict[str, Figure]:
        store = Paxos(servers=self.n)

        async def experiment(x: Experimenter) -> Figure:
            await store.ready(x)
            await x.sleep(1.0)
            begin = x.now
            await x.at("server-0", paxos.Server, timeout=5.0).submit(put(1))
            return units(x.now - begin)

        return {"paxos: delays at the proposer": self.session(store, seed).perform(experiment)}

    def led(self, seed: int) -> dict[str, Figure]:
        store = MultiPaxos(servers=self.n)
        session = self.session(store, seed)

        async def experiment(x: Experimenter) -> dict[str, Figure]:
            await store.ready(x)
            await x.client.put("key", 0)  # the client knows the leader from now on
            await x.sleep(1.0)
            leader = await self.leader(x)
            opened = await x.at(leader, Replica).submit(REGISTER)
            begin = x.now
            await x.at(leader, Replica).submit(put(int(opened or 0)))
            at_proposer = units(x.now - begin)
            begin = x.now
            await x.client.put("key", 2)
            at_client = units(x.now - begin)
            return {
                "multi_paxos: delays at the proposer": at_proposer,
                "multi_paxos: delays of a client": at_client,
            }

        return session.perform(experiment)

    async def leader(self, x: Experimenter) -> str:
        while True:
            for i in range(self.n):
                try:
                    status = await x.at(f"server-{i}", multi_paxos.Server).status()  # type: ignore[misc]
                except Failure:
                    continue
                if status.leads:
                    return f"server-{i}"
            await x.sleep(0.1)


def put(session: int) -> Command:
    """A command of one's own session."""
    return Command(session, 0, 0, "put", "key", 1)


def units(seconds: float) -> float:
    """Seconds in message delays."""
    return round(seconds / Unit.seconds_each, 6)
