"""Load on a running ``smoe-mt serve``: throughput, times, what was lost, memory; bad requests among the good ones.

    smoe-mt serve runs/nordic --port 5000 &
    python -m benchmarks.load_server http://127.0.0.1:5000 --text test.sv -s sv -t fi --requests 5000 --clients 32

Every tenth request is bad in one of several ways, and has to be refused with its status. A good one is lost if it gets no answer, another
status than 200 (429 and 503 count as refused), or another translation than the same text got before.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

BAD_EVERY = 10
REFUSALS = (429, 503)
JSON = {"content-type": "application/json"}
#: What is sent in place of a request, and the status that it has to get.
BAD: tuple[tuple[bytes, int], ...] = (
    (b"{", 400),
    (b"\xff\xfe", 400),
    (b"[" * 5000, 400),
    (b'{"q": "a", "source": "nowhere", "target": "nowhere"}', 400),
    (b'{"q": 1}', 400),
    (b'"' + b"x" * (4 << 20) + b'"', 413),
)


@dataclass
class Tally:
    """What became of the requests."""

    seconds: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    translations: dict[str, str] = field(default_factory=dict)
    memory: list[int] = field(default_factory=list)


async def client(
    http: httpx.AsyncClient, numbers: Any, lines: list[str], args: argparse.Namespace, tally: Tally
) -> None:
    """Send one request after the other until the numbers end."""
    for number in numbers:
        if number % BAD_EVERY == BAD_EVERY - 1:
            await send_bad(http, *BAD[number // BAD_EVERY % len(BAD)], tally)
        else:
            await send_good(http, lines[number % len(lines)], args, tally)


async def send_bad(http: httpx.AsyncClient, body: bytes, expected: int, tally: Tally) -> None:
    try:
        answer = await http.post("/translate", content=body, headers=JSON)
        right = answer.status_code in (expected, *REFUSALS) and "error" in answer.json()
    except httpx.HTTPError:
        right = False
    tally.outcomes["bad, refused" if right else "bad, wrongly answered"] += 1


async def send_good(http: httpx.AsyncClient, line: str, args: argparse.Namespace, tally: Tally) -> None:
    start = time.perf_counter()
    try:
        answer = await http.post("/translate", json={"q": line, "source": args.source, "target": args.target})
    except httpx.HTTPError as error:
        tally.outcomes[f"lost: {type(error).__name__}"] += 1
        return
    if answer.status_code in REFUSALS:
        tally.outcomes["refused"] += 1
        return
    if answer.status_code != 200:
        tally.outcomes[f"lost: status {answer.status_code}"] += 1
        return
    text = answer.json()["translatedText"]
    same = tally.translations.setdefault(line, text) == text
    tally.outcomes["good" if same else "lost: another translation"] += 1
    tally.seconds.append(time.perf_counter() - start)


async def watch(pid: int, tally: Tally) -> None:
    """Note the memory of the server and its children every second."""
    while True:
        tally.memory.append(resident_mib(pid))
        await asyncio.sleep(1)


def resident_mib(pid: int) -> int:
    """Of a process and its children, in MiB."""
    total = 0
    waiting = [pid]
    while waiting:
        home = Path(f"/proc/{waiting.pop()}")
        try:
            status = (home / "status").read_text()
            waiting += [int(child) for each in home.glob("task/*/children") for child in each.read_text().split()]
        except OSError:  # it has ended
            continue
        total += next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)
    return total >> 10


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Send all requests and count."""
    lines = [line for line in args.text.read_text(encoding="utf-8").splitlines() if line.strip()]
    tally, numbers = Tally(), iter(itertools.islice(itertools.count(), args.requests))
    limits = httpx.Limits(max_connections=args.clients)
    async with httpx.AsyncClient(base_url=args.url, timeout=args.timeout, limits=limits) as http:
        watcher = asyncio.create_task(watch(args.pid, tally)) if args.pid else None
        start = time.perf_counter()
        await asyncio.gather(*(client(http, numbers, lines, args, tally) for _ in range(args.clients)))
        took = time.perf_counter() - start
        if watcher:
            watcher.cancel()
    cuts = statistics.quantiles(tally.seconds, n=100) if len(tally.seconds) > 1 else [0.0] * 99
    half = len(tally.memory) // 2
    return {
        "requests": args.requests,
        "clients": args.clients,
        "requests/s": round(args.requests / took, 1),
        "p50 s": round(cuts[49], 3),
        "p99 s": round(cuts[98], 3),
        "lost": sum(count for name, count in tally.outcomes.items() if name.startswith("lost")),
        "outcomes": dict(tally.outcomes),
        **({"MiB at half-time": tally.memory[half], "MiB at the end": tally.memory[-1]} if tally.memory else {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of the server")
    parser.add_argument("--text", type=Path, required=True, help="a sentence a line; they are sent in turns")
    parser.add_argument("-s", "--source", required=True)
    parser.add_argument("-t", "--target", required=True)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--clients", type=int, default=32, help="that wait for an answer at the same time")
    parser.add_argument("--timeout", type=float, default=120, help="seconds")
    parser.add_argument("--pid", type=int, help="process of the server, whose memory is watched with its children's")
    print(json.dumps(asyncio.run(measure(parser.parse_args())), indent=1))


if __name__ == "__main__":
    main()
