#!/usr/bin/python3
"""report.py FIGURES DIRECTORY: puts what was measured into DIRECTORY/benchmarks.md, between its two
marks, and draws DIRECTORY/benchmarks.svg. What stands outside of the marks is written by hand.
"""

import json
import math
import statistics
import sys
from pathlib import Path

BEGIN = "<!-- Measured: `make bench` writes from here -->"
END = "<!-- to here. -->"

BARE = ("bare loop in C", "bare loop, MSG_MORE")
OWN = "masterpolicyd"
QUANTILES = {"p50_us": "p50", "p99_us": "p99", "p999_us": "p99.9"}


def median(rounds, key):
    return statistics.median(figures[key] for figures in rounds)


def total(rounds, key):
    return sum(figures[key] for figures in rounds)


def cpu(peer, rounds="rounds"):
    return median(peer[rounds], "cpu_us")


def cpu_range(peer, rounds="rounds"):
    every = [figures["cpu_us"] for figures in peer[rounds]]
    return min(every), max(every)


def latency(peer, key):
    """None where most exchanges did not end in order, since those have none."""
    rounds = peer["apart"]
    return median(rounds, key) if total(rounds, "spoiled") < total(rounds, "requests") / 2 else None


def mib(kib):
    return f"{kib / 1024:.1f}"


def table(head, rows, right=True):
    rule = ["---"] + [("---:" if right else "---")] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows]) + "\n"


def comparison(figures, peers):
    own = peers[OWN]
    costs, ends = [], []
    for peer in figures["peers"]:
        name = f"**{peer['name']}**" if peer["name"] == OWN else peer["name"]
        cost = [name]
        for rounds in ("rounds", "apart"):
            low, high = cpu_range(peer, rounds)
            ratio = cpu(own, rounds) / cpu(peer, rounds)
            cost += [f"{cpu(peer, rounds):.2f}", f"{low:.2f}–{high:.2f}", f"{ratio:.2f}"]
        costs.append(cost)
        apart, every = peer["apart"], peer["rounds"] + peer["apart"]
        ends.append([
            name,
            f"{median(apart, 'requests_per_second'):,.0f}",
            *("–" if latency(peer, key) is None else f"{latency(peer, key):,.0f}" for key in QUANTILES),
            f"{total(every, 'spoiled'):,} of {total(every, 'requests'):,}",
            f"{total(every, 'resets'):,}",
            f"{peer['descriptors_left']:,}",
        ])
    return table(
        ["CPU per request, µs", "busy", "rounds", "masterpolicyd ÷ it", "at ease", "rounds", "masterpolicyd ÷ it"],
        costs,
    ) + "\n" + table(
        ["server", "requests/s", "p50, µs", "p99, µs", "p99.9, µs", "exchanges spoiled", "resets sent",
         "descriptors left open"],
        ends,
    )


def memory(figures):
    rows = []
    for peer in figures["peers"]:
        held = peer["connections"]
        rows.append([
            peer["name"],
            mib(peer["resident_idle_kib"]),
            mib(held["silent_kib"]) if held else "–",
            mib(held["begun_kib"]) if held else "–",
        ])
    counts = [peer["connections"]["count"] for peer in figures["peers"] if peer["connections"]]
    count = f"{max(counts, default=0):,}"
    return table(
        ["resident memory, MiB", "idle", f"{count} connections, nothing sent",
         f"{count} connections, 10 bytes sent"],
        rows,
    )


def calls(peer):
    """System calls in the order of how often they are made; the failed ones in brackets."""
    made = sorted(peer["system_calls"].items(), key=lambda item: -item[1]["per_request"])
    return ", ".join(
        f"{name} {count['per_request']:.2f}" + (f" ({count['failed']:.2f} in vain)" if count["failed"] >= 0.005 else "")
        for name, count in made
        if count["per_request"] >= 0.005
    )


def system_calls(figures):
    rows = []
    for peer in figures["peers"]:
        if peer["system_calls"]:
            every = sum(count["per_request"] for count in peer["system_calls"].values())
            rows.append([peer["name"], f"{every:.2f}", calls(peer)])
    return table(["server", "system calls per request", "which"], rows, right=False)


def pair_ratio(pair):
    return median(pair["burdened"], "cpu_us") / median(pair["plain"], "cpu_us")


def every_exchange(figures, own):
    loads = own["rounds"] + own["apart"] + ([figures["daemon"]["rest"]] if figures["daemon"]["rest"] else [])
    return tuple(total(loads, key) for key in ("requests", "spoiled", "resets"))


def targets(figures, peers):
    own, daemon = peers[OWN], figures["daemon"]
    rows = []

    def at_most(what, limit, value, unit="", digits=2):
        met = "yes" if value <= limit else "**no**"
        rows.append([what, f"≤ {limit}{unit}", f"{value:.{digits}f}{unit}", met])

    floor = min((peers[name] for name in BARE if name in peers), key=cpu, default=None)
    if floor:
        at_most(f"CPU per request ÷ that of the better bare loop ({floor['name']})", 1.10, cpu(own) / cpu(floor))
    for name, limit in (("nginx", 0.70), ("HAProxy", 0.42), ("Node", 0.20)):
        for peer in figures["peers"]:
            if peer["name"].startswith(name):
                at_most(f"CPU per request ÷ that of {peer['name']}", limit, cpu(own) / cpu(peer))
    requests, spoiled, resets = every_exchange(figures, own)
    at_most(f"exchanges of {requests:,} not whole or not ended in order, and resets", 0, spoiled + resets, digits=0)
    if own["system_calls"]:
        made = own["system_calls"]
        polls = (made[name]["per_request"] for name in ("epoll_wait", "getsockopt") if name in made)
        shared = sum(polls) + made["accept4"]["failed"]
        served = sum(count["per_request"] for count in made.values()) - shared
        at_most("system calls per request beside those that are shared (epoll_wait, getsockopt for how many wait)",
                4, round(served, 2))
        at_most("epoll_ctl per request", 0, round(made.get("epoll_ctl", {"per_request": 0})["per_request"], 2))
    at_most("resident memory, idle", 3, own["resident_idle_kib"] / 1024, " MiB", 1)
    held = own["connections"]
    if held:
        most = max(held["silent_kib"], held["begun_kib"])
        at_most(f"resident memory, {held['count']:,} idle connections", 8, most / 1024, " MiB", 1)
    if daemon["idle"]:
        at_most(f"CPU per request with {daemon['idle_count']:,} idle connections ÷ without", 1.1, pair_ratio(daemon["idle"]))
    one, many = daemon["rules"]["answers"]
    at_most(f"CPU per request with {daemon['rules_count']:,} rules ÷ with one (answers of {many:,} and {one:,} bytes)", 1.1,
            pair_ratio(daemon["rules"]))
    at_most("start to READY, median", 10, statistics.median(daemon["start_ms"]), " ms", 1)
    reload = daemon["reload"]
    at_most(f"reload of {reload['drop_ins']:,} drop-ins, median", 50, statistics.median(reload["milliseconds"]), " ms", 1)
    at_most("stripped binary", 3, daemon["binary_bytes"] / 2**20, " MiB", 2)
    text = table(["target", "limit", "measured", "met"], rows, right=False)
    return text + (
        f"\nThe longest wait of a request while drop-ins were reloaded {len(reload['milliseconds'])} times: "
        f"{reload['longest_wait_ms']:.1f} ms; without a reload {reload['longest_wait_without_ms']:.1f} ms.\n"
    )


def cases(what, rows, *columns):
    """Each way of doing one thing, as it was measured."""
    shown = {
        "CPU per request, µs": lambda row: f"{row['figures']['cpu_us']:.2f}",
        "requests/s": lambda row: f"{row['figures']['requests_per_second']:,.0f}",
        "p50, µs": lambda row: f"{row['figures']['p50_us']:,.0f}",
        "p99, µs": lambda row: f"{row['figures']['p99_us']:,.0f}",
        "exchanges spoiled": lambda row: f"{row['figures']['spoiled']:,} of {row['figures']['requests']:,}",
        "silent connections meanwhile": lambda row: f"{row['silent']:,}",
    }
    return table([what, *columns], [[row["name"], *(shown[column](row) for column in columns)] for row in rows])


def draw(figures, path):
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    # The same figures draw the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "masterpolicyd", "svg.fonttype": "none", "font.size": 9})
    peers = figures["peers"][::-1]
    names = [peer["name"] for peer in peers]
    colours = ["#b5482a" if name == OWN else "#8a9ba8" for name in names]
    chart, (left, right) = plt.subplots(1, 2, figsize=(10, 0.45 * len(peers) + 1.4), sharey=True)

    middles = [cpu(peer) for peer in peers]
    spread = [
        [middle - cpu_range(peer)[0] for middle, peer in zip(middles, peers)],
        [cpu_range(peer)[1] - middle for middle, peer in zip(middles, peers)],
    ]
    left.barh(names, middles, color=colours, xerr=spread, error_kw={"elinewidth": 1, "ecolor": "#333333"})
    for row, middle in enumerate(middles):
        left.annotate(f"{middle:.1f}", (middle + spread[1][row], row), xytext=(4, 0), textcoords="offset points", va="center")
    left.set_xlim(0, 1.12 * max(middle + more for middle, more in zip(middles, spread[1])))
    left.set_xlabel("CPU per request, busy, µs: median and range")

    for (key, label), marker in zip(QUANTILES.items(), "os^"):
        latencies = [latency(peer, key) or float("nan") for peer in peers]
        right.scatter(latencies, names, marker=marker, label=label, c=colours)
    right.set_xscale("log")
    decades = [math.log10(value) for value in right.get_xlim()]
    right.set_xlim(10 ** math.floor(decades[0]), 10 ** math.ceil(decades[1]))
    right.xaxis.set_major_formatter("{x:,.0f}")
    right.xaxis.set_minor_formatter(lambda value, position: "")
    right.set_xlabel("connect to end of stream, at ease, µs")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    chart.tight_layout()
    chart.savefig(path, format="svg", metadata={"Date": None})


def page(figures):
    peers = {peer["name"]: peer for peer in figures["peers"]}
    command = "make bench QUICK=1" if figures["quick"] else "make bench"
    rounds = len(peers[OWN]["rounds"])
    parts = [
        f"`{command}` on {figures['date']}, commit {figures['commit']}: {figures['machine']}. "
        f"{rounds} rounds of {figures['requests']:,} requests, {figures['concurrency']} at a time, "
        f"for an answer of {figures['answer_bytes']} bytes.\n"
    ]
    if figures["quick"]:
        parts.append("**A quick run: too few requests for anything but a first impression.**\n")
    if figures["missing"]:
        parts.append(f"Not installed, so not measured: {'; '.join(figures['missing'])}.\n")
    parts += ["![CPU per request and latency of each server](benchmarks.svg)\n", comparison(figures, peers)]
    if figures.get("daemon"):
        parts += [targets(figures, peers), memory(figures), system_calls(figures)]
    decisions = figures.get("decisions")
    if decisions:
        parts += [
            cases("clients that connect and say nothing", decisions["floods"], "requests/s", "p50, µs",
                  "p99, µs", "exchanges spoiled", "silent connections meanwhile"),
            cases("a listener, one client at a time", decisions["listeners"], "p50, µs", "p99, µs",
                  "exchanges spoiled"),
            cases("processes behind one address", decisions["workers"], "CPU per request, µs",
                  "requests/s", "p50, µs", "p99, µs", "exchanges spoiled"),
        ]
    return "\n".join(parts)


def main():
    figures = json.loads(Path(sys.argv[1]).read_text())
    directory = Path(sys.argv[2])
    document = directory / "benchmarks.md"
    before, rest = document.read_text().split(BEGIN)
    after = rest.split(END)[1]
    document.write_text(f"{before}{BEGIN}\n\n{page(figures)}\n{END}{after}")
    draw(figures, directory / "benchmarks.svg")


if __name__ == "__main__":
    main()
