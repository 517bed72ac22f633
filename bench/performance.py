#!/usr/bin/env python3
"""Measures how costs grow and draws it: docs/performance/*.json, *.svg and the tables in docs/performance.md.

    cargo build --release && python3 bench/performance.py

Needs nothing but Python 3 and the release binary. The engine that `connmix bench` starts is bound to core 0, the client to
core 1. Each point is the median of several runs. Names of series as arguments measure those alone; `plot` draws again from the
JSON without measuring.
"""

import json
import math
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = ROOT / "target" / "release" / "connmix"
OUT = ROOT / "docs" / "performance"
RUNS = 3

# name, title, what is on the x axis, its values, arguments for a value, figures to keep
SERIES = [
    (
        "subscribers",
        "Fan-out: one publish at a time to n subscribers",
        "subscribers",
        [10, 30, 100, 300, 1000, 3000, 10000, 15000],
        lambda n: ["fanout", "--subscribers", n, "--messages", min(5000, max(20, 300000 // n)), "--window", 1],
        ["deliveries_per_second", "delay_median", "delay_p99"],
    ),
    (
        "channels",
        "n channels with one subscriber each, 8 publishers",
        "channels",
        [1, 10, 100, 1000, 10000, 100000, 1000000],
        lambda n: ["fanout", "--subscribers", min(n, 1000), "--subscriptions", max(1, n // 1000), "--channels", n,
                   "--messages", 50000, "--window", 8, "--publishers", 8],
        ["publishes_per_second", "delay_median", "delay_p99"],
    ),
    (
        "unheard",
        "Publish to a channel that nobody is in, beside n channels",
        "channels",
        [1, 1000, 1000000],
        lambda n: ["fanout", "--subscribers", min(n, 1000), "--subscriptions", max(1, n // 1000), "--channels", n,
                   "--messages", 50000, "--window", 8, "--publishers", 8, "--unheard"],
        ["publishes_per_second", "publish_median", "publish_p99"],
    ),
    (
        "subscriptions",
        "1,000 connections in n channels each, one publish at a time to 1,000 subscribers",
        "subscriptions of a connection",
        [1, 10, 100, 1000],
        lambda n: ["fanout", "--subscribers", 1000, "--subscriptions", n, "--channels", n, "--messages", 300,
                   "--window", 1],
        ["deliveries_per_second", "delay_median", "delay_p99"],
    ),
    (
        "size",
        "Messages of n bytes to 1,000 subscribers, one at a time",
        "bytes",
        [64, 256, 1024, 4096, 16384, 65536],
        lambda n: ["fanout", "--subscribers", 1000, "--messages", 200, "--window", 1, "--size", n],
        ["deliveries_per_second", "delay_median", "delay_p99"],
    ),
    (
        "churn",
        "1,000 subscribers while n % more come and go, one publish at a time",
        "percent",
        [0, 1, 3, 10],
        lambda n: ["fanout", "--subscribers", 1000, "--messages", 500, "--window", 1, "--churn", n],
        ["deliveries_per_second", "churned_per_second", "delay_median", "delay_p99"],
    ),
    (
        "window",
        "1,000 subscribers, n messages under way",
        "messages under way",
        [1, 4, 16, 64],
        lambda n: ["fanout", "--subscribers", 1000, "--messages", 300 + 60 * n, "--window", n],
        ["deliveries_per_second", "delay_median", "delay_p99"],
    ),
    (
        "depth",
        "The shipped handler on 64 connections, n messages under way on each",
        "messages under way on each",
        [1, 4, 16],
        lambda n: ["handler", "--connections", 64, "--messages", 100000 * n, "--depth", n],
        ["messages_per_second"],
    ),
]


def measure_point(arguments):
    command = [str(BINARY), "bench"] + [str(a) for a in arguments] + ["--json", "--server-cpu", "0", "--client-cpu", "1"]
    runs = []
    for _ in range(RUNS):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}\n{done.stderr}")
        runs.append(json.loads(done.stdout))
    return runs


def measure(only):
    OUT.mkdir(parents=True, exist_ok=True)
    for name, title, axis, values, arguments, figures in SERIES:
        if only and name not in only:
            continue
        points = []
        for value in values:
            runs = measure_point(arguments(value))
            points.append({"x": value, "runs": runs})
            median = statistics.median(r[figures[0]] for r in runs)
            print(f"{name} {value}: {figures[0]} {median:,.0f}", flush=True)
        document = {"name": name, "title": title, "axis": axis, "figures": figures, "points": points}
        (OUT / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def median_of(point, figure):
    values = [r[figure] for r in point["runs"] if r[figure] is not None]
    return statistics.median(values) if values else None


START, END = "<!-- tables: bench/performance.py -->", "<!-- end of tables -->"
COLOURS = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd"]


def log_ticks(low, high):
    return [10.0 ** e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]


def plot(document):
    """Both axes logarithmic, so that linear growth is a line of slope one."""
    width, height, left, bottom, top, right = 720, 420, 80, 60, 50, 210
    points = document["points"]
    xs = [max(p["x"], 0.5) for p in points]
    curves = []
    for figure in document["figures"]:
        values = [median_of(p, figure) for p in points]
        if any(v for v in values):
            curves.append((figure, values))
    positive = [v for _, values in curves for v in values if v]
    ys, xt = log_ticks(min(positive), max(positive)), log_ticks(min(xs), max(xs))
    x_low, x_high = math.log10(xt[0]), math.log10(xt[-1]) if xt[-1] > xt[0] else math.log10(xt[0]) + 1
    y_low, y_high = math.log10(ys[0]), math.log10(ys[-1]) if ys[-1] > ys[0] else math.log10(ys[0]) + 1
    px = lambda v: left + (math.log10(v) - x_low) / (x_high - x_low) * (width - left - right)
    py = lambda v: height - bottom - (math.log10(v) - y_low) / (y_high - y_low) * (height - bottom - top)
    short = lambda v: f"{v:,.0f}" if v >= 1 else f"{v:g}"
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="26" font-size="15">{document["title"]}</text>',
        f'<text x="{(left + width - right) / 2}" y="{height - 16}" text-anchor="middle">{document["axis"]}</text>',
    ]
    for v in xt:
        svg.append(f'<line x1="{px(v):.1f}" y1="{top}" x2="{px(v):.1f}" y2="{height - bottom}" stroke="#ddd"/>')
        svg.append(f'<text x="{px(v):.1f}" y="{height - bottom + 18}" text-anchor="middle">{short(v)}</text>')
    for v in ys:
        svg.append(f'<line x1="{left}" y1="{py(v):.1f}" x2="{width - right}" y2="{py(v):.1f}" stroke="#ddd"/>')
        svg.append(f'<text x="{left - 6}" y="{py(v) + 4:.1f}" text-anchor="end">{short(v)}</text>')
    for i, (figure, values) in enumerate(curves):
        colour = COLOURS[i % len(COLOURS)]
        placed = [(px(x), py(v)) for x, v in zip(xs, values) if v]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        svg.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        svg += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        unit = " (us)" if figure.startswith(("delay", "publish_", "round")) else ""
        y = top + 12 + 18 * i
        svg.append(f'<rect x="{width - right + 14}" y="{y - 9}" width="10" height="10" fill="{colour}"/>')
        svg.append(f'<text x="{width - right + 30}" y="{y}">{figure.replace("_", " ")}{unit}</text>')
    svg.append("</svg>\n")
    (OUT / f'{document["name"]}.svg').write_text("\n".join(svg))


def table(document):
    heads = [f.replace("_", " ") for f in document["figures"]]
    lines = [f'### {document["title"]}', "", f'![{document["title"]}](performance/{document["name"]}.svg)', ""]
    lines.append("| " + " | ".join([document["axis"]] + heads) + " |")
    lines.append("|" + "---:|" * (len(heads) + 1))
    for p in document["points"]:
        medians = [median_of(p, f) for f in document["figures"]]
        cells = [f"{m:,.0f}" if m is not None else "-" for m in medians]
        lines.append("| " + " | ".join([f'{p["x"]:,}'] + cells) + " |")
    return "\n".join(lines) + "\n"


def draw():
    tables = []
    for name, *_ in SERIES:
        file = OUT / f"{name}.json"
        if file.exists():
            document = json.loads(file.read_text())
            plot(document)
            tables.append(table(document))
    page = OUT.with_suffix(".md")
    before, _, rest = page.read_text().partition(START)
    _, _, after = rest.partition(END)
    page.write_text(before + START + "\n\n" + "\n".join(tables) + "\n" + END + after)


if __name__ == "__main__":
    if "plot" not in sys.argv[1:]:
        measure(sys.argv[1:])
    draw()
