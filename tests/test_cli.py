"""The command as people and machines use it: examples, exit status, JSON, one sentence for what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundle_makers import another, write_file
from recording import START, Recording

from mile_edge.bundle import Bundle, ShadowPlan
from mile_edge.bundle.signing import pack_expert
from mile_edge.cli.main import _COMMANDS, main
from mile_edge.runtime.bench import bench

REFERENCE = Path(__file__).parents[1] / "bundles" / "reference"


# Counts of 64 bits do not hold it.
HUGE = str(10**23)


FORMS = ("calibrate gate", "calibrate int8", "experts add", "experts list", "experts remove", "experts verify")
FORMS += ("peft export", "peft import", "train base", "train expert")


@pytest.mark.parametrize("command", [*sorted(_COMMANDS), *FORMS])
def test_every_command_explains_itself_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    assert f"\n  mile-edge {command.split()[0]}" in capsys.readouterr().out


@pytest.mark.parametrize("action", ["add", "promote", "pack", "push", "pull", "list"])
def test_an_action_of_experts_shows_its_own_examples(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["experts", action, "--help"])
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  mile-edge ")]
    assert shown and all(line.startswith(f"  mile-edge experts {action} ") for line in shown)


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay", "/nowhere", "/nowhere"],
        ["inspect", "/nowhere"],
        ["experts", "list", "/nowhere"],
        ["evaluate", "/nowhere", "/nowhere"],
        ["bench", "/nowhere"],
        ["demo", "--bundle", "/nowhere"],
        ["calibrate", "gate", "/nowhere", "--data", "/nowhere"],
        ["bench", str(REFERENCE), "--rounds", "0"],
        ["bench", str(REFERENCE), "--threads", "99999999"],
        ["bench", str(REFERENCE), "--experts", "1000000"],
        ["world", "/tmp/never", "--domain", "hail"],
        ["evaluate", str(REFERENCE), "/nowhere", "--fuse", "--every", "8"],
        ["evaluate", str(REFERENCE), "/nowhere", "--fuse", "--sensor-profile", "/nowhere"],
        ["replay", str(REFERENCE), str(REFERENCE), "--threads", "99999999"],
        ["replay", str(REFERENCE), __file__, "--workers", "0"],
        ["replay", str(REFERENCE), __file__, "--workers", HUGE],
        ["replay", str(REFERENCE), __file__, "--limit", HUGE],
        ["replay", str(REFERENCE), __file__, "--limit", "1e3"],
        ["replay", str(REFERENCE), __file__, "--limit"],
        ["replay", str(REFERENCE), __file__, "--limmit", "3", "--backend", "cuda"],
        ["world", "/tmp/never", "--frames", HUGE],
        ["world", "/tmp/never", "--seed", HUGE],
        ["world", "/tmp/never", "--size", f"{HUGE}x64"],
        ["world", "/tmp/never", "--bag", "--seconds", "inf"],
        ["demo", "--rate", "nan"],
        ["bench", str(REFERENCE), "--rounds", HUGE],
        ["evaluate", str(REFERENCE), "/nowhere", "--every", HUGE],
        ["study", str(REFERENCE.parents[1] / "studies" / "small.yaml"), "--workers", HUGE],
        ["experts", "ad", str(REFERENCE), "fog.safetensors"],
        ["nonsense"],
        ["experts", "add", str(REFERENCE), __file__, "--every", "10"],
        ["experts", "add", str(REFERENCE), __file__, "--max-picked", "0.5"],
        ["experts", "add", str(REFERENCE), __file__, "--policy", "open", "--keys", "/nowhere"],
        ["replay", str(REFERENCE), __file__, "--tolerance", "20"],
        ["replay", str(REFERENCE), __file__, "--record-mb", "20"],
        ["evaluate", str(REFERENCE), "/nowhere", "--seed", "3"],
        ["world", "/tmp/never", "--rate", "5"],
        ["world", "/tmp/never", "--bag", "--frames", "5"],
        ["replay", str(REFERENCE), ""],
        ["replay", "", __file__],
        ["replay", str(REFERENCE), __file__, "--out", ""],
        ["replay", str(REFERENCE), __file__, "--class-map="],
        ["experts", "add", str(REFERENCE), __file__, "--sha256", ""],
        [],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_bad_input_is_one_sentence_and_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("mile-edge: ")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err


def test_an_option_that_would_do_nothing_says_what_it_needs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, needed in (
        (["experts", "add", str(REFERENCE), __file__, "--min-agreement", "0.9"], "without --shadow"),
        (["replay", str(REFERENCE), __file__, "--tolerance", "20"], "without --fuse"),
        (["replay", str(REFERENCE), __file__, "--cache", str(tmp_path)], "without a bag at a URL"),
        (["evaluate", str(REFERENCE), str(REFERENCE), "--seed", "1"], "without --routing random"),
        (["world", str(tmp_path / "bag"), "--bag", "--per-street", "3"], "without a folder to make"),
    ):
        assert main(words) == 2
        assert needed in capsys.readouterr().err


def test_an_output_that_lacks_letters_is_no_traceback_and_stays_json(tmp_path: Path) -> None:
    bag = tmp_path / os.fsdecode("straße-".encode() + b"\xff")
    with Recording(bag, "mcap") as recording:
        recording.image("/camera/image_raw", START, "rgb8", np.zeros((24, 32, 3), np.uint8))
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}

    def said(*words: str | Path) -> str:
        command = [sys.executable, "-m", "mile_edge", *words]
        done = subprocess.run(command, cwd=REFERENCE.parents[1], env=environment, capture_output=True, check=True)
        return done.stdout.decode("ascii")

    assert "\\u25a0" in said("inspect", REFERENCE)
    for many in ([], ["--workers", "1"]):
        report = json.loads(said("replay", REFERENCE, bag, "--json", "--out", tmp_path / "out", *many))
        assert report["frames"] == 1
        assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8")) == report


def test_bench_reports_the_contracts_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(REFERENCE), "--rounds", "2", "--experts", "3", "--json"]) == 0
    account = json.loads(capsys.readouterr().out)
    times = {"base_ms", "gated_ms", "gated_over_base", "two_pass_over_base", "switch_ms", "add_expert_ms"}
    assert times | {"expert_bytes", "base_bytes", "experts_per_base"} <= set(account)
    assert account["experts"] == 4
    assert account["fused_over_batch"] > 0.5  # the reference bundle fuses
    assert account["expert_bytes"] * account["experts_per_base"] == pytest.approx(account["base_bytes"], rel=0.01)


def test_bench_takes_a_bundle_that_was_rolled_back_and_has_an_expert_in_shadow(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(tiny_bundle)
    first = bundle.experts()[1]
    for version in (1, 2):
        bundle = bundle.add(write_file(tmp_path, pack_expert(first, version), f"{version}.safetensors"), replaces=True)
    bundle = bundle.rollback().add(write_file(tmp_path, another(tiny_bundle, "mist")), shadow=ShadowPlan(9))
    versioned = [entry.name for entry in bundle.manifest.experts].index(first.name)
    assert bench(bundle, rounds=1, experts=versioned, threads=1).experts == versioned + 1


def test_demo_writes_what_it_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "demo",
        "--out",
        str(tmp_path),
        "--domains",
        "clear,night,fog",
        "--seconds",
        "1",
        "--rate",
        "2",
        "--json",
    ]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["frames"] == 18
    assert len(report["topics"]) >= 3
    for file in ("report.json", "report.html", "predictions.mcap"):
        assert (tmp_path / file).stat().st_size > 0


def test_evaluate_and_calibrate_run_on_a_rendered_folder(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["world", str(tmp_path / "fog"), "--domain", "fog", "--frames", "4", "--seed", "77", "--json"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tiny_bundle), str(tmp_path / "fog"), "--json"]) == 0
    account = json.loads(capsys.readouterr().out)
    assert account["gate"]["accuracy"] == 1.0
    assert account["miou"] > 0.3
    assert main(["calibrate", "gate", str(tiny_bundle), "--data", str(tmp_path / "fog"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    assert manifest["gate"]["thresholds"]["fog"] == found["thresholds"]["fog"]


def test_evaluate_says_what_its_scores_leave_out(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["world", str(tmp_path / "fog"), "--domain", "fog", "--frames", "3", "--size", "48x64"]) == 0
    labels = sorted((tmp_path / "fog" / "labels").iterdir())
    labels[0].rename(labels[0].with_name("stray.png"))
    settings = tmp_path / "fog" / "classes.yaml"
    settings.write_text(settings.read_text().replace("name: sky", "name: heaven").replace("sensor:", "sensr:"))
    capsys.readouterr()
    assert main(["evaluate", str(tiny_bundle), str(tmp_path / "fog"), "--json"]) == 0
    account = json.loads(capsys.readouterr().out)
    wanted = [
        'has the key "sensr", which nothing reads; is it sensor?',
        "1 files in",
        "1 of 3 frames in",
        "the masks do not know heaven",
    ]
    assert len(account["notes"]) == len(wanted)
    assert all(text in note for text, note in zip(wanted, account["notes"], strict=True)), account["notes"]
    assert account["folders"][str(tmp_path / "fog")]["labelled"] == 2
    assert main(["evaluate", str(tiny_bundle), str(tmp_path / "fog")]) == 0
    assert capsys.readouterr().out.count("\nnote: ") == len(wanted)


def test_evaluate_takes_the_profile_of_another_camera_and_a_sample_of_the_frames(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["world", str(tmp_path / "fog"), "--domain", "fog", "--frames", "2", "--size", "96x128"]) == 0
    profile = tmp_path / "camera.yaml"
    profile.write_text("kind: camera\ngamma: 3\n")
    scores = []
    for options in ([], ["--sensor-profile", str(profile)]):
        capsys.readouterr()
        assert main(["evaluate", str(tiny_bundle), str(tmp_path / "fog"), "--json", *options]) == 0
        scores.append(json.loads(capsys.readouterr().out)["miou"])
    assert scores[0] != scores[1]
    capsys.readouterr()
    assert main(["evaluate", str(tiny_bundle), str(tmp_path / "fog"), "--json", "--every", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 1
    for refused in (["--every", "0"], ["--class-map", str(profile)], ["--routing", "random", "--seed", "-1"]):
        assert main(["evaluate", str(tiny_bundle), str(tmp_path / "fog"), *refused]) == 2
    profile.write_text("kind: thermal\n")
    assert main(["evaluate", str(tiny_bundle), str(tmp_path / "fog"), "--sensor-profile", str(profile)]) == 2
    assert "the profile is for thermal images" in capsys.readouterr().err


def test_ctrl_c_while_a_command_is_still_being_imported_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_name: str) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("mile_edge.cli.main.importlib.import_module", interrupted)
    # Tests that were themselves started with Ctrl-C ignored, as jobs in the background are, would not be interrupted.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["world", "/tmp/never"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.startswith("mile-edge: interrupted")


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f"{sys.executable} -m mile_edge inspect {REFERENCE} --json | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
