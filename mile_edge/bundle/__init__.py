"""What is on disk: the manifest, the expert files, and the only code that changes them. No pickle, no torch."""

from mile_edge.bundle.candidate import ShadowPlan
from mile_edge.bundle.checks import check_expert
from mile_edge.bundle.derive import derive_bundle
from mile_edge.bundle.expert import Expert, expert_bytes, read_expert, write_expert
from mile_edge.bundle.fusion import FUSIONS, FusionInfo, FusionLayout
from mile_edge.bundle.fusion_head import FusionHead, read_head, write_head
from mile_edge.bundle.fusion_store import set_fusion, set_fusion_head
from mile_edge.bundle.gate import Gate
from mile_edge.bundle.labels import ClassLabel
from mile_edge.bundle.layout import UNUSED_BIAS, LowRankLayer, LowRankLayout, UnpackedRow
from mile_edge.bundle.loading import verify_bundle
from mile_edge.bundle.manifest import BaseInfo, ExpertEntry, Manifest, Network
from mile_edge.bundle.mending import remove_expert, roll_back, withdraw_candidate
from mile_edge.bundle.novelty import Novelty, Scale
from mile_edge.bundle.store import Bundle
from mile_edge.bundle.trust import Trust

__all__ = [
    "FUSIONS",
    "UNUSED_BIAS",
    "BaseInfo",
    "Bundle",
    "ClassLabel",
    "Expert",
    "ExpertEntry",
    "FusionHead",
    "FusionInfo",
    "FusionLayout",
    "Gate",
    "LowRankLayer",
    "LowRankLayout",
    "Manifest",
    "Network",
    "Novelty",
    "Scale",
    "ShadowPlan",
    "Trust",
    "UnpackedRow",
    "check_expert",
    "derive_bundle",
    "expert_bytes",
    "read_expert",
    "read_head",
    "remove_expert",
    "roll_back",
    "set_fusion",
    "set_fusion_head",
    "verify_bundle",
    "withdraw_candidate",
    "write_expert",
    "write_head",
]
