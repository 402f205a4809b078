"""The node's parameters as ROS has them: declared with description and range, wrong values refused with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from mile_edge_node.parameters import NODE, SENSOR, Parameter, known


class Settings:
    """The values of all parameters.

    Args:
        node: whose parameters they are.
        changed: called with name and value before a dynamic parameter changes; a sentence refuses it.
        configured: whether the node has a bundle open, so that static parameters must stay.
    """

    def __init__(self, node: Node, changed: Callable[[str, Any], str | None], configured: Callable[[], bool]) -> None:
        self._node, self._changed, self._configured = node, changed, configured
        # First the check, so that it also sees what launch files and the command line give.
        node.add_on_set_parameters_callback(self._check)
        for parameter in NODE:
            self._declare(parameter.name, parameter)

    def __getitem__(self, name: str) -> Any:
        """The value of a parameter of the node."""
        value = self._node.get_parameter(name).value
        # A list without entries has no type in a parameter file, and comes back as None or as bytes.
        return list(value or ()) if name in ("sensors", "fuse") else value

    def sensor(self, name: str) -> Mapping[str, Any]:
        """The values of one sensor's parameters, declared where they are not yet."""
        for parameter in SENSOR:
            if not self._node.has_parameter(f"{name}.{parameter.name}"):
                self._declare(f"{name}.{parameter.name}", parameter)
        return {parameter.name: self._node.get_parameter(f"{name}.{parameter.name}").value for parameter in SENSOR}

    def _declare(self, name: str, parameter: Parameter) -> None:
        descriptor = ParameterDescriptor(
            description=parameter.description, additional_constraints=parameter.constraints
        )
        if parameter.low is not None and parameter.high is not None:
            if isinstance(parameter.default, float):
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(parameter.low), to_value=float(parameter.high), step=0.0)
                ]
            else:
                descriptor.integer_range = [
                    IntegerRange(from_value=int(parameter.low), to_value=int(parameter.high), step=1)
                ]
        default: Any = parameter.default
        if isinstance(default, list):
            default = RosParameter(name, RosParameter.Type.STRING_ARRAY, default).value
            descriptor.dynamic_typing = True
        self._node.declare_parameter(name, default, descriptor)

    def _check(self, parameters: Sequence[RosParameter]) -> SetParametersResult:
        ours = [(given, parameter) for given in parameters if (parameter := known(given.name)) is not None]
        reasons = [self._reason(given, parameter) for given, parameter in ours]
        if self._configured() and not any(reasons):
            # All are taken or none: only an expert may still turn out not to be loaded, so it comes first.
            dynamic = sorted(
                (given for given, parameter in ours if parameter.dynamic), key=lambda p: p.name != "expert"
            )
            for given in dynamic:
                if reason := self._changed(given.name, given.value):
                    reasons.append(reason)
                    break
        refused = next(filter(None, reasons), None)
        return SetParametersResult(successful=refused is None, reason=refused or "")

    def _reason(self, given: RosParameter, parameter: Parameter) -> str | None:
        """Say why a parameter cannot take a value now, before anything is changed."""
        if reason := parameter.problem(given.value):
            return reason
        if self._configured() and not parameter.dynamic and self._node.has_parameter(given.name):
            return f"{given.name} may change before configure only; deactivate and clean up the node first"
        return None
