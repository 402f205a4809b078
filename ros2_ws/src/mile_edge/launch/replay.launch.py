"""Plays a bag through the segmenter and records its masks: `ros2 launch mile_edge replay.launch.py bag:=... ..`."""

import math
from datetime import datetime
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.event_handlers import OnStateTransition
from launch_ros.substitutions import FindPackageShare
from mile_edge_node.launching import fail

ARGUMENTS = (
    ("bag", "", "Bag folder to play, MCAP or sqlite3."),
    ("out", "", "Folder of the recording, which must not exist (default masks_ and the time, here)."),
    ("rate", "1.0", "How fast to play."),
    ("record", "true", "Record what the segmenter publishes."),
    ("delay", "2.0", "Seconds from when the segmenter is active until the bag plays, for discovery."),
)
# An included launch file keeps what is declared here over its own defaults: they must be the same.
PASSED_ON = (
    ("bundle", "", "Folder of the bundle."),
    ("sensors", "", "ROS parameter file with the sensors."),
    ("camera", "", "Image topic of a camera."),
    ("depth", "", "Image topic of a depth sensor."),
    ("thermal", "", "Image topic of a thermal camera."),
    ("transport", "raw", "Transport of the topics named here: raw or compressed."),
    ("backend", "", "What runs the network: onnx (default), tensorrt or tensorrt-rtx."),
    ("engine", "", "Engine file of a TensorRT backend."),
    ("threads", "", "Threads of one pass on ONNX Runtime."),
    ("params", "", "ROS parameter file with further parameters of the node."),
)
RESULTS = ("mask", "confidence", "label_info", "status", "camera_info")


def _start(context: LaunchContext) -> list:
    given = {name: LaunchConfiguration(name).perform(context) for name, *_ in (*ARGUMENTS, *PASSED_ON)}
    bag = Path(given["bag"]).expanduser().absolute()
    if not given["bag"] or not bag.exists():
        raise RuntimeError(f"bag:={given['bag']} does not exist; give bag:=FOLDER")
    out = Path(given["out"] or datetime.now().strftime("masks_%Y%m%d_%H%M%S")).expanduser().absolute()
    if out.exists():
        raise RuntimeError(f"out:={out} exists; give a folder that does not")
    try:
        rate, delay = float(given["rate"]), float(given["delay"])
    except ValueError:
        raise RuntimeError(f"rate:={given['rate']} and delay:={given['delay']} must be numbers") from None
    if not (0 < rate < math.inf and 0 <= delay < math.inf):
        raise RuntimeError(f"rate:={rate:g} must be more than 0 and delay:={delay:g} not less; give others")
    # Not lazy: with record:=false the node still shows its work in status and diagnostics.
    segment = IncludeLaunchDescription(
        PythonLaunchDescriptionSource([FindPackageShare("mile_edge"), "/launch/segment.launch.py"]),
        launch_arguments=[
            *((name, given[name]) for name, *_ in PASSED_ON if given[name]),
            ("lazy", "false"),
            ("use_sim_time", "true"),
        ],
    )
    play = ExecuteProcess(
        cmd=["ros2", "bag", "play", str(bag), "--clock", "--rate", str(rate)],
        output="screen",
        name="play",
    )
    record = ExecuteProcess(
        cmd=[
            *("ros2", "bag", "record", "--storage", "mcap", "--output", str(out)),
            *("--regex", rf"/mile_edge/[^/]+/({'|'.join(RESULTS)})"),
        ],
        output="screen",
        name="record",
    )

    def played(event: ProcessExited, context: LaunchContext) -> list:
        if context.is_shutdown:
            return []
        if event.returncode:
            return [fail(f"ros2 bag play ended with status {event.returncode}; its own message above says why")]
        # The last mask is still on its way when the bag ends.
        return [TimerAction(period=2.0, actions=[EmitEvent(event=Shutdown(reason="the bag has ended"))])]

    def recorded(event: ProcessExited, context: LaunchContext) -> list:
        # Without it the bag would be played to nobody.
        return [] if context.is_shutdown else [fail("ros2 bag record ended; its own message above says why")]

    return [
        RegisterEventHandler(OnProcessExit(target_action=play, on_exit=played)),
        RegisterEventHandler(OnProcessExit(target_action=record, on_exit=recorded)),
        RegisterEventHandler(
            OnStateTransition(goal_state="active", entities=[TimerAction(period=delay, actions=[play])])
        ),
        segment,
        *([record] if given["record"].lower() in ("true", "1") else []),
    ]


def generate_launch_description() -> LaunchDescription:
    """Give what `ros2 launch` runs."""
    arguments = [
        DeclareLaunchArgument(name, default_value=value, description=text)
        for name, value, text in (*ARGUMENTS, *PASSED_ON)
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_start)])
