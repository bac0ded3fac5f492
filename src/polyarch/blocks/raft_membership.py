"""Changing the servers of a Raft cluster while it runs, one at a time (Ongaro's thesis, chapter 4).

Of the two ways this is the simpler one, and that of the thesis: a majority before and a majority after such
a change have a server in common, so that the new configuration holds as soon as it is in the log, and no
state of the transition is needed.  Joint consensus (Raft, section 6) can replace any number of servers at
once, at the price of decisions by two majorities.  To replace a server by changes of one: add, then remove.
"""

from __future__ import annotations

from polyarch.blocks.raft_log import Entry
from polyarch.blocks.raft_server import RaftServer
from polyarch.blocks.replicas import NotLeader
from polyarch.core.errors import Refused
from polyarch.core.messages import rpc

__all__ = ["Membership"]


class Membership(RaftServer):
    """What a leader does to change its cluster."""

    @rpc(timeout=30.0)
    async def add_server(self, server: str) -> None:
        """Add a server to the cluster, when it has caught up (thesis, figure 4.1)."""
        self.require_leadership()
        if server in self.log.members:
            return
        if server in self.learners or server == self.address:
            raise Refused(f"{server} is being added or removed already")
        try:
            await self.catch_up(server)
            await self.change((*self.log.members, server))
        finally:
            self.learners.pop(server, None)
            self.count_followers()

    @rpc(timeout=30.0)
    async def remove_server(self, server: str) -> None:
        """Remove a server from the cluster; it may be the leader."""
        self.require_leadership()
        if self.log.members == (server,):
            raise Refused(f"{server} is the last server of the cluster")
        if server in self.log.members:
            await self.change(tuple(m for m in self.log.members if m != server))

    async def catch_up(self, server: str) -> None:
        """Send the log in rounds, each what has come during the one before, until a round is shorter than
        an election timeout (thesis, section 4.2.1)."""
        term = self.current_term
        self.learners[server] = None
        self.count_followers()
        learner = self.followers[server]
        for _ in range(10):
            begun, last = self.now, self.log.last_index
            while learner.match_index < last:
                if self.now > begun + 10 * self.election_timeout:
                    raise Refused(f"{server} does not catch up")
                await self.sleep(self.heartbeat / 5)
                if not self.leads(term):
                    raise NotLeader(self.leader or "")
            if self.now - begun < self.election_timeout:
                return
        raise Refused(f"{server} is too slow to catch up")

    async def change(self, members: tuple[str, ...]) -> None:
        """From one configuration to the next, whose majorities have a server in common with its own."""
        safe = self.safeguards
        if safe.one_change_at_a_time and self.log.members_since > self.commit_index:
            raise Refused("another change of the cluster is not committed yet")
        if safe.change_in_own_term and not self.has_committed_in_term():
            raise Refused("the leader has not committed an entry of its term yet")
        await self.committed(Entry(self.current_term, None, members))
