"""``study.html``: one file that needs nothing else, neither network nor scripts, in the look of a replay's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mile_edge.replay.page.markup import DASH, esc, expert_colors, number, percent, table
from mile_edge.replay.page.sections import tile
from mile_edge.replay.page.sheet import Part, sheet
from mile_edge.studies.page import tables
from mile_edge.studies.page.charts import Axis, Curve, chart, linear_axis, log_axis

_MIB = 1 << 20
_GATED = "mile-mahalanobis"


def render_page(report: Mapping[str, Any]) -> str:
    """Render a study's report, as :func:`mile_edge.studies.report.build_report` made it, to a whole HTML document."""
    colors = expert_colors(report["methods"])
    tasks = expert_colors(["", *report["tasks"]])
    orders = list(report["orders"])
    parts: list[Part] = []
    for order in orders:
        several = f": {order}" if len(orders) > 1 else ""
        told = (
            f"{' → '.join(report['orders'][order])}. Mean IoU over all tasks after the last; differences in points. "
            "BWT is what earlier tasks lost since they were learned; the plasticity gap is what tasks fell short, when "
            "just learned, of a network trained for each alone."
        )
        cost = "Bytes that one more task adds, all bytes after the last task, and times; training is processor time."
        sections = (
            ("compare", "Comparison", told, tables.comparison(report, order, colors)),
            ("cost", "Cost", cost, tables.cost(report, order, colors)),
            ("course", "After each task", "Mean IoU over the tasks so far.", _course(report, order, colors)),
            ("bytes", "Accuracy and bytes", "After the last task, base included.", _bytes(report, order, colors)),
        )
        parts += [(f"{name}-{order}", f"{title}{several}", why, content) for name, title, why, content in sections]
    if report["latency"]:
        told = "ONNX Runtime, one thread, one frame at a time, passes in turns. No GPU."
        parts.append(("latency", "Latency", told, _latency(report, colors)))
    parts.append(("gate", "Gate", "Test frames by their task and by the task of the expert that was chosen.",
                  tables.confusions(report, tasks, colors)))  # fmt: skip
    if report["leave_one_out"]:
        told = (
            "Every task under the experts of all others, as if nobody had seen its domain. Difference to the hard gate "
            "in points, with 95 % intervals: of single tasks over their test frames, of the mean over tasks and seeds."
        )
        parts.append(("unseen", "Unseen domains", told, tables.unseen(report, colors)))
    parts.append(("matrices", "Matrices", "Mean IoU on every task after each task was learned.",
                  tables.matrices(report, colors)))  # fmt: skip
    parts.append(("tasks", "Tasks", "", tables.tasks(report)))
    return sheet(f"Study {report['study']}", _header(report, orders), parts, _footer(report))


def _header(report: Mapping[str, Any], orders: Sequence[str]) -> str:
    skipped = len(report["skipped"])
    pill = '<span class="pill good">complete</span>'
    if skipped:
        pill = f'<span class="pill warn">{skipped} task{"s" if skipped > 1 else ""} skipped</span>'
    facts = {
        "base": report["base"]["name"],
        "tasks": len(report["tasks"]),
        "orders": len(orders),
        "seeds": len(report["seeds"]),
        "methods": len(report["methods"]),
        "made": report["created"].replace("T", " "),
    }
    meta = "".join(f"<span>{esc(name)} <b>{esc(value)}</b></span>" for name, value in facts.items())
    return (
        f'<header class="top"><div class="over">mile-edge study</div><h1>{esc(report["study"])}{pill}</h1>'
        f'<div class="meta">{meta}</div>{_tiles(report, orders[0])}</header>'
    )


def _tiles(report: Mapping[str, Any], order: str) -> str:
    def figure(method: str, name: str) -> float | None:
        found = report["methods"].get(method)
        value: float | None = None if found is None else found["figures"][order][name]["mean"]
        return value

    gated, sequential = figure(_GATED, "final_mean"), figure("sequential-full", "final_mean")
    lost, proof = figure(_GATED, "oracle_minus_gated"), report["forgetting_with_oracle_routing"]
    shown = [tile("MILE, gated", number(gated, 3), "", f"final mean, order {order}")]
    if gated is not None and sequential is not None:
        note = f"full fine-tuning in turn: {sequential:.3f}"
        shown.append(tile("Over sequential", f"{100 * (gated - sequential):+.1f}", "points", note))
    shown.append(
        tile("Oracle less gated", DASH if lost is None else f"{100 * lost:.2f}", "points", "what the gate costs")
    )
    shown.append(tile("Gate right", percent(figure(_GATED, "gate_accuracy")), "", "of all test frames"))
    if proof is not None:
        value = "0" if proof["bit_identical"] else str(len(proof["different"]))
        told = f"{proof['compared']} sets of masks compared bit by bit"
        shown.append(tile("Forgetting, expert named", value, "" if proof["bit_identical"] else "sets differ", told))
    per_base = report["methods"].get(_GATED, {}).get("experts_per_base")
    shown.append(tile("Experts per base", number(per_base, 0), "", "adapters that weigh as much"))
    return f'<div class="tiles">{"".join(shown)}</div>'


def _course(report: Mapping[str, Any], order: str, colors: Mapping[str, str]) -> str:
    curves = []
    for name, method in report["methods"].items():
        each = method["figures"][order]["after_each"]
        points = [
            (float(place), figure["mean"], _ends(figure))
            for place, figure in enumerate(each, 1)
            if figure["mean"] is not None
        ]
        curves.append(Curve(name, points))
    tasks = report["orders"][order]
    places = [float(place) for place in range(1, len(tasks) + 1)]
    x = Axis("after this task", places, [f"{place:.0f} {task}" for place, task in zip(places, tasks, strict=True)])
    return chart("Accuracy after each task", curves, x, _heights(curves), colors)


def _bytes(report: Mapping[str, Any], order: str, colors: Mapping[str, str]) -> str:
    curves = []
    for name, method in report["methods"].items():
        figure = method["figures"][order]["final_mean"]
        if figure["mean"] is not None:
            curves.append(Curve(name, [(method["stored"][order]["total"] / _MIB, figure["mean"], _ends(figure))]))
    sizes = [curve.points[0][0] for curve in curves] or [1.0]
    return chart("Accuracy and bytes", curves, log_axis("MiB stored", min(sizes), max(sizes)), _heights(curves), colors)


def _latency(report: Mapping[str, Any], colors: Mapping[str, str]) -> str:
    found: dict[str, list[tuple[float, float, None]]] = {}
    for row in report["latency"]:
        found.setdefault(row["gate"], []).append((float(row["experts"]), row["ms"], None))
    marks = sorted({experts for points in found.values() for experts, _, _ in points if experts})
    # The base has no experts: its one time is drawn all along.
    curves = [
        Curve(gate, sorted(points if points[0][0] else [(mark, points[0][1], None) for mark in marks]))
        for gate, points in found.items()
    ]
    x = Axis("experts in the bank", marks, [f"{mark:.0f}" for mark in marks], log=True)
    times = [point[1] for curve in curves for point in curve.points]
    named = expert_colors(found)
    drawn = chart("Latency by number of experts", curves, x, linear_axis("ms per frame", 0, max(times)), named)
    head = [("pass", ""), ("experts", "num"), ("ms", "num"), ("over the base", "num")]
    rows = [
        [
            (esc(row["gate"]), ""),
            (str(row["experts"]), "num"),
            (number(row["ms"], 1), "num"),
            (number(row["over_base"], 3), "num"),
        ]
        for row in report["latency"]
    ]
    return drawn + table(head, rows)


def _heights(curves: Sequence[Curve]) -> Axis:
    values = [point[1] for curve in curves for point in curve.points] or [0.0, 1.0]
    return linear_axis("mIoU", min(values), max(values))


def _ends(figure: Mapping[str, Any]) -> tuple[float, float] | None:
    return None if figure["low"] is None else (figure["low"], figure["high"])


def _footer(report: Mapping[str, Any]) -> str:
    told = " · ".join(f"{name} {value}" for name, value in report["versions"].items())
    return (
        f"<footer>Base {esc(report['base']['sha256'][:12])} · {esc(told)}<br>Training is processor time of one thread. "
        "All numbers are in study.json beside this page.</footer>"
    )
