"""Make the README's pictures from a real run on the sample.

Run `skumatch up`, then `python docs/images/render.py RUN`. RUN is the run's id (the name of its report).
Without RUN only summary.svg is drawn again, from summary.json. The report's pictures need Chromium. Only runs
on the rendered sample belong here: other photos are not ours to show.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.spinner import Spinner

from skumatch.config import Settings, user
from skumatch.files import read_json, write_json, write_text
from skumatch.servers.summary import Task, links, render_summary, task_table

HERE = Path(__file__).parent
HOME = "/home/me/skumatch/.skumatch"  # shown instead of the folder of whoever made the pictures
CHART, MISTAKES = 1, 6  # places of the page's cards, from 0
MISTAKES_HEIGHT = 544  # pixels: heading and first row
CHROMIUM = [
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-sync",
]


def draw(summary: dict[str, Any]) -> str:
    """The terminal's last words of a run, as SVG without fonts from elsewhere."""
    console = Console(
        record=True,
        width=112,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    stages = yaml.safe_load((HERE.parents[1] / "dvc.yaml").read_text("utf-8"))["stages"]
    ran = [name for name in ("pull", *stages, "register") if name in summary["tasks"]]
    tasks = [Task(name, "success", 1, summary["tasks"][name]) for name in ran]
    console.print(task_table(summary["run"], tasks, {}, "success", Spinner("dots")))
    console.print(render_summary(summary))
    console.print(
        links(summary, Settings(airflow_port=8080, mlflow_port=5000, mlflow=None)) + "\n", highlight=False
    )
    local = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
        "Fira Code", "DejaVu Sans Mono"
    )
    svg = console.export_svg(title="make run", code_format=local, unique_id="summary")
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def fetch(run: str, settings: Settings) -> dict[str, Any]:
    """Fetch a finished run's summary from the running servers, without any path of this machine."""
    from skumatch.servers.follow import follow

    text = json.dumps(follow(settings, run, Console(file=io.StringIO())))
    text = text.replace(str(settings.home_dir), HOME)
    text = text.replace(settings.mlflow_url, "http://127.0.0.1:5000").replace(
        settings.airflow_url, "http://127.0.0.1:8080"
    )
    return dict(json.loads(text))


def photograph(report: Path, settings: Settings) -> None:
    """report.png: the page's head. mistakes.png: the first row of its mistakes."""
    text = report.read_text("utf-8").replace(str(settings.home_dir), HOME)
    with tempfile.TemporaryDirectory() as folder:
        shown = Path(folder) / "report.html"
        write_text(shown, text.replace(f" by {user()} (", " by me ("))
        page = shot(shown, 1100, 9000)
    cards = cards_of(page)
    top = cards[MISTAKES][0]
    page.crop((0, 0, page.width, cards[CHART][1] + 16)).quantize(128).save(HERE / "report.png", optimize=True)
    page.crop((0, top - 16, page.width, top + MISTAKES_HEIGHT)).quantize(256).save(
        HERE / "mistakes.png", optimize=True
    )


def photograph_matches(photos: Path) -> None:
    """matches.png: the head of the page of matches of the sample's test side."""
    with tempfile.TemporaryDirectory() as folder:
        out, page = Path(folder) / "m.parquet", Path(folder) / "m.html"
        subprocess.run(
            [sys.executable, "-m", "skumatch", "match", str(photos), "--out", str(out), "--html", str(page)],
            check=True,
        )
        shot(page, 1280, 880).quantize(256).save(HERE / "matches.png", optimize=True)


def shot(page: Path, width: int, height: int) -> Image.Image:
    """What Chromium shows of a page."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shot.png"
        words = [
            *CHROMIUM,
            f"--user-data-dir={folder}/profile",
            f"--window-size={width},{height}",
            f"--screenshot={path}",
            page.as_uri(),
        ]
        subprocess.run(words, check=True, capture_output=True)
        return Image.open(path).convert("RGB")


def cards_of(page: Image.Image) -> list[tuple[int, int]]:
    """Top and bottom of each white card, looked for in a column left of all text."""
    white = [page.getpixel((45, y)) == (255, 255, 255) for y in range(page.height)]
    edges = [y for y in range(1, page.height) if white[y] != white[y - 1]]
    return [(top, end) for top, end in zip(edges[::2], edges[1::2], strict=False) if end - top > 40]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        place = Settings()
        write_json(HERE / "summary.json", fetch(sys.argv[1], place))
        photograph((place.home_dir / "reports" / f"{sys.argv[1]}.html").resolve(), place)
        photograph_matches(next(place.home_dir.glob("sample-*")) / "all/test")
    write_text(HERE / "summary.svg", draw(read_json(HERE / "summary.json")))
