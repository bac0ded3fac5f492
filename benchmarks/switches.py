"""Requests per second through our switches, and through Caddy, Traefik and HAProxy where they are installed.

All stand before the same backend, and are asked by the same generator, an epoll loop in a process of its own
that keeps ``--connections`` connections with one request each.  In every run all switches are measured one
after the other, so that what slows the machine slows all; ratios are of one run, and medians over the runs.
Our transport switch runs as many processes as there are cores, as the others have threads; our application
switch is one process.

With few cores generator, backend and switch share them, and the ratio of rates is nearer to 1 than that of
the switches' costs: the seconds of a core that each switch takes for a request are in the table too.

Targets: our transport switch at least 0.6 of HAProxy's (tcp) requests per second, our application switch
at least Caddy's.

    python benchmarks/switches.py [--json FILE|-] [--runs N] [--quick] [--connections N] [--seconds S]
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from typing import Any

import psutil

from common import arguments, emit, environment, shown
from polyarch.measure.statistics import paired_ratio, spread
from polyarch.runtimes import open_session
from switches_system import ANSWER, OTHERS, Switches, installed

REQUEST = b"GET /increment?value=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
OURS = {"transport": ("haproxy_tcp", 0.6), "application": ("caddy", 1.0)}
"""Ours, whom it is compared with, and the least ratio."""


def generate(port: int, connections: int, seconds: float) -> None:
    """Ask as fast as answers come; prints answers per second of the last three quarters, and failures."""
    poll = select.epoll()
    socks: dict[int, socket.socket] = {}
    got: dict[int, int] = {}
    for _ in range(connections):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        socks[sock.fileno()] = sock
        got[sock.fileno()] = 0
        poll.register(sock, select.EPOLLIN)
        sock.send(REQUEST)
    begin = time.perf_counter()
    from_then, end = begin + seconds / 4, begin + seconds
    answers = failures = 0
    least = len(ANSWER)
    body = ANSWER[-100:]
    now = begin
    while now < end and socks:
        events = poll.poll(1.0)
        now = time.perf_counter()
        for fd, _ in events:
            sock = socks[fd]
            data = sock.recv(65536)
            if not data:
                failures += 1
                poll.unregister(fd)
                del socks[fd]
            elif data.endswith(body) and (got[fd] or data.startswith(b"HTTP/1.1 200")):
                got[fd] = 0
                answers += now >= from_then
                sock.send(REQUEST)
            elif got[fd] + len(data) > 4 * least:
                failures += 1
                poll.unregister(fd)
                del socks[fd]
            else:
                got[fd] += len(data)
    print(answers / (now - from_then), failures)


def asked(port: int, connections: int, seconds: float) -> float:
    """Requests per second, by a generator in a process of its own."""
    command = [sys.executable, __file__, "--generate", str(port), str(connections), str(seconds)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
    rate, failures = said.split()
    if int(failures):
        raise RuntimeError(f"{failures} of {connections} connections failed")
    return float(rate)


def cpu(pids: list[int]) -> float:
    total = 0.0
    for pid in pids:
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def main() -> None:
    parser = arguments(__doc__.split("\n\n")[0], runs=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement (default 3)")
    options = parser.parse_args()
    runs, seconds = (1, 0.5) if options.quick else (options.runs, options.seconds)
    rates: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    session: Any
    with open_session("local", Switches()) as session:
        pids = {name.removesuffix("-0"): c.pids for name, c in session._components.items()}
        pids |= {name.removesuffix("-0"): [p.pid] for name, p in session._children.items()}
        names = [name for name in pids if name not in ("client", "backend")]
        for run in range(runs):
            # In another order each time: nobody is always the first.
            for name in ("backend", *names[run % len(names) :], *names[: run % len(names)]):
                port = session.process.http_ports[f"{name}-0"]
                before = cpu(pids[name])
                rate = asked(port, options.connections, seconds)
                used = cpu(pids[name]) - before
                rates.setdefault(name, []).append(rate)
                costs.setdefault(name, []).append(1e6 * used / (rate * seconds))
    record: dict[str, Any] = {
        "benchmark": "switches",
        "environment": environment("uvloop", "httptools"),
        "missing": [other for other in OTHERS if not installed(other)],
        "connections": options.connections,
        "seconds": seconds,
        "figures": {},
        "targets": {},
    }
    rows = []
    for name in rates:
        rate, cost = spread(rates[name]), spread(costs[name])
        record["figures"][name] = {"requests_per_s": rate.to_dict(), "core_us_per_request": cost.to_dict()}
        target = ""
        if name in OURS and OURS[name][0] in rates:
            other, least = OURS[name]
            ratio = paired_ratio(rates[name], rates[other])
            met = ratio.median >= least
            record["targets"][name] = {"of": other, "ratio": ratio.to_dict(), "least": least, "met": met}
            target = f"{shown(ratio, 2)} of {other}; {least} wanted: {'met' if met else 'MISSED'}"
        elif name in OURS:
            target = f"{OURS[name][0]} is not installed here"
        label = f"{name} (no switch)" if name == "backend" else name
        rows.append([label, shown(rate, 0), shown(cost, 1), target])
    columns = ("switch", "requests/s", "core us/request", "target")
    emit(options, record, f"{options.connections} connections, {runs} runs of {seconds:g} s", columns, rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--generate"]:
        generate(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
    else:
        main()
