"""Whose experts the node takes is fixed when it is configured; a new expert may begin in shadow."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mile_edge_interfaces.msg import Status

from harness import CONFIGURE, REFERENCE, Bench, Robot, eventually, image, until_flowing
from mile_edge.bundle import Bundle, expert_bytes
from mile_edge.bundle.signing import make_key, pack_expert, read_private_key, sign_expert

Start = Callable[..., Robot]


def test_under_policy_signed_only_a_publisher_s_package_enters_and_nobody_lowers_the_policy(
    bench: Bench, start: Start, bundle: Path, tmp_path: Path
) -> None:
    fog = next(expert for expert in Bundle.open(REFERENCE).experts() if expert.name == "fog")
    plain = expert_bytes(fog)
    make_key(tmp_path / "keys", "workshop")
    signed = expert_bytes(sign_expert(pack_expert(fog, 1), read_private_key(tmp_path / "keys" / "workshop.key")))
    start(bundle=str(bundle), expert_policy="signed", expert_keys=str(tmp_path / "keys"))
    assert bench.ask("remove_expert", name="fog").success
    refused = bench.ask("add_expert", data=plain, sha256=hashlib.sha256(plain).hexdigest())
    assert not refused.success
    assert "is not signed" in refused.message
    for name, value in (("expert_policy", "open"), ("expert_keys", "/tmp")):
        (answer,) = bench.set(**{name: value})
        assert not answer.successful
        assert "before configure only" in answer.reason
    added = bench.ask("add_expert", data=signed, sha256=hashlib.sha256(signed).hexdigest())
    assert added.success, added.message
    assert "fog" in list(added.experts)


def test_a_policy_that_cannot_be_kept_stops_the_node_at_configure(bench: Bench, start: Start, bundle: Path) -> None:
    robot = start(active=False, bundle=str(bundle), expert_policy="signed")
    assert not bench.change(CONFIGURE)
    eventually(lambda: "needs the folder of trusted publishers" in robot.log.read_text(), "the reason")


def test_an_expert_in_shadow_goes_live_after_its_frames(
    bench: Bench, start: Start, bundle: Path, frames: dict[str, np.ndarray]
) -> None:
    entry = Bundle.open(REFERENCE).manifest.entry("fog")
    start(bundle=str(bundle), shadow_frames=2)
    status, camera = bench.listen("camera/status", Status), bench.camera("image")
    added = bench.ask("add_expert", path=str(REFERENCE / entry.file), name="mist")
    assert added.success, added.message
    assert "in shadow for 2 frames" in added.message
    assert "mist" not in list(added.experts)

    def live() -> bool:
        until_flowing(camera, image(frames["night"], "rgb8", 1), status)
        return "mist" in list(bench.ask("list_experts").experts)

    eventually(live, "the expert live", 120.0)
