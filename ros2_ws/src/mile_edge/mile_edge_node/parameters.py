"""Every parameter of the node: its default, what it means, what it may be, and when it may change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mile_edge.bundle.trust import POLICIES
from mile_edge.data.sensors import KINDS
from mile_edge.runtime.backends import BACKENDS
from mile_edge_node.sensor import RELIABILITIES, TRANSPORTS

AUTO = "auto"


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        name: as in a parameter file; of a sensor's parameters the part behind the sensor's name.
        default: its type is the parameter's type; an empty list is one of strings.
        description: for `ros2 param describe`.
        low: smallest number allowed.
        high: largest number allowed.
        words: the texts allowed; any where it is empty.
        dynamic: may change while the node is configured.
    """

    name: str
    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    words: Sequence[str] = ()
    dynamic: bool = False

    @property
    def constraints(self) -> str:
        """When and to what it may be set, in words."""
        values = f"one of {', '.join(word or 'empty' for word in self.words)}; " if self.words else ""
        return values + ("may change at any time" if self.dynamic else "may change before configure only")

    def problem(self, value: Any) -> str | None:
        """Say in one sentence why a value cannot be taken; None where it can."""
        if isinstance(self.default, list):
            texts = isinstance(value, (list, tuple)) and all(isinstance(word, str) for word in value)
            # Without entries it has no type in a parameter file, and comes as None or as bytes.
            return None if texts or value in (None, b"") else f"{self.name} is {value!r}; give a list of texts"
        if self.words and value not in self.words:
            return f"{self.name} is {value!r}; use one of {', '.join(self.words)}"
        if self.low is None or self.high is None:
            return None
        # NaN is within no bounds.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return f"{self.name} is {value!r}; give {self.low:g} to {self.high:g}"
        return None


NODE = (
    Parameter("bundle", "", "Folder of the bundle: network, experts and gate."),
    Parameter("backend", "onnx", "What runs the network.", words=BACKENDS),
    Parameter("engine", "", "Engine file of a TensorRT backend; empty for BUNDLE/engines/BACKEND.engine."),
    Parameter("threads", 0, "Threads of one pass on ONNX Runtime; 0 for all cores.", 0, 256),
    Parameter("sensors", [], "Names of the sensors; each brings parameters NAME.topic, NAME.kind and so on."),
    Parameter(
        "fuse",
        [],
        "Names of sensors of one viewpoint whose newest frames give ~/fused/mask, which takes size and header of the "
        "first that is alive; empty for none. The bundle must have a graph that fuses.",
    ),
    Parameter(
        "fusion_tolerance",
        0.05,
        "Seconds that a sensor's stamp may lie behind the newest one and still be fused; at least the period of the "
        "slowest sensor, or its frames count only where they come first.",
        0.0,
        60.0,
        dynamic=True,
    ),
    Parameter("lazy", True, "Subscribe to a sensor only while somebody listens to its results.", dynamic=True),
    Parameter(
        "max_batch",
        0,
        "Frames of different sensors that may share a pass; 0 for 4 on TensorRT, and 1 on a CPU, which gains nothing.",
        0,
        64,
        dynamic=True,
    ),
    Parameter("max_rate", 0.0, "Frames per second taken of each sensor; 0 for no limit.", 0.0, 1000.0, dynamic=True),
    Parameter(
        "mask_size",
        "sensor",
        "Masks at the sensor's size or at the network's.",
        words=("sensor", "network"),
        dynamic=True,
    ),
    Parameter("expert", AUTO, "Expert for all sensors; auto lets the gate choose for each frame.", dynamic=True),
    Parameter(
        "hysteresis",
        -1.0,
        "By how much another expert's distance must be smaller before a sensor changes to it; -1 for the bundle's.",
        -1.0,
        1e6,
        dynamic=True,
    ),
    Parameter(
        "novelty_threshold",
        0.0,
        "Distance beyond which a frame is novel; 0 for the bundle's calibrated threshold of each expert.",
        0.0,
        1e6,
        dynamic=True,
    ),
    Parameter(
        "record_novel",
        "",
        "Folder of a ring of MCAP files that keeps novel frames, as replay --record-novel does; empty for none.",
    ),
    Parameter("record_mb", 100.0, "Megabytes that the ring of record_novel may take.", 1.0, 1e6),
    Parameter("overlay_opacity", 0.5, "Opacity of the classes' colours over the frame.", 0.0, 1.0, dynamic=True),
    Parameter("stale_after", 2.0, "Seconds without a frame until diagnostics warn.", 0.05, 3600.0, dynamic=True),
    # Not while configured: whoever may call a service may often set a parameter too, and must not lower the policy.
    Parameter(
        "expert_policy",
        "hashed",
        "What an expert file must show: a signature by one of expert_keys, a hash that rules out damage, or nothing.",
        words=POLICIES,
    ),
    Parameter("expert_keys", "", "Folder of trusted publishers (NAME.pub, revoked); expert_policy signed needs it."),
    Parameter(
        "shadow_frames",
        0,
        "Frames that a new expert is compared on, one in ten, before its masks are published; 0 for at once.",
        0,
        1 << 30,
        dynamic=True,
    ),
    Parameter("max_expert_bytes", 64 << 20, "Largest expert file that add_expert takes.", 1, 64 << 20, dynamic=True),
    Parameter(
        "train_python", "", "Python interpreter with torch for train_expert; empty for the node's own.", dynamic=True
    ),
    Parameter("train_folder", "", "Where train_expert keeps its files; empty for ~/.ros/mile_edge.", dynamic=True),
    Parameter(
        "train_nice",
        19,
        "Niceness of the training process; 19 takes only processor time that nobody wants.",
        0,
        19,
        dynamic=True,
    ),
    Parameter(
        "train_cores",
        "",
        "Processors that train_expert may use, such as 3 or 0,2-3; empty for the last quarter of those the node has.",
        dynamic=True,
    ),
    Parameter(
        "train_memory",
        0,
        "Megabytes of memory beyond which a training is ended; 0 for half of the machine's.",
        0,
        100_000_000,
        dynamic=True,
    ),
    Parameter(
        "train_device",
        "cpu",
        "Where train_expert computes; cuda at the lowest stream priority.",
        words=("cpu", "cuda"),
        dynamic=True,
    ),
    Parameter(
        "train_resume",
        True,
        "Go on, once active, with a training that the node's last run did not finish.",
        dynamic=True,
    ),
)

SENSOR = (
    Parameter("topic", "", "Image topic; for compressed transport the topic of the compressed images itself."),
    Parameter("kind", "camera", "What the sensor is.", words=KINDS),
    Parameter("transport", "raw", "sensor_msgs/Image or sensor_msgs/CompressedImage.", words=TRANSPORTS),
    Parameter(
        "reliability",
        "best_effort",
        "QoS of the subscription; reliable needs a reliable publisher.",
        words=RELIABILITIES,
    ),
    Parameter("depth", 5, "Messages that the middleware keeps until the node has seen them.", 1, 100),
    Parameter(
        "camera_info", "", "Topic of the calibration; empty for camera_info beside the image topic, off for none."
    ),
    Parameter(
        "profile", "", "YAML file with the sensor's scale and range; empty for the bundle's profile of its kind."
    ),
)

_BY_NAME: Mapping[str, Parameter] = {parameter.name: parameter for parameter in NODE}
_OF_SENSOR: Mapping[str, Parameter] = {parameter.name: parameter for parameter in SENSOR}


def known(name: str) -> Parameter | None:
    """The parameter of that name, with a sensor's name before a dot or without one; None where it is not ours."""
    head, _, last = name.rpartition(".")
    return _OF_SENSOR.get(last) if head else _BY_NAME.get(name)
