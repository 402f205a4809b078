#!/usr/bin/env bash
# Builds the workspace with colcon and runs its tests against a real ROS 2; one line where there is none.
#   MILE_EDGE_ROS_SETUP=FILE   setup.bash of the ROS 2 to use; else the sourced one; else the first under /opt/ros
#   MILE_EDGE_ROS_FULL=1       the long forms too: 10,000 frames, 200 experts under load
#   MILE_EDGE_WORKSHOP_PYTHON  an interpreter with torch and mile_edge: the tests of training and fusion too
#   MILE_EDGE_FUSING_BUNDLE    a bundle of the street with a graph that fuses, in place of one made by that interpreter
#   --bench ...                benchmarks/ros_node.py in place of the tests
set -euo pipefail
cd "$(dirname "$0")/.."

setup=${MILE_EDGE_ROS_SETUP:-}
if [ -z "$setup" ] && [ -n "${AMENT_PREFIX_PATH:-}" ] && [ -n "${ROS_DISTRO:-}" ]; then
  setup=${AMENT_PREFIX_PATH%%:*}/setup.bash
fi
if [ -z "$setup" ]; then
  for found in /opt/ros/*/setup.bash; do [ -f "$found" ] && setup=$found && break; done
fi
if [ -z "$setup" ]; then
  echo "test-ros: skipped, no ROS 2 is sourced or under /opt/ros; MILE_EDGE_ROS_SETUP names its setup.bash"
  exit 0
fi
if [ ! -f "$setup" ]; then
  echo "test-ros: $setup does not exist; set MILE_EDGE_ROS_SETUP to the setup.bash of a ROS 2" >&2
  exit 1
fi

# The setup files of ROS read variables that are not set.
set +u
# shellcheck disable=SC1090
source "$setup"
set -u

# A ROS 2 that is only partly there, for example one being built, is not one to judge the node by.
for package in rclpy launch_ros launch_testing rmw_cyclonedds_cpp sensor_msgs vision_msgs diagnostic_updater ros2launch; do
  if ! [ -e "$(ros2 pkg prefix "$package" 2>/dev/null)/share/$package/package.xml" ]; then
    echo "test-ros: skipped, the ROS 2 of $setup lacks $package"
    exit 0
  fi
done

# ROS belongs to the Python that its own tools start with, not to the first one in PATH.
python=$(head -n 1 "$(command -v ros2)" | sed 's/^#!//; s/ .*//')
case $python in */env) python=$(command -v python3) ;; esac
environment=.venv-ros
# Without pip it was left half made.
if ! "$environment/bin/python" -c 'import pip' 2>/dev/null; then
  "$python" -m venv --system-site-packages --clear "$environment"
fi
if [ ! -f "$environment/.installed" ] || [ pyproject.toml -nt "$environment/.installed" ]; then
  # PYTHONPATH is cleared so that pip does not count what ROS brings. NumPy 2 crashes cv_bridge, and colcon is not in every ROS.
  PYTHONPATH='' "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile \
    --editable . 'numpy<2' 'pytest>=7,<9' 'colcon-common-extensions' 'setuptools<80' 'empy<4' 'catkin_pkg' 'lark'
  touch "$environment/.installed"
fi
PATH=$PWD/$environment/bin:$PATH
export PATH

work=$PWD/build/ros
mkdir -p "$work"
colcon --log-base "$work/log" build --base-paths ros2_ws/src --build-base "$work/build" --install-base "$work/install" \
  --event-handlers console_direct- --cmake-args -DBUILD_TESTING=OFF -DPython3_EXECUTABLE="$PWD/$environment/bin/python" \
  >"$work/colcon.out" 2>&1 || { cat "$work/colcon.out" >&2; exit 1; }
set +u
# shellcheck disable=SC1091
source "$work/install/local_setup.bash"
set -u

# Loopback only: DDS must neither reach nor hear another robot.
export CYCLONEDDS_URI="<CycloneDDS><Domain><General><Interfaces><NetworkInterface name='lo' multicast='false'/></Interfaces><AllowMulticast>false</AllowMulticast></General><Discovery><ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>60</MaxAutoParticipantIndex><Peers><Peer address='127.0.0.1'/></Peers></Discovery></Domain></CycloneDDS>"
export ROS_LOG_DIR=$work/ros_log ROS_LOCALHOST_ONLY=0 PYTHONDONTWRITEBYTECODE=1
if [ "${1:-}" = --bench ]; then
  shift
  # With the tests' own harness.
  export PYTHONPATH=$PWD/ros2_ws/src/mile_edge/test:$PYTHONPATH
  exec python benchmarks/ros_node.py "$@"
fi
PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 python -m pytest -q -p no:cacheprovider --rootdir ros2_ws -c /dev/null ros2_ws/src/mile_edge/test "$@"
