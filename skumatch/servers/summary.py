"""A run in the terminal: the live table while it works, and the summary at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from skumatch.config import Settings

SIGNS = {
    "success": "[green]✓",
    "failed": "[red]✗",
    "upstream_failed": "[dim]-",
    "skipped": "[yellow]↷",
    "up_for_retry": "[yellow]↻",
}
ENDED = {"success": "done", "failed": "FAILED", "skipped": "skipped", "up_for_retry": "failed, tries again"}
STATES = {**ENDED, "running": "runs", "queued": "waits for its turn"}
DECISIONS = {
    "first": "First champion",
    "promote": "Promoted",
    "refresh": "Gallery refreshed",
    "keep": "Champion kept",
    "refuse": "Refused",
}
NOTICED = 3.0  # seconds; Airflow takes 1 to 2 to start a run
# Part of reasons that a first run doesn't show; it shows other checks that don't apply.
FIRST = ": not applicable (there is no champion yet"
COLOURS = {"first": "green", "promote": "green", "refresh": "green", "keep": "cyan", "refuse": "yellow"}
CANDIDATES = {  # key of a summary -> label
    "served": "what serves",
    "released": "its model release",
    "refreshed": "refreshed gallery",
    "challenger": "challenger",
}


@dataclass(frozen=True)
class Task:
    """One task of a run.

    Attributes:
        name: Id of the task.
        state: Airflow's word for its state, or `waiting`.
        attempt: Number of the try, from 1.
        seconds: Wall time so far.
    """

    name: str
    state: str
    attempt: int
    seconds: float


class ProgressView(Protocol):
    """Function that shows the state of a run."""

    def __call__(self, tasks: Sequence[Task], progress: Mapping[str, Any], state: str) -> None:
        """Show the run.

        Args:
            tasks: The run's tasks, in order.
            progress: Fields of the running task's newest progress event; empty if there is none.
            state: Airflow's word for the state of the run.
        """


@contextmanager
def view(console: Console, run: str, clock: Callable[[], float] = time.monotonic) -> Iterator[ProgressView]:
    """Yield a function that shows a run: on a terminal a live table.

    Else it is a line for each ended try, and for each minute of a running one or of a run that waits.

    Args:
        console: where to show it.
        run: Id of the run.
        clock: returns seconds, as time.monotonic does.
    """
    if console.is_terminal:
        spinner = Spinner("dots", style="cyan")
        with Live(console=console, refresh_per_second=8) as live:
            yield lambda tasks, progress, state: live.update(task_table(run, tasks, progress, state, spinner))
        return
    shown, began = set[tuple[str, int, str]](), clock()

    def show(tasks: Sequence[Task], progress: Mapping[str, Any], state: str) -> None:
        waits = [Task("queued", "queued", 1, clock() - began)] if state == "queued" else []
        for task in [*waits, *tasks]:
            key = (task.name, task.attempt, _event_of(task))
            if key[-1] and key not in shown:
                shown.add(key)
                how = counts_of(progress) if task.state == "running" else ""
                line = f"{task.name:<12} {STATES[task.state]:<20} {task.seconds:6.1f} s  {how}"
                console.print(line.rstrip(), highlight=False, soft_wrap=True, markup=False)

    yield show


def _event_of(task: Task) -> str:
    """Return what a line tells of a try: how it ended, or the minutes that it runs; empty for nothing."""
    if task.state in ("running", "queued"):
        return str(int(task.seconds // 60) or "")
    return task.state if task.state in ENDED else ""


def task_table(
    run: str, tasks: Sequence[Task], progress: Mapping[str, Any], state: str, spinner: Spinner
) -> RenderableType:
    """Return the live table of a run, one row for each task.

    Args:
        run: Id of the run.
        tasks: The run's tasks, in order.
        progress: Fields of the running task's newest progress event; empty if there is none.
        state: Airflow's word for the state of the run.
        spinner: Sign of the running task; one object for all tables, so that it turns.
    """
    title = f"run {run}" + (f" · {STATES[state]}" if state == "queued" else "")
    table = Table(box=None, pad_edge=False, show_header=False)
    for task in tasks:
        running = task.state == "running"
        sign = spinner if running else Text.from_markup(SIGNS.get(task.state, "[dim]·"))
        took = f"{task.seconds:.1f} s" if task.seconds else ""
        table.add_row(
            sign,
            Text(task.name, style="bold" if running else ""),
            Text(took, justify="right"),
            about(task, progress),
        )
    return Group(Text(title, style="bold"), table)


def about(task: Task, progress: Mapping[str, Any]) -> RenderableType:
    """Return the last column of a task: its progress bar while it runs, or words on its state."""
    if task.state == "running" and progress.get("total"):
        return progress_bar(progress)
    return "" if task.state in ("success", "waiting") else task.state.replace("_", " ")


def progress_bar(progress: Mapping[str, Any]) -> RenderableType:
    """Return a progress bar with counts and a note."""
    grid = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=progress["total"], completed=progress["done"], width=24)
    grid.add_row(bar, Text(counts_of(progress)))
    return grid


def counts_of(progress: Mapping[str, Any]) -> str:
    """Return progress in words, such as `1,200/2,400 images loss 2.1`; empty where nothing is counted."""
    if not progress.get("total"):
        return ""
    counts = f"{progress['done']:,}/{progress['total']:,}"
    return f"{counts} {progress.get('unit', '')} {progress.get('text', '')}".rstrip()


def render_summary(summary: Mapping[str, Any]) -> RenderableType:
    """Return the panel of an ended run: decision, reasons, scores, served answers, version, time."""
    if summary.get("skipped"):
        return Panel(Text(summary["reason"]), title="[bold]Skipped", border_style="yellow", expand=False)
    decision = summary["decision"]
    reasons = [Text(f"• {reason}") for reason in summary["reasons"] if FIRST not in reason]
    head: list[RenderableType] = [Text(summary["sentence"], style="bold"), *reasons, Text()]
    parts = [*head, score_table(summary), Text()]
    if summary["answers"]:
        parts += [answer_table(summary["answers"]), Text()]
    parts.append(fact_grid(summary))
    title = (
        "Passed the gate, waits for approval in Airflow (DAG skumatch_release)"
        if summary.get("waits")
        else DECISIONS[decision]
    )
    if summary.get("judge_again"):
        title, decision = (
            "Passed; only the champion's gallery changed, so a refresh judges its encoder again",
            "keep",
        )
    title += " (dry run: nothing was registered)" if summary.get("dry_run") else ""
    return Panel(
        Group(*parts), title=f"[bold]{title}", border_style=COLOURS[decision], padding=(1, 2), expand=False
    )


def score_table(summary: Mapping[str, Any]) -> Table:
    """Return the scores of challenger and refreshed gallery, with intervals, side by side."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in ("top-1", "interval", "top-3", "top-5", "queries"):
        table.add_column(name, justify="right")
    for name in ("challenger", "refreshed"):
        if score := summary[name]:
            low, high = score["interval"]
            shares = [f"{100 * score[key]:.1f} %" for key in ("top3", "top5")]
            table.add_row(
                CANDIDATES[name],
                f"[bold]{100 * score['top1']:.1f} %",
                f"{100 * low:.1f} to {100 * high:.1f} %",
                *shares,
                f"{score['n']:,}",
            )
    return table


def answer_table(answers: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return each candidate's served answers.

    The columns are the shares of all photos that are right, wrong and unknown, and the share of new products'
    photos that are right.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title="Answers as they are served",
        title_justify="left",
        title_style="",
    )
    table.add_column("")
    for name in ("right", "wrong", "unknown", "photos", "of new products: right", "photos"):
        table.add_column(name, justify="right")
    for name, title in CANDIDATES.items():
        if parts := answers.get(name):
            overall, new = parts["all"], parts.get("new")
            shares = [f"{100 * overall[key]:.1f} %" for key in ("right", "wrong", "unknown")]
            fresh = (f"{100 * new['right']:.1f} %", f"{new['n']:,}") if new else ("-", "-")
            table.add_row(title, f"[bold]{shares[0]}", *shares[1:], f"{overall['n']:,}", *fresh)
    return table


def overhead(summary: Mapping[str, Any]) -> tuple[float, float]:
    """Return the seconds that Airflow, DVC and MLflow added: in all, and for each stage of dvc.yaml."""
    stages = stage_names(summary)
    own = sum(
        seconds
        for name, seconds in summary["seconds"].items()
        if name in stages and name not in summary["cached"]
    )
    total = max(summary["wall"] - summary["waited"] - own, 0.0)
    return total, total / max(len(stages), 1)


def stage_names(summary: Mapping[str, Any]) -> list[str]:
    """Return the names of a run's tasks that are stages of dvc.yaml."""
    return [name for name in summary["tasks"] if name not in ("pull", "register")]


def fact_grid(summary: Mapping[str, Any]) -> Table:
    """Return version, cached stages, time, products and vectors of a run, a row each."""
    total, mean = overhead(summary)
    stages, cached = stage_names(summary), summary["cached"]
    aliases = ", ".join(
        f"{name} = {version}" for name, version in sorted((summary.get("aliases") or {}).items())
    )
    version = f"{summary['version']}" if summary["version"] is not None else "none registered"
    waited = (
        f"{summary['waited']:.1f} s of waiting for an earlier run, " if summary["waited"] >= NOTICED else ""
    )
    products = summary["products"]
    facts = {
        "Version": version + (f" ({aliases})" if aliases else ""),
        "Cached": "cached throughout" if set(stages) <= set(cached) else ", ".join(cached) or "nothing",
        "Time": f"{summary['wall']:.1f} s, of it {waited}orchestration {total:.1f} s ({mean:.1f} s a stage)",
    }
    if products and (products["new"] or products["retired"]):
        facts["Products"] = f"{products['new']:,} new in today's gallery, {products['retired']:,} retired"
    if vectors := (summary.get("vectors") or {}).values():
        computed, known = (sum(counts[kind] for counts in vectors) for kind in ("computed", "known"))
        facts["Vectors"] = f"{computed:,} computed, {known:,} known"
    grid = Table.grid(padding=(0, 2))
    for name, fact in facts.items():
        grid.add_row(Text(name, style="dim"), Text(fact, overflow="fold"))
    return grid


def links(summary: Mapping[str, Any], settings: Settings) -> str:
    """Return links to report, MLflow and Airflow, each on a line of its own.

    With an Airflow elsewhere, the report's link leads to the run's artifacts in MLflow.
    """
    mlflow, report = summary.get("mlflow_run") or settings.models_page, str(summary["report"])
    if settings.airflow and summary.get("mlflow_run"):
        page, query, view = mlflow.partition("?")
        report = f"{page}/artifacts/report/report.html{query}{view}"
    dag = summary.get("dag", "skumatch_retrain")
    places = {
        "Report": report,
        "MLflow": mlflow,
        "Airflow": f"{settings.airflow_url}/dags/{dag}/runs/{summary['run']}",
    }
    return "\n".join(f"{name:<8} {place}" for name, place in places.items())
