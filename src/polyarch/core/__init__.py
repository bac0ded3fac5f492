"""What the author of a node, a job or an architecture sees: import it from here."""

from polyarch.core.asker import Asker, asker
from polyarch.core.disk import Disk
from polyarch.core.dns import Dns, DnsQuery, DnsRecord, DnsReply
from polyarch.core.errors import (
    BadArguments,
    Broken,
    Conflict,
    Failure,
    Overloaded,
    Refused,
    Timeout,
    TooLarge,
    UnknownMethod,
    Unreachable,
)
from polyarch.core.http import Http, Over, Request, Response, Web, get, post
from polyarch.core.job import Done, Job, Measure, Operation, Verdict, Visit
from polyarch.core.messages import Reference, oneway, rpc
from polyarch.core.node import Env, Node
from polyarch.core.randomness import Random
from polyarch.core.records import Record
from polyarch.core.system import Architecture, Component, System, parameter
from polyarch.core.tasks import Future, Task, Timer, first, gather, settle
from polyarch.core.threads import Thread

__all__ = [
    "Architecture",
    "Asker",
    "BadArguments",
    "Broken",
    "Component",
    "Conflict",
    "Disk",
    "Dns",
    "DnsQuery",
    "DnsRecord",
    "DnsReply",
    "Done",
    "Env",
    "Failure",
    "Future",
    "Http",
    "Job",
    "Measure",
    "Node",
    "Operation",
    "Over",
    "Overloaded",
    "Random",
    "Record",
    "Reference",
    "Refused",
    "Request",
    "Response",
    "System",
    "Task",
    "Thread",
    "Timeout",
    "Timer",
    "TooLarge",
    "UnknownMethod",
    "Unreachable",
    "Verdict",
    "Visit",
    "Web",
    "asker",
    "first",
    "gather",
    "get",
    "oneway",
    "parameter",
    "post",
    "rpc",
    "settle",
]
