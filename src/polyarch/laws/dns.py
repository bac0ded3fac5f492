"""Laws of the domain name system: how seldom it chooses a server."""

from __future__ import annotations

import math
from collections.abc import Sequence

from polyarch.architectures.dns_round_robin import SERVICE, DnsRoundRobin, Resolver
from polyarch.core import DnsQuery, Random, gather, parameter
from polyarch.experiment.laws import Expected, Figure, Law, Tell, relative, spread_out
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession


class ChosenByDns(Law):
    """Resolvers that remember decide in the name server's place."""

    id = "LB-11"
    architecture = "dns_round_robin"
    claim = "The DNS chooses the server of a fraction sum w_i/(1 + lambda_i TTL) of all requests"
    source = (
        "renewal theory, computed here; cf. Colajanni, Yu, Cardellini, ICDCS 1998 (below 4 %, from memory)"
    )
    certainty = "theory (well known), value computed here"
    note = (
        "w_i: the share of domain i in the requests, lambda_i = w_i * rate, Poisson.  Each domain's resolver "
        "is asked for each of its requests; counted is what it asks the name server.  Each domain begins at "
        "a random time of the first TTL, so that they do not all ask at once; what comes in the first two "
        "TTLs is not counted"
    )
    domains: int = parameter(1000, "K: domains of clients, each with a resolver", least=1, most=100_000)
    exponent: float = parameter(
        1.0, "of Zipf's law: the popularity of domains; 0: all the same", least=0, most=4
    )
    ttl: int = parameter(60, "for which resolvers remember", least=0, most=604_800, unit="s")
    rate: float = parameter(1000.0, "requests per second of all domains together", least=0.001, most=1e6)
    requests: int = parameter(
        0, "about how many are counted, all seeds together; 0: as many as it takes", least=0, most=10**8
    )
    listed = ({"rate": 10.0}, {"rate": 1000.0})

    @property
    def weights(self) -> list[float]:
        shares = [(i + 1) ** -self.exponent for i in range(self.domains)]
        total = math.fsum(shares)
        return [share / total for share in shares]

    @property
    def fraction(self) -> float:
        return math.fsum(w / (1 + w * self.rate * self.ttl) for w in self.weights)

    @property
    def counted(self) -> int:
        """Requests enough for some 10,000 choices, and for each domain to choose a few times."""
        return self.requests or min(1_500_000, round(max(10_000 / self.fraction, 5 * self.rate * self.ttl)))

    def expected(self) -> dict[str, Expected]:
        # A choice follows the one before it after the TTL and an exponential time: the number of choices in
        # a time T has the variance T sigma^2 / mu^3 (or less: it is at most the number of requests).
        time = self.counted / self.rate
        variance = 0.0
        for w in self.weights:
            wait = 1 / (w * self.rate)
            mean = self.ttl + wait
            variance += time * wait**2 / mean**3 + 1 / 12
        error = math.sqrt(variance) / (time * self.rate * self.fraction)
        return {"chosen by the DNS": relative(self.fraction, max(0.03, 4 * error))}

    def measure(self, seeds: Sequence[int], tell: Tell) -> dict[str, Figure]:
        share = -(-self.counted // len(seeds))
        jobs = [(self.domains, tuple(self.weights), self.ttl, self.rate, share, seed) for seed in seeds]
        counts = spread_out(_counts, jobs, tell)
        return {"chosen by the DNS": sum(chosen for chosen, _ in counts) / sum(asked for _, asked in counts)}


def _counts(job: tuple[int, tuple[float, ...], int, float, int, int]) -> tuple[int, int]:
    """Of so many requests: how many the name server has chosen a server for, and how many there were."""
    domains, weights, ttl, rate, requests, seed = job
    architecture = DnsRoundRobin(servers=4, domains=domains, ttl=ttl, answers=1, check=0.0)
    network = Network(latency=Constant(1e-7))
    session = SimSession(architecture, seed=seed, detailed=False, network=network)
    random = Random(seed).fork("requests")
    begins = [random.between(0, ttl) for _ in range(domains)]
    steady, end = 2.0 * ttl, 2.0 * ttl + requests / rate

    async def experiment(x: Experimenter) -> tuple[int, int]:
        resolvers = [x.at(f"resolver-{i}", Resolver) for i in range(domains)]
        origin = x.now
        question = DnsQuery(SERVICE)

        async def clients(domain: int) -> None:
            """All clients of a domain: they ask as a Poisson process does."""
            draws, mean = random.fork(f"domain {domain}"), 1 / (weights[domain] * rate)
            at = origin + begins[domain]
            while (at := at + draws.exponential(mean)) < origin + end:
                await x.sleep(at - x.now)
                await resolvers[domain].dns(question)

        async def sums() -> tuple[int, int]:
            told = [await resolver.told() for resolver in resolvers]
            return sum(t.passed_on for t in told), sum(t.asked for t in told)

        running = [x.spawn(clients(domain)) for domain in range(domains)]
        await x.sleep(steady)
        chosen, asked = await sums()
        await gather(*running)
        chosen_then, asked_then = await sums()
        return chosen_then - chosen, asked_then - asked

    counts: tuple[int, int] = session.perform(experiment)
    return counts
