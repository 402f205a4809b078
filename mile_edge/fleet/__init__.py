"""Fleet: many bags over many processes or machines into one report, and experts shared through a registry."""

from mile_edge.fleet.bag_list import list_bags
from mile_edge.fleet.many import FleetResult, replay_fleet
from mile_edge.fleet.registry import RegistryEntry, list_entries, pull, push

__all__ = ["FleetResult", "RegistryEntry", "list_bags", "list_entries", "pull", "push", "replay_fleet"]
