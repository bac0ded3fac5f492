"""Raft's snapshots: in place of a log that would grow for ever, the state that it has led to (Raft, section
7; thesis, chapter 5).

Each server takes snapshots by itself, of what is committed.  Who needs entries that the leader has discarded
gets the leader's snapshot, in chunks: the InstallSnapshot RPC of figure 13.
"""

from __future__ import annotations

from polyarch.blocks.raft_log import Snapshot
from polyarch.blocks.raft_server import Follower, RaftServer
from polyarch.core.errors import Failure
from polyarch.core.messages import rpc
from polyarch.core.records import Record

__all__ = ["Installed", "Snapshots"]


class Installed(Record, array_like=True):
    """The answer to an InstallSnapshot RPC."""

    term: int
    size: int
    """How much of the snapshot there is now: where the next chunk begins."""


class Snapshots(RaftServer):
    """What a server does with snapshots."""

    @rpc(timeout=0.5)
    async def install_snapshot(
        self,
        term: int,
        leader: str,
        last_index: int,
        last_term: int,
        members: tuple[str, ...],
        offset: int,
        data: bytes,
        done: bool,
    ) -> Installed:
        """Invoked by the leader to send a snapshot in chunks, to who needs entries that it has discarded."""
        if not self.follow(term, leader):  # 1.
            return Installed(self.current_term, 0)
        index, state = self.incoming
        if index != last_index or offset == 0:  # 2.
            state = b""
        if len(state) == offset:  # 3.
            state += data
            if done:
                self.install(Snapshot(last_index, last_term, members, state))
        self.incoming = last_index, state  # 4. and 5.: wait for more
        await self.durable()
        return Installed(term, len(state))

    def install(self, snapshot: Snapshot) -> None:
        log, last = self.log, snapshot.index
        if self.safeguards.keep_log_after_snapshot:
            if last <= self.commit_index:
                return  # there is nothing new in it
            if last <= log.last_index and log.term(last) == snapshot.term:  # 6.
                self.written += 1
                log.compact(snapshot)
                return self.restore(snapshot)
        self.written += 1
        log.replace(snapshot)  # 7.
        self.restore(snapshot)  # 8.

    def compact(self) -> None:
        """Take a snapshot of what is applied, and discard the log before it (section 7).  A part is kept, for
        followers that are a little behind."""
        safe, last = self.safeguards, self.last_applied
        members = self.log.members_at(last) if safe.members_in_snapshot else self.servers
        state = self.machine.snapshot(sessions=safe.sessions_in_snapshot)
        self.log.compact(Snapshot(last, self.log.term(last), members, state), keep=self.snapshot_every // 4)
        self.written += 1

    async def send_snapshot(self, peer: str, follower: Follower) -> None:
        """Send a snapshot, chunk by chunk (section 7)."""
        term, snapshot, offset = self.current_term, self.log.snapshot, 0
        follower.installing = True
        try:
            while offset < len(snapshot.state):
                data = snapshot.state[offset : offset + self.chunk]
                done = offset + len(data) == len(snapshot.state)
                reply = await self.at(peer, timeout=self.election_timeout).install_snapshot(
                    term, self.address, snapshot.index, snapshot.term, snapshot.members, offset, data, done
                )
                self.observe(reply.term)
                if not self.leads(term):
                    return
                offset = reply.size
            follower.match_index = max(follower.match_index, snapshot.index)
            self.try_from(follower, follower.match_index + 1)
            follower.matched = True
        except Failure:
            return  # again, with the next heartbeat
        finally:
            follower.installing = False
        self.feed(peer, follower)
