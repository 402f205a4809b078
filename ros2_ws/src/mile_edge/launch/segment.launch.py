"""Starts the segmenter and brings it to active: `ros2 launch mile_edge segment.launch.py bundle:=... camera:=...`."""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown, matches_action
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition
from mile_edge_node.launching import fail

KINDS = ("camera", "depth", "thermal")
ARGUMENTS = (
    ("bundle", "", "Folder of the bundle, for example bundles/reference."),
    ("sensors", "", "ROS parameter file with the sensors (see share/mile_edge/config/sensors.yaml)."),
    ("camera", "", "Image topic of a camera, in place of a sensors file."),
    ("depth", "", "Image topic of a depth sensor, in place of a sensors file."),
    ("thermal", "", "Image topic of a thermal camera, in place of a sensors file."),
    ("transport", "raw", "Transport of the topics named here: raw, or compressed for their /compressed topic."),
    ("reliability", "best_effort", "QoS of the topics named here: best_effort or reliable."),
    ("backend", "", "What runs the network: onnx, tensorrt or tensorrt-rtx (default onnx)."),
    ("engine", "", "Engine file of a TensorRT backend (default BUNDLE/engines/BACKEND.engine)."),
    ("threads", "", "Threads of one pass on ONNX Runtime; 0 for all cores (default 0)."),
    ("lazy", "", "Subscribe to a sensor only while somebody listens to its results (default true)."),
    ("params", "", "ROS parameter file with further parameters of the node."),
    ("namespace", "", "Namespace of the node."),
    ("name", "mile_edge", "Name of the node; its topics are under NAMESPACE/NAME."),
    ("use_sim_time", "false", "Take the time from /clock."),
    ("log_level", "info", "debug, info, warn, error or fatal."),
)


def _flag(name: str, text: str) -> bool:
    words = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in words:
        raise RuntimeError(f"{name}:={text} is no truth value; give true or false")
    return words[text.lower()]


def _sensors(given: dict[str, str]) -> dict[str, object]:
    """Parameters of the sensors that are named as arguments."""
    topics = {kind: given[kind] for kind in KINDS if given[kind]}
    if given["sensors"] and topics:
        raise RuntimeError(f"sensors:= and {next(iter(topics))}:= are both given; put all sensors into the file")
    if not given["sensors"] and not topics:
        raise RuntimeError("no sensor is given; give camera:=/topic, depth:=/topic, thermal:=/topic or sensors:=FILE")
    if given["sensors"]:
        return {}
    values: dict[str, object] = {"sensors": list(topics)}
    for kind, topic in topics.items():
        compressed = given["transport"] == "compressed" and not topic.endswith("/compressed")
        values |= {
            f"{kind}.topic": f"{topic}/compressed" if compressed else topic,
            f"{kind}.kind": kind,
            f"{kind}.transport": given["transport"],
            f"{kind}.reliability": given["reliability"],
        }
    return values


def _follow(event: ProcessExited, context: LaunchContext) -> list:
    """End with the segmenter, unless it ends because the launch does: a second shutdown is an error of launch's."""
    if context.is_shutdown:
        return []
    if event.returncode:
        return [fail(f"the segmenter ended with status {event.returncode}; its own message above says why")]
    return [EmitEvent(event=Shutdown(reason="the segmenter ended"))]


def _start(context: LaunchContext) -> list:
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    if not given["bundle"]:
        raise RuntimeError("no bundle is given; give bundle:=FOLDER")
    files = {name: Path(given[name]).expanduser().absolute() for name in ("sensors", "params") if given[name]}
    for name, file in files.items():
        if not file.is_file():
            raise RuntimeError(f"{name}:={given[name]} is no file")
    if given["threads"] and not given["threads"].isdecimal():
        raise RuntimeError(f"threads:={given['threads']} is no number; give 0 for all cores, or how many")
    values = {
        "bundle": str(Path(given["bundle"]).expanduser().absolute()),
        "use_sim_time": _flag("use_sim_time", given["use_sim_time"]),
        **_sensors(given),
    }
    # What is not given here is left to the params file.
    values |= {name: given[name] for name in ("backend", "engine") if given[name]}
    values |= {"threads": int(given["threads"])} if given["threads"] else {}
    values |= {"lazy": _flag("lazy", given["lazy"])} if given["lazy"] else {}
    node = LifecycleNode(
        package="mile_edge",
        executable="segmenter",
        name=given["name"],
        namespace=given["namespace"],
        parameters=[*map(str, files.values()), values],
        output="screen",
        emulate_tty=True,
        arguments=["--ros-args", "--log-level", given["log_level"]],
    )

    def reaching(start: str, goal: str, *actions: object) -> RegisterEventHandler:
        return RegisterEventHandler(
            OnStateTransition(target_lifecycle_node=node, start_state=start, goal_state=goal, entities=list(actions))
        )

    def change(transition: int) -> EmitEvent:
        return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))

    def give_up(what: str) -> object:
        return fail(f"the segmenter could not {what}; its own message above says why")

    return [
        # Before the node, so that no transition is missed.
        reaching("configuring", "inactive", change(Transition.TRANSITION_ACTIVATE)),
        # Shutdown rather than a node that looks dead.
        reaching("configuring", "unconfigured", give_up("be configured")),
        reaching("configuring", "errorprocessing", give_up("be configured")),
        reaching("activating", "inactive", give_up("be activated")),
        reaching("activating", "errorprocessing", give_up("be activated")),
        RegisterEventHandler(OnProcessExit(target_action=node, on_exit=_follow)),
        node,
        change(Transition.TRANSITION_CONFIGURE),
    ]


def generate_launch_description() -> LaunchDescription:
    """Give what `ros2 launch` runs."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in ARGUMENTS
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_start)])
