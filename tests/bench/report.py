"""From samples to one table: our cost, and its ratio to each peer's in the same run."""

import statistics

# Cell, title with unit, format, and the most that our cost may be of the best peer's.
ROWS = [
    ("hs", "TLS 1.3 handshake, P-256, µs", "{:.0f}", 0.95),
    ("hs_rsa", "TLS 1.3 handshake, RSA-2048, µs", "{:.0f}", 0.75),
    ("resume", "resumption, µs", "{:.0f}", 0.80),
    ("connreq", "new connection and one request, µs", "{:.0f}", 0.75),
    ("small", "HTTP/1.1 request on a kept connection, µs", "{:.1f}", 0.85),
    ("64k", "bodies of 64 KiB, s/GB", "{:.2f}", None),
    ("100k", "bodies of 100 kB, s/GB", "{:.2f}", 0.5),
    ("1m", "bodies of 1 MiB, s/GB", "{:.2f}", None),
    ("10m", "bodies of 10 MB, s/GB", "{:.2f}", 1.0),
    ("mem", "memory of an idle connection, KB", "{:.1f}", 0.4),
    ("start", "start to the first answer, ms", "{:.0f}", 1.0),
]


def medians(samples: list[dict]) -> dict[tuple[str, str], float]:
    """By cell and peer."""
    costs: dict[tuple[str, str], list[float]] = {}
    for sample in samples:
        costs.setdefault((sample["cell"], sample["peer"]), []).append(sample["cost"])
    return {key: statistics.median(found) for key, found in costs.items()}


def table(samples: list[dict], peers: list[str], ours: str) -> str:
    """Markdown. A ratio below 1 is in our favour."""
    middle = medians(samples)
    others = [name for name in peers if name != ours]
    head = [
        "server processor time for one unit",
        *peers,
        *(f"{ours}/{name}" for name in others),
        "of the best",
        "goal",
    ]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    for cell, title, form, goal in ROWS:
        costs = {name: middle[cell, name] for name in peers if (cell, name) in middle}
        if not costs:
            continue
        row = [title, *(form.format(costs[name]) if name in costs else "–" for name in peers)]
        ratios = [costs[ours] / costs[name] for name in others if name in costs and ours in costs]
        row += [f"{ratio:.2f}" for ratio in ratios]
        row += [f"**{max(ratios):.2f}**" if ratios else "–", "–" if goal is None else f"≤ {goal:.2f}"]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


# What guard may cost: the handshake with it, against an edge that holds the key itself.
GUARD_ROWS = [
    ("hs", "TLS 1.3 handshake, P-256, µs", 1.25),
    ("hs_rsa", "TLS 1.3 handshake, RSA-2048, µs", 1.05),
]


def cost_of_guard(samples: list[dict], ours: str, bare: str) -> str:
    """Markdown; empty where the edge with a key took no part."""
    middle = medians(samples)
    lines = [f"| what guard costs | {ours} | {bare} | ratio | goal |", "|---" + "|--:" * 4 + "|"]
    for cell, title, goal in GUARD_ROWS:
        if (cell, ours) in middle and (cell, bare) in middle:
            with_guard, without = middle[cell, ours], middle[cell, bare]
            lines.append(
                f"| {title} | {with_guard:.0f} | {without:.0f} | **{with_guard / without:.2f}** | ≤ {goal:.2f} |"
            )
    return "\n".join(lines) if len(lines) > 2 else ""


def noise(samples: list[dict], limit: float) -> str:
    """How far other jobs were in the way."""
    foreign = [sample["foreign"] for sample in samples if "foreign" in sample]
    if not foreign:
        return ""
    disturbed = sum(one > limit for one in foreign)
    return (
        f"other jobs: {statistics.median(foreign):.2f} processors in the median sample, {max(foreign):.2f} at most; "
        f"{disturbed} of {len(foreign)} samples with more than {limit}"
    )
