"""The node's modules that need no ROS, straight from the workspace."""

from __future__ import annotations

import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "ros2_ws" / "src" / "mile_edge"
sys.path.insert(0, str(PACKAGE))
