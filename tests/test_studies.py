"""Studies: what is compared is computed once, survives a kill, and is scored as by hand."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workshop side needs torch")

from mile_edge.cli.main import main
from mile_edge.errors import DataError, MileError, RecipeError
from mile_edge.studies import metrics
from mile_edge.studies.cells import Cell, Store, closure
from mile_edge.studies.lab import Lab
from mile_edge.studies.methods import METHODS
from mile_edge.studies.page import render_page
from mile_edge.studies.recipe import load_study
from mile_edge.studies.report import build_report, chosen_cells, study_cells
from mile_edge.studies.run import run_cells

REPOSITORY = Path(__file__).parents[1]
TINY = """
base: random:segformer-b0
tasks:
  night: {world: night}
  depth: {world: "fog, rain", sensor: depth}
orders:
  there: [night, depth]
  back: [depth, night]
size: [64, 96]
rank: 2
train_frames: 3
test_frames: 2
expert: {steps: 1, batch: 1}
full: {steps: 1, batch: 1}
"""


def recipe_file(folder: Path, text: str = TINY) -> Path:
    file = folder / "tiny.yaml"
    file.write_text(text)
    return file


def lab_of(folder: Path, text: str = TINY) -> Lab:
    return Lab(load_study(recipe_file(folder, text)), folder)


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, Store, dict]:
    """A whole study of an untrained network with few methods."""
    folder = tmp_path_factory.mktemp("study")
    chosen = "methods: [single-task, sequential-full, sequential-lora, mile-oracle, mile-mahalanobis, semla]\n"
    lab = lab_of(folder, TINY + chosen + "leave_one_out: true\n")
    store = Store(folder / "cells")
    store.folder.mkdir()
    run_cells(study_cells(lab), store, workers=1)
    run_cells(chosen_cells(lab, store), store, workers=1)
    return lab, store, build_report(lab, store)


# Figures


def test_figures_of_a_matrix_are_those_worked_out_by_hand() -> None:
    matrix = np.array([[0.8, np.nan, np.nan], [0.6, 0.7, np.nan], [0.5, 0.4, 0.9]])
    assert metrics.final_mean(matrix) == pytest.approx((0.5 + 0.4 + 0.9) / 3)
    assert metrics.backward_transfer(matrix) == pytest.approx(((0.5 - 0.8) + (0.4 - 0.7)) / 2)
    assert metrics.plasticity_gap(matrix, [0.9, 0.8, 0.9]) == pytest.approx((0.1 + 0.1 + 0.0) / 3)
    assert metrics.mean_after_each(matrix) == pytest.approx([0.8, 0.65, 0.6])


def test_an_interval_is_students_and_one_seed_has_none() -> None:
    low, high = metrics.interval([0.50, 0.52, 0.57]) or (0, 0)
    mean, error = 0.53, np.std([0.50, 0.52, 0.57], ddof=1) / 3**0.5
    assert (low, high) == pytest.approx((mean - 4.303 * error, mean + 4.303 * error))
    assert metrics.interval([0.5]) is None


@pytest.mark.parametrize(("count", "t"), [(16, 2.1314), (17, 2.1199), (21, 2.0860), (31, 2.0423), (61, 2.0003)])
def test_an_interval_of_many_values_is_students_too_and_not_the_normals(count: int, t: float) -> None:
    values = np.sin(np.arange(count)).tolist()
    low, high = metrics.interval(values) or (0, 0)
    assert (high - low) / 2 == pytest.approx(t * np.std(values, ddof=1) / count**0.5, rel=5e-4)


def test_the_same_masks_differ_by_nothing_and_better_ones_by_more() -> None:
    good = np.tile(np.array([[[9, 1, 0], [0, 10, 0]]]), (6, 1, 1))
    bad = np.tile(np.array([[[5, 5, 0], [5, 5, 0]]]), (6, 1, 1))
    assert metrics.difference_interval(good, good) == (0.0, 0.0, 0.0)
    difference, low, high = metrics.difference_interval(good, bad)
    assert low <= difference <= high
    assert low > 0.3


# Cells


def test_a_cell_is_known_by_what_it_depends_on_and_by_nothing_else() -> None:
    data = Cell("render", {"frames": 3})
    one = Cell("adapter", {"seed": 0}, (("data", data),), {"folder": "/here"})
    assert one.key == Cell("adapter", {"seed": 0}, (("data", Cell("render", {"frames": 3})),), {"folder": "/there"}).key
    others = (
        Cell("adapter", {"seed": 1}, (("data", data),)),
        Cell("network", {"seed": 0}, (("data", data),)),
        Cell("adapter", {"seed": 0}, (("start", data),)),
        Cell("adapter", {"seed": 0}, (("data", Cell("render", {"frames": 4})),)),
    )
    assert len({one.key, *(other.key for other in others)}) == 5


def test_an_expert_is_trained_once_for_all_gates_and_orders(tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    cells = closure(study_cells(lab)).values()
    adapters = [cell for cell in cells if cell.kind == "adapter"]
    # One for each task, and in each of two orders one that has learned both; the same of three pools of ranks.
    assert len([cell for cell in adapters if "ranks" not in cell.params]) == 4
    assert len(adapters) == 4 + 3 * 4
    # A network for each task, one for both at once, and in each order one that has learned both.
    assert len([cell for cell in cells if cell.kind == "network"]) == 5
    assert [cell.kind for cell in cells].count("render") == 4


def test_what_a_finished_cell_needed_is_not_made_again(studied: tuple[Lab, Store, dict], tmp_path: Path) -> None:
    lab, store, _ = studied
    told = []
    run_cells(study_cells(lab), store, workers=1, report=told.append)
    assert [progress.last for progress in told] == [""]


def test_a_cell_that_cannot_be_done_is_named_and_the_others_stay(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, TINY + "layers: nothing\n")
    store = Store(tmp_path / "cells")
    store.folder.mkdir()
    with pytest.raises(MileError, match=r"adapter night seed 0.*layer pattern 'nothing' matches none"):
        run_cells([lab.features(lab.tasks["night"]), lab.expert(lab.tasks["night"], 0)], store, workers=1)
    assert store.has(lab.base)


# A study


def test_after_a_kill_only_the_running_cells_are_done_again(tmp_path: Path) -> None:
    recipe_file(tmp_path, TINY + "methods: [mile-mahalanobis]\n")
    study = ["study", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "out"), "--cells", str(tmp_path / "cells")]
    command = [sys.executable, "-m", "mile_edge", *study, "--workers", "2"]
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL, start_new_session=True) as first:
        finished = finished_cells(first, tmp_path / "cells", 3)
        os.killpg(first.pid, signal.SIGKILL)
    assert first.returncode == -signal.SIGKILL
    # In this process: three more that start and import torch would take longer than what is left to do.
    assert main([*study, "--workers", "1"]) == 0
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    assert json.loads((tmp_path / "out" / "study.json").read_text())["methods"]["mile-mahalanobis"]["figures"]
    assert not list((tmp_path / "cells").glob("*.aside"))


def finished_cells(study: subprocess.Popen[bytes], cells: Path, least: int) -> dict[Path, int]:
    """Finished cells and when they were, as soon as there are so many or the study has ended."""
    while True:
        ended = study.poll() is not None
        found = {file: file.stat().st_mtime_ns for file in cells.glob(f"{'?' * 20}/result.json")}
        if ended or len(found) >= least:
            return found
        time.sleep(0.05)


def test_masks_under_a_named_expert_are_bit_identical_whoever_came_later(studied: tuple[Lab, Store, dict]) -> None:
    _, _, report = studied
    assert report["forgetting_with_oracle_routing"] == {"bit_identical": True, "compared": 2, "different": []}
    oracle = report["methods"]["mile-oracle"]["figures"]
    assert all(oracle[order]["bwt"]["mean"] == 0 for order in ("there", "back"))


def test_a_gate_that_is_always_right_scores_like_the_oracle(studied: tuple[Lab, Store, dict]) -> None:
    _, _, report = studied
    gated = report["methods"]["mile-mahalanobis"]["figures"]["there"]
    assert gated["gate_accuracy"]["mean"] == 1
    assert gated["oracle_minus_gated"]["mean"] == 0


def test_the_matrix_is_read_from_the_cells(studied: tuple[Lab, Store, dict]) -> None:
    lab, store, report = studied
    stream = lab.streams()[0]
    counts = METHODS["sequential-full"].counts(lab, stream, store, 1, 0)
    assert counts is not None
    value = report["methods"]["sequential-full"]["streams"]["there"]["0"]["matrix"][1][0]
    assert value == pytest.approx(metrics.miou_of(counts), abs=1e-6)
    alone = report["methods"]["single-task"]
    assert alone["figures"]["back"]["plasticity_gap"]["mean"] == 0
    assert alone["stored"]["there"]["total"] > 2 * 14e6 > report["methods"]["semla"]["stored"]["there"]["total"]


def test_unseen_domains_are_scored_under_the_other_experts_only(studied: tuple[Lab, Store, dict]) -> None:
    _, _, report = studied
    found = report["leave_one_out"]
    assert [row["task"] for row in found["tasks"]] == ["night", "depth"]
    for row in found["tasks"]:
        # With two tasks there is one other expert, so every gate must choose it.
        assert row["gates"]["mile-mahalanobis"]["miou"] == pytest.approx(row["best_other"])
    assert set(found["means"]) == {"mile-mahalanobis", "semla"}


class Links(HTMLParser):
    """Everything that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [f"{tag} {key}={value}" for key, value in attrs if key in {"src", "href", "srcset"} and value]


def test_the_page_needs_nothing_else_and_escapes_names(studied: tuple[Lab, Store, dict]) -> None:
    _, _, report = studied
    page = render_page({**report, "study": "<script>alert(1)</script>", "skipped": {"idd": "no <images>"}})
    links = Links()
    links.feed(page)
    assert links.found and all("=#" in link for link in links.found)
    assert not re.search(r"<script|url\(|@import|https?://(?!www\.w3\.org)", page)
    assert "no &lt;images&gt;" in page
    assert page.count("<svg") == 4


# Recipes


@pytest.mark.parametrize("name", ["small", "three", "world", "real", "leave-one-out", "reference"])
def test_every_recipe_of_the_repository_is_read(name: str) -> None:
    recipe = load_study(REPOSITORY / "studies" / f"{name}.yaml")
    assert recipe.name == name
    assert set(recipe.methods) <= set(METHODS)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("gpus: 8\n", "unknown key 'gpus'"),
        ("expert: {epochs: 3}\n", "expert of recipe .* unknown key 'epochs'"),
        ("expert: {steps: -1}\n", "steps -1"),
        ("expert: 7\n", "not a mapping"),
        ("methods: [sorcery]\n", "method 'sorcery'"),
        ("methods: []\n", "method 'nothing'"),
        ("seeds: [0, 0]\n", "seeds"),
        ("seeds: 3\n", "give a list"),
        ("size: [60, 96]\n", "size"),
        ("tau: .nan\n", "tau"),
        ("zoom: [2, 1]\n", "zoom"),
        ("latency: {experts: []}\n", "latency"),
        ("latency: {experts: [[1]]}\n", "latency"),
        ("methods: [[a]]\n", "for a name"),
        ("orders: {there: [{night: 1}]}\n", "for a name"),
        ("seeds: [[1]]\n", "seeds"),
        ("name: ../../up\n", "the name '../../up'"),
        ("orders: {there: [night, moon]}\n", "task 'moon'"),
        ("orders: {there: [night, night]}\n", "task twice"),
        ("orders: {'../up': [night]}\n", "name '../up'"),
        ("tasks: {night: {world: mars}}\norders: {there: [night]}\n", "mars"),
        ("tasks: {night: {world: night, train: a, test: b}}\norders: {there: [night]}\n", "one of the two forms"),
        ("tasks: {night: {train: a}}\norders: {there: [night]}\n", "one of the two forms"),
        ("tasks: {night: {world: [night]}}\norders: {there: [night]}\n", "world"),
    ],
)
def test_a_hostile_recipe_is_refused_in_one_sentence(tmp_path: Path, more: str, told: str) -> None:
    keys = {line.split(":")[0] for line in more.splitlines()}
    blocks = re.split(r"\n(?=\S)", TINY.strip())
    text = "\n".join(block for block in blocks if block.split(":")[0] not in keys)
    with pytest.raises(RecipeError, match=told) as raised:
        load_study(recipe_file(tmp_path, f"{text}\n{more}"))
    assert str(raised.value).isprintable()


def test_a_task_without_its_folder_is_skipped_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TINY.replace("  depth:", "  idd: {train: none/train, test: none/test}\n  depth:")
    text = text.replace("[night, depth]", "[night, idd, depth]")
    lab = lab_of(tmp_path, text)
    assert "none/train does not exist" in lab.skipped["idd"]
    assert [task.name for task in lab.streams()[0].tasks] == ["night", "depth"]
    only = "base: random:segformer-b0\ntasks: {idd: {train: none, test: none}}\norders: {a: [idd]}\n"
    with pytest.raises(DataError, match="no task of the study"):
        lab_of(tmp_path, only)
    assert main(["study", str(recipe_file(tmp_path, only))]) == 2
    assert "none does not exist" in capsys.readouterr().err
