"""The report's tables and charts, apart from the timeline and the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mile_edge.replay.page.markup import DASH, bar, chip, count, esc, number, percent, rgb, table, topic_name

_STAGES = {
    "decode": "message to array",
    "map": "sensor profile to three channels",
    "resize": "to the network's size",
    "network": "gate, expert and segmentation in one pass",
    "restore": "mask to the frame's size",
    "total": "message to mask",
}


def tiles(report: Mapping[str, Any]) -> str:
    """The figures to see first."""
    latency, gate = report["latency_ms"], report["gate"]
    lost = sum(report["skipped"].values())
    accuracy = gate["accuracy"]
    shown = [
        ("Frames", count(report["frames"]), "", _topics_text(len(report["topics"]))),
        ("Throughput", number(report["frames_per_second"], 1), "fps", "decoding and writing included"),
        (
            "Latency p50",
            number(latency["p50"], 1),
            "ms",
            f"p95 {number(latency['p95'], 1)} · p99 {number(latency['p99'], 1)}",
        ),
        (
            "Gate accuracy",
            DASH if accuracy is None else f"{accuracy * 100:.1f}",
            "" if accuracy is None else "%",
            gate["reason"] or f"over {count(gate['frames'])} frames",
        ),
        (
            "Mean IoU",
            number(report["miou"], 3),
            "",
            report["miou_reason"] or f"over {count(report['labelled_frames'])} labelled frames",
        ),
        ("Novel frames", percent(report["novel"]), "", "of streams that no expert knows"),
        ("Skipped", count(lost), "", _lost_text(lost, report["frames"])),
    ]
    return '<div class="tiles">' + "".join(tile(*each) for each in shown) + "</div>"


def _lost_text(lost: int, frames: int) -> str:
    if lost:
        return "each with its reason below"
    return "nothing was lost" if frames else "no frame was replayed"


def _topics_text(number: int) -> str:
    return "on 1 topic" if number == 1 else f"on {number} topics"


def tile(name: str, value: str, unit: str, note: str) -> str:
    """One figure with its name, unit and note."""
    small = f"<small>{esc(unit)}</small>" if unit else ""
    return (
        f'<div class="tile"><div class="name">{esc(name)}</div><div class="value">{esc(value)}{small}</div>'
        f'<div class="note">{esc(note)}</div></div>'
    )


def topics(report: Mapping[str, Any], colors: Mapping[str, str]) -> str:
    """One row per topic."""
    head = [("topic", ""), ("sensor", ""), ("frames", "num"), ("rate", "num"), ("labelled", "num"), ("mIoU", "")]
    head += [("confidence", "num"), ("novel", "num"), ("experts", "")]
    rows = []
    for name, topic in report["topics"].items():
        sizes = topic["sizes"]
        size = sizes[0] if len(sizes) == 1 else f"{len(sizes)} sizes"
        used = "".join(
            chip(expert, colors.get(expert, "#888"), percent(frames / topic["frames"], 0))
            for expert, frames in list(topic["experts"].items())[:4]
        )
        rows.append(
            [
                (topic_name(name), "wrap"),
                (f'{esc(topic["kind"])}<br><span class="soft fact">{esc(topic["encoding"])}, {esc(size)}</span>', ""),
                (count(topic["frames"]), "num"),
                (DASH if topic["hz"] is None else f"{topic['hz']:.1f} Hz", "num"),
                (count(topic["labelled"]), "num"),
                (bar(topic["miou"]), ""),
                (number(topic["confidence"]), "num"),
                (percent(topic["novel"]), "num"),
                (f'<div class="chips" style="margin:0">{used}</div>', ""),
            ]
        )
    return table(head, rows)


def iou(report: Mapping[str, Any]) -> str:
    """IoU per class, overall and by domain."""
    if report["miou"] is None:
        return f'<p class="soft">Not measured: {esc(report["miou_reason"])}.</p>'
    domains = list(report["iou_by_domain"])
    head = [("class", ""), ("all", ""), *((esc(domain), "") for domain in domains)]
    rows = [
        [
            (chip(label["name"], rgb(label["color"])), ""),
            (bar(report["iou"][label["name"]]), ""),
            *((bar(report["iou_by_domain"][domain][label["name"]]), "") for domain in domains),
        ]
        for label in report["classes"]
    ]
    means = [report["miou"], *(report["miou_by_domain"][domain] for domain in domains)]
    filled = table(head, rows)
    last = "<td>mean</td>" + "".join(f"<td>{bar(mean)}</td>" for mean in means)
    return filled.replace("</tbody>", f'<tr class="sum">{last}</tr></tbody>')


def fused(found: Mapping[str, Any]) -> str:
    """IoU of the fused mask beside each sensor's own, by domain, and who took part how often."""
    domains = list(found["miou_by_domain"])
    head = [("mask", ""), ("moments", "num"), ("share", "num"), ("mIoU", ""), *((esc(name), "") for name in domains)]
    head.append(("absent", ""))
    rows = []
    own = [(topic_name(name), sensor) for name, sensor in found["sensors"].items()]
    for name, row in [("<b>fused</b>", {**found, "weight": 1.0, "absent": {}}), *own]:
        absent = ", ".join(f"{esc(reason)} ({count(times)})" for reason, times in row["absent"].items())
        cells = [(name, "wrap"), (count(row["moments"]), "num"), (number(row["weight"]), "num"), (bar(row["miou"]), "")]
        cells += [(bar(row["miou_by_domain"].get(domain)), "") for domain in domains]
        rows.append([*cells, (absent, "wrap soft")])
    return table(head, rows)


def gate(report: Mapping[str, Any], colors: Mapping[str, str]) -> str:
    """The gate's confusion matrix as a heat map."""
    found = report["gate"]
    told = []
    if found["unknown_domain"]:
        named = ", ".join(f"{domain} ({count(frames)})" for domain, frames in found["unknown_domain"].items())
        told.append(f"Outside the matrix: frames of domains that no expert knows: {named}.")
    if found["no_truth"]:
        told.append(f"{count(found['no_truth'])} frames have no true domain.")
    notes = "".join(f'<p class="why">{esc(sentence)}</p>' for sentence in told)
    if found["accuracy"] is None:
        return f'<p class="soft">Not measured: {esc(found["reason"])}.</p>{notes}'
    return heat(found["confusion"], colors) + notes


def heat(confusion: Mapping[str, Mapping[str, int]], colors: Mapping[str, str]) -> str:
    """Frames by the expert that is right and the one that was chosen, in the order of the colours."""
    order = list(colors)
    right = sorted(confusion, key=order.index)
    chosen = sorted({name for row in confusion.values() for name in row} | set(right), key=order.index)
    head = "".join(f"<th>{chip(name, colors[name])}</th>" for name in chosen)
    body = "".join(_heat_row(name, confusion[name], chosen, colors) for name in right)
    corner = '<th class="side">right ↓ &nbsp; chosen →</th>'
    return f'<div class="scroll"><table class="heat"><tr>{corner}{head}</tr>{body}</table></div>'


def _heat_row(name: str, row: Mapping[str, int], chosen: list[str], colors: Mapping[str, str]) -> str:
    total = sum(row.values())
    cells = []
    for column in chosen:
        frames = row.get(column, 0)
        share = frames / total
        kind = "cell" + (" dark" if share > 0.55 else "") + (" right" if column == name else "")
        text = f"{count(frames)}<small>{percent(share, 0)}</small>" if frames else '<span class="soft">·</span>'
        cells.append(f'<td class="{kind}" style="--a:{0.04 + 0.9 * share if frames else 0.03:.2f}">{text}</td>')
    return f'<tr><th class="side">{chip(name, colors[name])}</th>{"".join(cells)}</tr>'


def latency(report: Mapping[str, Any]) -> str:
    """Percentiles per stage on one scale."""
    stages = report["stages_ms"]
    if not stages:
        return '<p class="soft">No frame was replayed.</p>'
    longest = max(stage["p99"] for stage in stages.values()) or 1.0
    rows = []
    for name, told in _STAGES.items():
        stage = stages[name]
        rails = "".join(
            f'<b class="{rank}" style="width:{stage[rank] / longest * 100:.2f}%"></b>' for rank in ("p99", "p95", "p50")
        )
        nums = "".join(f"<span>{stage[rank]:.2f}</span>" for rank in ("p50", "p95", "p99"))
        rows.append(
            f'<div class="stage{" total" if name == "total" else ""}" title="{esc(told)}"><span>{esc(name)}</span>'
            f'<div class="rail">{rails}</div><div class="nums">{nums}</div></div>'
        )
    head = (
        '<div class="stage head"><span>stage</span><span></span>'
        '<div class="nums"><span>p50</span><span>p95</span><span>p99 ms</span></div></div>'
    )
    return head + "".join(rows)


def skipped(report: Mapping[str, Any]) -> str:
    """What could not be read or scored, and what was left out on purpose."""
    parts = []
    if report["skipped"]:
        examples = report["skipped_examples"]
        head = [("reason", ""), ("count", "num"), *([("first example", "")] if examples else [])]
        rows = []
        for reason, times in report["skipped"].items():
            told = [(esc(examples.get(reason, "")), "wrap soft")] if examples else []
            rows.append([(esc(reason), "wrap"), (count(times), "num"), *told])
        parts.append(table(head, rows))
    elif report["frames"]:
        parts.append('<p class="soft">Nothing: every message of the replayed topics was read and used.</p>')
    else:
        parts.append('<p class="soft">No frame was replayed, and no message was lost.</p>')
    if report["left_out"]:
        rows = [[(topic_name(t), "wrap"), (esc(why), "")] for t, why in report["left_out"].items()]
        parts.append("<h3>Image topics left out</h3>" + table([("topic", ""), ("why", "")], rows))
    parts += [f'<p class="why">{esc(note)}.</p>' for note in report["notes"]]
    return "".join(parts)
