"""Experts to and from PEFT's LoRA folders (``adapter_config.json`` and ``adapter_model.safetensors``)."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file
from safetensors.torch import load_file
from torch import nn

from mile_edge.bundle import ClassLabel, Expert, LowRankLayout
from mile_edge.bundle.layout import LowRankLayer
from mile_edge.errors import ExpertError
from mile_edge.network.base import Base, describe
from mile_edge.training.expert import ExpertTask, Head, assemble
from mile_edge.training.statistics import GateStatistics

_PREFIX = "base_model.model."
_UNSUPPORTED = ("use_dora", "fan_in_fan_out", "lora_bias", "megatron_config")


def write_peft(expert: Expert, folder: Path, base: Base, base_model: str = "") -> None:
    """Write an expert as a PEFT LoRA folder, ``lora_alpha`` equal to the rank so that B is used as it is.

    Args:
        base: the frozen network; its layers say which pairs PEFT wants as convolutions, and its classifier is saved
            whole as one of PEFT's ``modules_to_save``.
        base_model: what PEFT should load the base from; for people.

    Raises:
        ExpertError: the expert has no adapter, PEFT cannot run it, or the folder cannot be written.
    """
    if expert.adapter != "low_rank":
        raise ExpertError(f"expert {expert.name!r} has no low-rank adapter; there is nothing that PEFT could hold")
    for layer in expert.low_rank:
        _check_layer(expert.name, layer, base.get_submodule(layer))
    classifier = describe(base).classifier
    tensors: dict[str, np.ndarray] = {}
    for layer, (a, b) in expert.low_rank.items():
        frozen = base.get_submodule(layer)
        kernel = tuple(frozen.get_parameter("weight").shape[2:])
        at_centre = isinstance(frozen, nn.Conv2d) and a.shape[1] == frozen.in_channels
        narrow = _around(a, kernel) if at_centre else a.reshape(len(a), -1, *kernel)
        tensors[f"{_PREFIX}{layer}.lora_A.weight"] = np.ascontiguousarray(narrow, np.float32)
        wide = (*b.shape, *(1 for _ in kernel))
        tensors[f"{_PREFIX}{layer}.lora_B.weight"] = np.ascontiguousarray(b.reshape(wide), np.float32)
    others = {re.escape(layer): len(a) for layer, (a, _) in expert.low_rank.items() if len(a) != expert.rank}
    tensors[f"{_PREFIX}{classifier}.weight"] = np.ascontiguousarray(expert.classifier_weight, np.float32)[
        :, :, None, None
    ]
    tensors[f"{_PREFIX}{classifier}.bias"] = np.ascontiguousarray(expert.classifier_bias, np.float32)
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": expert.rank,
        "lora_alpha": expert.rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": "|".join(re.escape(layer) for layer in expert.low_rank),
        "modules_to_save": [classifier],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
        save_file(tensors, folder / "adapter_model.safetensors")
        # save_file keeps its file from everybody else, whatever the umask says.
        shutil.copymode(folder / "adapter_config.json", folder / "adapter_model.safetensors")
    except OSError as error:
        raise ExpertError(f"PEFT folder {folder} cannot be written ({error.strerror}); choose another") from error


def read_peft(
    folder: Path,
    task: ExpertTask,
    layout: LowRankLayout,
    base_sha256: str,
    classes: tuple[ClassLabel, ...],
    classifier: str,
    statistics: GateStatistics,
    own: Expert,
) -> Expert:
    """Read a PEFT LoRA folder as an expert; the scaling alpha/r (or alpha/sqrt(r) for rsLoRA) is folded into B.

    Args:
        task: name, sensors and domains, which PEFT does not know.
        layout: the bundle's layers; every one must be in the folder, and no other: a name that does not match would be
            dropped silently and the expert look trained.
        classes: of the classifier's rows.
        statistics: of the frames the adapter was trained on.
        own: the base's expert, whose classifier is used where the folder brings none.

    Raises:
        ExpertError: no such folder, a variant of LoRA that this project does not run, or layers that do not match.
    """
    config = _config(folder)
    rank = config.get("r")
    if rank != layout.rank:
        raise ExpertError(
            f"PEFT folder {folder} has rank {rank}, the bundle rank {layout.rank}; train with r={layout.rank}"
        )
    try:
        # Through torch, for adapters are often bfloat16, which numpy does not know.
        loaded = load_file(folder / "adapter_model.safetensors")
        tensors = {name: tensor.float().numpy() for name, tensor in loaded.items()}
    except (OSError, SafetensorError) as error:
        raise ExpertError(f"PEFT folder {folder} has no readable adapter_model.safetensors ({error})") from error
    low_rank = {}
    for layer in layout.layers:
        try:
            a = tensors.pop(f"{_PREFIX}{layer.name}.lora_A.weight")
            b = tensors.pop(f"{_PREFIX}{layer.name}.lora_B.weight")
        except KeyError as error:
            raise ExpertError(
                f"PEFT folder {folder} does not adapt {layer.name}; adapt all layers of the bundle"
            ) from error
        # Convolutions come as (rank, in, k, k) and (out, rank, 1, 1).
        b = _flat(b, layer.name) * np.float32(_scale(config, layer.name, folder))
        low_rank[layer.name] = _of_rank(layout.rank_of(layer), _as_matrix(a, layer, folder), b)
    head = _head(tensors, classifier, own, classes)
    if tensors:
        raise ExpertError(
            f"PEFT folder {folder} holds {next(iter(tensors))}, which the bundle does not adapt; leave it out"
        )
    return assemble(task, statistics, head, low_rank, base_sha256, layout.rank, {"imported_from": str(folder)})


def _check_layer(name: str, layer: str, frozen: nn.Module) -> None:
    """PEFT gives its A no dilation, and its B the groups of the frozen layer."""
    if not isinstance(frozen, nn.Conv2d):
        return
    odd = f"{frozen.groups} groups" if frozen.groups != 1 else ""
    if frozen.kernel_size != (1, 1) and frozen.dilation != (1, 1):
        odd = f"a dilation of {max(frozen.dilation)}"
    if odd:
        raise ExpertError(
            f"expert {name!r} adapts {layer}, a convolution with {odd}, which PEFT's LoRA cannot follow; "
            "export one whose recipe's layers are others"
        )


def _around(a: np.ndarray, kernel: tuple[int, ...]) -> np.ndarray:
    """(rank, in) as (rank, in, k, k), zero but at the kernel's centre."""
    whole = np.zeros((*a.shape, *kernel), np.float32)
    whole[:, :, kernel[0] // 2, kernel[1] // 2] = a
    return whole


def _as_matrix(a: np.ndarray, layer: LowRankLayer, folder: Path) -> np.ndarray:
    """A of (rank, in, k, k) as this project's layer takes it: all of it, or what lies at the kernel's centre."""
    if a.ndim == 4 and a.shape[1] == layer.in_features:
        centre = a[:, :, a.shape[2] // 2, a.shape[3] // 2]
        if np.count_nonzero(centre) == np.count_nonzero(a):
            return centre
        raise ExpertError(
            f"PEFT folder {folder} adapts the whole kernel of {layer.name}, the bundle only its centre; leave it out"
        )
    return a.reshape(len(a), -1)


def _of_rank(rank: int, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same product with this rank, where it is not smaller: the first convolution's pair may be of any rank."""
    missing = max(0, rank - len(a))
    return np.pad(a, ((0, missing), (0, 0))), np.pad(b, ((0, 0), (0, missing)))


def _scale(config: Mapping[str, Any], layer: str, folder: Path) -> float:
    rank = _own(config, "rank_pattern", layer, config["r"])
    alpha = _own(config, "alpha_pattern", layer, config.get("lora_alpha"))
    for key, value in (("r", rank), ("lora_alpha", alpha)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or rank <= 0:
            raise ExpertError(f"PEFT folder {folder} has {key} {value!r} for {layer}; give a number")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _own(config: Mapping[str, Any], patterns: str, layer: str, otherwise: Any) -> Any:
    """What a layer's name is given by the first pattern that matches its end, as PEFT matches them."""
    for pattern, value in (config.get(patterns) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return value
    return otherwise


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
    except (OSError, ValueError) as error:
        why = (error.strerror or "unreadable").lower() if isinstance(error, OSError) else f"no JSON, {error}"
        raise ExpertError(
            f"{folder} is no PEFT folder (adapter_config.json: {why}); give one that PEFT's save_pretrained wrote"
        ) from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA" or not isinstance(config.get("r"), int):
        raise ExpertError(f"{folder} is no PEFT LoRA folder; its adapter_config.json has no peft_type LORA with a rank")
    used = [key for key in _UNSUPPORTED if config.get(key)]
    if used or config.get("bias", "none") != "none":
        raise ExpertError(
            f"PEFT folder {folder} uses {(used or ['bias'])[0]}, which a bank row cannot hold; train plain LoRA"
        )
    return config


def _head(tensors: dict[str, np.ndarray], classifier: str, own: Expert, classes: tuple[ClassLabel, ...]) -> Head:
    """The folder's classifier with the classes it was trained for, else the base's own with the base's classes."""
    weight, bias = (tensors.pop(f"{_PREFIX}{classifier}.{part}", None) for part in ("weight", "bias"))
    if weight is None:
        return Head(np.asarray(own.classifier_weight), np.asarray(own.classifier_bias), own.classes)
    if bias is None:
        bias = np.zeros(len(weight), np.float32)
    return Head(_flat(weight, classifier), np.asarray(bias, np.float32), classes)


def _flat(array: np.ndarray, layer: str) -> np.ndarray:
    if array.ndim < 2 or array.size != array.shape[0] * array.shape[1]:
        raise ExpertError(f"the adapter of {layer} has shape {array.shape}; only linear layers and convolutions fit")
    return np.ascontiguousarray(array.reshape(array.shape[:2]), np.float32)
