"""Opens RViz on the segmenter's masks and overlay: `ros2 launch mile_edge view.launch.py sensor:=camera`."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    """Give what `ros2 launch` runs."""
    sensor, node = LaunchConfiguration("sensor"), LaunchConfiguration("node")
    return LaunchDescription(
        [
            DeclareLaunchArgument("sensor", default_value="camera", description="Name of the sensor to look at."),
            DeclareLaunchArgument("node", default_value="/mile_edge", description="Full name of the segmenter."),
            DeclareLaunchArgument("use_sim_time", default_value="false", description="Take the time from /clock."),
            Node(
                package="rviz2",
                executable="rviz2",
                name="mile_edge_view",
                arguments=["--display-config", [FindPackageShare("mile_edge"), "/rviz/mile_edge.rviz"]],
                parameters=[{"use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)}],
                # The layout names these three, so that it serves any sensor.
                remappings=[
                    (f"/mile_edge/sensor/{topic}", [node, "/", sensor, f"/{topic}"])
                    for topic in ("overlay", "mask", "confidence")
                ],
                output="screen",
            ),
        ]
    )
