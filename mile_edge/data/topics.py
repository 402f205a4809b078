"""Which topics of a bag are images, of which kind of sensor, which label belongs to which, and which names the domain.

What a user names wins; the rest follows from types, encodings and names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mile_edge.data.bags import Bag, BagTopic
from mile_edge.data.encodings import SUPPORTED_ENCODINGS
from mile_edge.data.sensors import KINDS
from mile_edge.errors import RecipeError

RAW, COMPRESSED, TEXT = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "std_msgs/msg/String"
DOMAIN_TOPIC = "/truth/domain"
OFF = "off"

_THERMAL = re.compile(r"(thermal|ir|lwir|flir)\d*")
_TRANSPORTS = ("compressed", "compressedDepth")
# What a segmenter publishes: a bag recorded beside one must not be segmented from its own masks.
_OUTPUTS = ("mask", "confidence", "overlay")


@dataclass(frozen=True)
class TopicPlan:
    """What each topic of a bag is for.

    Attributes:
        images: image topic to its sensor kind where it is named, None where its first message decides.
        labels: image topic to the label topic that holds its truth.
        domains: the topic that names the true domain, None where there is none.
        left_out: topic to why it is not replayed.
        missing: topics that were named and are not in the bag.
    """

    images: Mapping[str, str | None]
    labels: Mapping[str, str]
    domains: str | None
    left_out: Mapping[str, str]
    missing: tuple[str, ...]

    @property
    def all(self) -> frozenset[str]:
        """Every topic that must be read."""
        return frozenset((*self.images, *self.labels.values(), *filter(None, [self.domains])))


def plan_bag(
    bag: Bag,
    *,
    kinds: Mapping[str, str] | None = None,
    labels: Collection[str] = (),
    domains: str | None = None,
) -> TopicPlan:
    """Decide what each topic of a bag is for, as `plan_topics` does.

    A raw topic with compressed pictures beside it gives way to them where its own cannot be read, which only its
    first message tells.

    Raises:
        RecipeError: a kind that does not exist.
    """
    silent: dict[str, str] = {}
    for name, topic in bag.topics.items():
        raw = bag.topics.get(_raw_twin(name))
        if COMPRESSED not in topic.msgtypes or topic.count == 0 or raw is None or RAW not in raw.msgtypes:
            continue
        if why := _why_silent(bag, raw.name):
            silent[raw.name] = f"{why}; its compressed pictures are replayed"
    return plan_topics(bag.topics, kinds=kinds, labels=labels, domains=domains, silent=silent)


def plan_topics(
    topics: Mapping[str, BagTopic],
    *,
    kinds: Mapping[str, str] | None = None,
    labels: Collection[str] = (),
    domains: str | None = None,
    silent: Mapping[str, str] | None = None,
) -> TopicPlan:
    """Decide what each topic of a bag is for.

    Args:
        topics: of the bag, by name.
        kinds: topic to camera, depth, thermal, or off to leave it out.
        labels: label topics; any image topic that ends in `/label` where empty.
        domains: the `std_msgs/String` topic that names the true domain; `/truth/domain` where None.
        silent: raw topic to why it gives no picture; its compressed twin takes its place.

    Raises:
        RecipeError: a kind that does not exist.
    """
    kinds, silent = dict(kinds or {}), silent or {}
    for name, kind in kinds.items():
        if kind not in (*KINDS, OFF):
            raise RecipeError(f"Topic {name} cannot be of kind '{kind}'; use one of {', '.join(KINDS)}, {OFF}.")
    truth = domains or DOMAIN_TOPIC
    has_truth = truth in topics and TEXT in topics[truth].msgtypes
    pictures = [
        name
        for name, topic in topics.items()
        if not {RAW, COMPRESSED}.isdisjoint(topic.msgtypes) and not (has_truth and name == truth)
    ]
    label_topics = [name for name in labels if name in pictures] if labels else _found_labels(pictures)
    left_out: dict[str, str] = {}
    images: dict[str, str | None] = {}
    for name in pictures:
        if kinds.get(name) == OFF:
            left_out[name] = "switched off"
        elif name in kinds:
            images[name] = kinds[name]
        elif name in label_topics or name.endswith("/label"):
            continue
        elif name.rsplit("/", 1)[-1] in _OUTPUTS:
            left_out[name] = "looks like a segmenter's own output"
        elif (twin := _raw_twin(name)) in pictures and twin not in silent:
            left_out[name] = f"the same pictures as {twin}"
        elif name in silent:
            left_out[name] = silent[name]
        else:
            images[name] = None
    named = [*kinds, *labels, *([domains] if domains else [])]
    wrong = [name for name in named if name not in pictures and not (name == truth and has_truth)]
    return TopicPlan(
        images, match_labels(images, label_topics, bool(labels)), truth if has_truth else None, left_out, tuple(wrong)
    )


def sensor_kind(topic: str, encoding: str) -> str:
    """Guess the sensor behind a topic: camera, depth or thermal.

    Float images are depth, and so are 16-bit images on a topic with "depth" in its name, and `16UC1` (the usual form of
    depth) on any that is not named as thermal. Other 16-bit images are thermal, and so are grey ones on a topic with a
    part named thermal, ir, lwir or flir. All else is a camera.
    """
    is_thermal = any(_THERMAL.fullmatch(part) for part in re.split(r"[/_\-]", topic.lower()))
    if encoding == "32FC1":
        return "depth"
    if encoding in ("16UC1", "mono16"):
        if "depth" in topic.lower():
            return "depth"
        return "depth" if encoding == "16UC1" and not is_thermal else "thermal"
    return "thermal" if is_thermal and encoding in ("mono8", "8UC1") else "camera"


def match_labels(images: Collection[str], labels: Collection[str], named: bool = False) -> dict[str, str]:
    """Give each image topic the label topic that shares the longest namespace with it.

    A label topic serves only the image topics nearest to it, so that the label of one camera is never taken for that
    of another. One outside any namespace serves a bag with a single image topic, or any when it was named.

    Returns:
        Image topic to label topic.
    """
    shared = {(image, label): _shared_parts(image, label) for image in images for label in labels}
    matches: dict[str, str] = {}
    for image in images:
        near = [
            label
            for label in labels
            if shared[image, label] == max(shared[other, label] for other in images)
            and (shared[image, label] > 0 or named or len(images) == 1)
        ]
        if near:
            matches[image] = max(near, key=lambda label: (shared[image, label], -len(label)))
    return matches


def _found_labels(pictures: Collection[str]) -> list[str]:
    return [name for name in pictures if name.endswith("/label")]


def _raw_twin(name: str) -> str:
    head, _, last = name.rpartition("/")
    return head if last in _TRANSPORTS else ""


def _why_silent(bag: Bag, name: str) -> str:
    """Why a raw topic gives no picture, "" where it does."""
    message = bag.first(name)
    if message is None:
        return "no messages"
    if message.msgtype != RAW:
        return ""
    encoding = str(message.value.encoding)
    return "" if encoding in SUPPORTED_ENCODINGS else f"encoding {encoding[:32]!r} is not supported"


def _shared_parts(image: str, label: str) -> int:
    namespace = label.strip("/").split("/")[:-1]
    count = 0
    for mine, theirs in zip(namespace, image.strip("/").split("/"), strict=False):
        if mine != theirs:
            break
        count += 1
    return count
