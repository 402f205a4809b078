"""Images, files that people write, and what other programs ask a running node for."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from bag_targets import picture
from mutations import as_json, hostile, mutated_bytes, mutated_text
from watch import REFERENCE, REPOSITORY, Target

from mile_edge.bundle import Manifest
from mile_edge.data.class_map import read_class_map
from mile_edge.data.encodings import SUPPORTED_ENCODINGS, decode_compressed, decode_image
from mile_edge.data.folder import FolderDataset
from mile_edge.data.sensors import DEFAULT_PROFILES, load_profile


def image_targets() -> list[Target]:
    """Pictures in messages and in folders."""
    pictures = [picture("PNG", mode) for mode in ("RGB", "L", "P", "1", "RGBA", "I;16")]
    pictures += [picture("JPEG", mode) for mode in ("RGB", "L", "CMYK")]
    depth = b"\0" * 4 + np.array([10, 3], "<f4").tobytes() + picture("PNG", "I;16")
    formats = ("jpeg", "png", "16UC1; compressedDepth png", "32FC1; compressedDepth png", "", "x; compressedDepth rvl")

    def compressed(data: bytes, _: Path) -> None:
        image = decode_compressed(formats[len(data) % len(formats)], data)
        image.max(initial=0)

    def raw(data: bytes, _: Path) -> None:
        dice = random.Random(data)
        sides = (0, 1, 2, 12, 16, 4096, 65536, 2**31 - 1, 2**32 - 1, -1)
        encoding = dice.choice((*SUPPORTED_ENCODINGS, "bayer_rggb8", "yuv422", "rgb16", "", "\0"))
        fields = [dice.choice(sides) for _ in range(3)]
        if dice.random() < 0.6:
            height = dice.randrange(1, 24)
            fields = [height, dice.randrange(1, 24), len(data) // height + dice.choice((-1, 0, 0, 0, 1))]
        image = decode_image(encoding, *fields, dice.choice((0, 1, 255)), data)
        frame = DEFAULT_PROFILES[dice.choice(("camera", "depth", "thermal"))].to_frame(image, encoding)
        frame.max(initial=0)

    def dataset(data: bytes, folder: Path) -> None:
        (folder / "images").mkdir(exist_ok=True)
        suffix = (".png", ".jpg")[len(data) % 2]
        for old in (folder / "images").iterdir():
            old.unlink()
        (folder / "images" / f"a{suffix}").write_bytes(data)
        for sample in FolderDataset(folder):
            sample.frame.max(initial=0)

    everything = (*pictures, depth)
    return [
        Target("compressed-image", lambda dice: mutated_bytes(dice.choice(everything), dice, pictures), compressed),
        Target("raw-image", lambda dice: dice.randbytes(dice.choice((0, 1, 64, 576, 2000))), raw),
        Target("folder-image", lambda dice: mutated_bytes(dice.choice(pictures), dice, pictures), dataset),
    ]


def text_targets() -> list[Target]:
    """YAML that people write; recipes only where the workshop is installed."""
    names = [label.name for label in Manifest.from_json((REFERENCE / "manifest.json").read_bytes()).classes]
    names += ["Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian"]
    found = [
        _text("sensor-profile", sorted((REPOSITORY / "calib" / "sensors").glob("*.yaml")), load_profile),
        _text(
            "class-map",
            sorted((REPOSITORY / "calib" / "class-maps").glob("*.yaml")),
            lambda path: read_class_map(path, names),
        ),
    ]
    labels = (
        b"ignore: 255\nsensor: depth\ndomain: dusk\nprofile: {scale: 0.04}\nclasses:\n"
        b"  - {id: 0, name: sky, color: [1, 2, 3]}\n  - {id: 1, name: road, color: [4, 5, 6]}\n"
    )

    def labelled(data: bytes, folder: Path) -> None:
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / "a.png").write_bytes(picture("PNG", "I;16"))
        (folder / "classes.yaml").write_bytes(data)
        len(FolderDataset(folder))

    found.append(Target("classes-yaml", lambda dice: mutated_text(labels, dice), labelled))
    try:
        from mile_edge.export.recipe import load_recipe
        from mile_edge.quantization.recipe import Int8Recipe, load_int8_recipe
    except ModuleNotFoundError:
        return found
    found.append(_text("export-recipe", sorted((REPOSITORY / "export").glob("*.yaml")), load_recipe))
    recipes = sorted((REPOSITORY / "calib" / "recipes").glob("*.yaml"))
    found.append(_text("int8-recipe", recipes, lambda path: Int8Recipe(**load_int8_recipe(path))))
    return found


def _text(name: str, seeds: list[Path], read: Callable[[Path], Any]) -> Target:
    texts = [seed.read_bytes() for seed in seeds]

    def parse(data: bytes, folder: Path) -> None:
        path = folder / f"{name}.yaml"
        path.write_bytes(data)
        read(path)

    return Target(name, lambda dice: mutated_text(dice.choice(texts), dice), parse)


def request_targets() -> list[Target]:
    """Service requests and orders, as the node hands them on."""
    from mile_edge_node.experts import add_from
    from mile_edge_node.parameters import NODE, SENSOR
    from mile_edge_node.trainer import Order, command
    from mile_edge_node.unfinished import Unfinished

    from mile_edge.runtime import Segmenter
    from mile_edge.workers.limits import Limits, read_cores

    good = next((REFERENCE / "experts").glob("fog-*")).read_bytes()
    running: list[Any] = []

    def request(dice: random.Random) -> bytes:
        data = good if dice.random() < 0.1 else mutated_bytes(good, dice)
        digest = hashlib.sha256(data).hexdigest()
        fields = {"path": "", "sha256": digest, "name": "mist"}
        if dice.random() < 0.4:
            fields = {key: _text_like(dice, value) for key, value in fields.items()}
        data = b"" if dice.random() < 0.2 else data
        return as_json(fields, dice) + b"\n" + data

    def serve(data: bytes, folder: Path) -> None:
        if not running:
            place = tempfile.TemporaryDirectory(dir="/dev/shm", prefix="mile-edge-fuzz-")
            shutil.copytree(REFERENCE, Path(place.name, "bundle"))
            running.extend((Segmenter.open(Path(place.name, "bundle"), threads=1), place))
        head, _, body = data.partition(b"\n")
        fields: Mapping[str, str] = json.loads(head.decode("utf-8", "surrogatepass"))
        name = add_from(running[0], fields["path"], body, fields["sha256"], fields["name"], 64 << 20)
        running[0].remove_expert(name)

    def order(data: bytes, folder: Path) -> None:
        dice = random.Random(data)
        texts = [_text_like(dice, value) for value in (str(REFERENCE), str(folder), "harbour", "camera", "fog")]
        limits = Limits(read_cores(_text_like(dice, "0")), 10, 4000)
        command(Order(*texts, steps=dice.choice((0, 1, -1, 2**31 - 1))), "python3", limits, folder)
        for parameter in (*NODE, *SENSOR):
            value = hostile(dice, parameter.default)
            # What a ROS parameter can hold.
            parameter.problem(value if isinstance(value, (bool, int, float, str)) else [type(value).__name__])

    record = json.dumps(vars(Order("/bundle", "/data", "harbour", "camera", "fog", 30, True))).encode()

    def remembered(data: bytes, folder: Path) -> None:
        (folder / "unfinished.json").write_bytes(data)
        Unfinished(folder).read()

    return [
        Target("add-request", request, serve),
        Target("train-request", lambda dice: dice.randbytes(8), order),
        Target("train-record", lambda dice: mutated_text(record, dice), remembered),
    ]


def _text_like(dice: random.Random, value: str) -> str:
    other = hostile(dice, value)
    return other if isinstance(other, str) else value
