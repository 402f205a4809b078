"""Message definitions: turning serialised messages into objects, by the definitions in the bag where it has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mile_edge.data.storage.records import Channel

_SEPARATOR = "=" * 80 + "\n"
_Parser = Callable[[Any], Any]
# What frames are made of. No release of ROS has changed these, so a bag that defines them otherwise is damaged, or made
# to be: a definition may ask for a list of any length of nothing at all.
_NEVER_CHANGED = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "std_msgs/msg/String")


class Definitions:
    """Parsers for the message types of a bag, made when first needed."""

    def __init__(self) -> None:
        self._parsers: dict[tuple[str, str, str], _Parser | None] = {}
        self._defaults: dict[Stores, Typestore] = {}

    def parse(self, channel: Channel, data: bytes | memoryview) -> Any:
        """Parse one serialised message.

        Args:
            channel: whose message it is.
            data: the serialised message.

        Returns:
            An object with the message's fields as attributes.

        Raises:
            ValueError: the type or its serialisation is not known. Damaged data may raise anything.
        """
        key = (channel.msgtype, channel.definition, channel.encoding)
        if key not in self._parsers:
            self._parsers[key] = self._make_parser(channel)
        parser = self._parsers[key]
        if parser is None:
            raise ValueError(f"no definition of {channel.msgtype} in {channel.encoding}")
        return parser(data)

    def _make_parser(self, channel: Channel) -> _Parser | None:
        if channel.encoding not in ("cdr", "ros1") or not channel.msgtype:
            return None
        default = Stores.ROS2_JAZZY if channel.encoding == "cdr" else Stores.ROS1_NOETIC
        store = None if channel.msgtype in _NEVER_CHANGED else _embedded(channel)
        if store is None:
            if default not in self._defaults:
                self._defaults[default] = get_typestore(default)
            store = self._defaults[default]
        if channel.msgtype not in store.fielddefs:
            return None
        read = store.deserialize_cdr if channel.encoding == "cdr" else store.deserialize_ros1
        return lambda data: read(data, channel.msgtype)


def _embedded(channel: Channel) -> Typestore | None:
    """A store of the channel's own definition, None where it has none or one that cannot be understood."""
    if not channel.definition:
        return None
    store = get_typestore(Stores.EMPTY)
    try:
        if channel.syntax == "msg":
            store.register(get_types_from_msg(channel.definition, channel.msgtype))
        elif channel.syntax == "idl":
            for part in channel.definition.split(_SEPARATOR):
                # rosbag2 puts "IDL: package/msg/Type" above each of several definitions.
                store.register(get_types_from_idl(part.split("\n", 1)[1] if part.startswith("IDL: ") else part))
        else:
            return None
    except Exception:  # a damaged definition raises whatever the grammar stumbles over
        return None
    return store if channel.msgtype in store.fielddefs else None
