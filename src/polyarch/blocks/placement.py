"""Where the replicas of a chunk go: at random, or in copysets.

Cidon, Rumble, Stutsman, Katti, Ousterhout and Rosenblum: "Copysets: reducing the frequency of data loss in
cloud storage", USENIX ATC 2013. Data is lost when all R servers of some chunk fail together. With random
places there are soon so many different sets of R servers that any R of them which fail hold some chunk;
with few sets (*copysets*) that is rare, and then much is lost. A server's *scatter width* is with how many
others it shares chunks: who helps to restore its data when it fails.
"""

from __future__ import annotations

from typing import Literal

from polyarch.core.randomness import Random

__all__ = ["Placement", "Policy"]

Policy = Literal["random", "copysets"]


class Placement:
    """Chooses the servers of chunks."""

    def __init__(
        self, policy: Policy, servers: int, replicas: int, random: Random, *, scatter_width: int = 2
    ) -> None:
        """``servers``: how many there are.  ``scatter_width``: wanted of copysets; at least R - 1."""
        self.policy = policy
        self.replicas = replicas
        self.random = random
        self.all = range(servers)
        self.sets_of: list[list[tuple[int, ...]]] = [[] for _ in self.all]
        if policy == "copysets":
            permutations = max(1, -(-scatter_width // max(1, replicas - 1)))
            for _ in range(permutations):
                self.permute()

    def permute(self) -> None:
        """The permutation phase (section 4.1): a permutation of all servers, cut into sets of R.  What is
        left over at the end is filled up from the beginning."""
        order = list(self.all)
        self.random.shuffle(order)
        for at in range(0, len(order), self.replicas):
            some = order[at : at + self.replicas]
            some += order[: self.replicas - len(some)]
            for server in some:
                self.sets_of[server].append(tuple(sorted(some)))

    def choose(self) -> tuple[int, ...]:
        """The servers of a new chunk (section 4.2: a random first one, and a copyset that it is in)."""
        if self.policy == "random":
            return tuple(self.random.sample(self.all, self.replicas))
        return self.random.choice(self.sets_of[self.random.below(len(self.all))])
