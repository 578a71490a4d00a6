"""Tables of rehearsals: one with the cost of each part, and several side by side, so that growth shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

COLUMNS = ("wall\ns", "CPU\ns", "peak\nMiB", "read\nMB", "written\nMB", "silent\ns", "disk\nMB")
FIELDS = ("wall_s", "cpu_s", "peak_mib", "read_mb", "written_mb", "silent_s")
Cost = Mapping[str, Any]


def parts(phase: Mapping[str, Any]) -> Iterator[tuple[str, Cost]]:
    """Yield the name and the cost of a phase as a whole, then of its command, its tasks and all servers.

    The whole has the sums of its parts, the memory of the largest one, and the wall time from start to end.
    """
    command, tasks = phase["command"], phase["tasks"]
    servers = _together(phase["servers"]) if phase["servers"] else None
    whole = _together([command, *tasks, *phase["servers"]]) | {"wall_s": phase["wall_s"]}
    if tasks:  # the command only follows them
        whole["silent_s"] = max(task["silent_s"] for task in tasks)
    yield phase["name"], whole
    if tasks or servers:
        yield "command", command
    tries: Counter[str] = Counter()
    for task in tasks:
        tries[task["name"]] += 1
        again = f", try {tries[task['name']]}" if tries[task["name"]] > 1 else ""
        yield task["name"] + again, task
    if servers:
        yield "servers", servers


def _together(costs: Sequence[Cost]) -> dict[str, float]:
    """Add processor time and bytes of costs, and take the largest of all else."""
    added = {field: sum(cost[field] for cost in costs) for field in ("cpu_s", "read_mb", "written_mb")}
    return {field: max(cost[field] for cost in costs) for field in FIELDS} | added


def table(state: Mapping[str, Any]) -> Table:
    """Return the table of one rehearsal.

    Args:
        state: content of its state file.
    """
    title = f"{state['images']:,} pictures of {state['skus']:,} SKUs, {state['machine']}"
    drawn = Table(
        title=title,
        box=SIMPLE_HEAD,
        caption="* begun more than once, so the figures are no measurement",
    )
    drawn.add_column("", no_wrap=True)
    for name in COLUMNS:
        drawn.add_column(name, justify="right")
    for phase in state["phases"]:
        for number, (name, cost) in enumerate(parts(phase)):
            figures = [_figure(cost[field]) for field in FIELDS]
            if number == 0:
                star = "*" if phase["tries"] > 1 else ""
                drawn.add_row(name + star, *figures, _figure(sum(phase["disk_mb"].values())), style="bold")
            else:
                drawn.add_row(f"  {name}", *figures, "")
    return drawn


def growth(states: Sequence[Mapping[str, Any]]) -> Table:
    """Return rehearsals side by side, the smallest first, with what each further picture cost between two.

    A further picture leaves fixed costs out: where its milliseconds rise from one pair of sizes to the next,
    a part grows faster than its pictures.

    Args:
        states: contents of the state files of at least two rehearsals.
    """
    states = sorted(states, key=lambda state: int(state["images"]))
    drawn = Table(title="Growth: CPU seconds, peak memory, and their rise between two sizes", box=SIMPLE_HEAD)
    drawn.add_column("", no_wrap=True)
    for state in states:
        drawn.add_column(f"{state['images']:,}\nCPU\ns", justify="right")
        drawn.add_column("peak\nMiB", justify="right")
    pairs = [(a["images"], b["images"]) for a, b in pairwise(states)]
    for smaller, larger in pairs:
        drawn.add_column(f"{smaller:,} to\n{larger:,}\nms a picture", justify="right")
        drawn.add_column("KiB a\npicture", justify="right")
    costs = [_by_name(state) for state in states]
    for key in dict.fromkeys(key for named in costs for key in named):
        of_sizes = [named.get(key) for named in costs]
        cells = [cell for cost in of_sizes for cell in _pair(cost, "cpu_s", "peak_mib")]
        for (smaller, larger), (a, b) in zip(pairs, pairwise(of_sizes), strict=True):
            cells += _rises(a, b, larger - smaller)
        phase, part = key
        drawn.add_row(f"  {part}" if part else phase, *cells, style="" if part else "bold")
    return drawn


def _by_name(state: Mapping[str, Any]) -> dict[tuple[str, str], Cost]:
    """Return the costs of a rehearsal by phase and part; the part of a whole phase is empty."""
    return {
        (phase["name"], name if number else ""): cost
        for phase in state["phases"]
        for number, (name, cost) in enumerate(parts(phase))
    }


def _pair(cost: Cost | None, *fields: str) -> list[str]:
    return [_figure(cost[field]) if cost else "" for field in fields]


def _rises(smaller: Cost | None, larger: Cost | None, pictures: int) -> list[str]:
    if not (smaller and larger and pictures):
        return ["", ""]
    cpu_ms = 1000 * (larger["cpu_s"] - smaller["cpu_s"]) / pictures
    memory_kib = 1024 * (larger["peak_mib"] - smaller["peak_mib"]) / pictures
    return [f"{cpu_ms:.3g}", f"{memory_kib:.3g}"]


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
