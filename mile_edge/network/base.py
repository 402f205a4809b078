"""The frozen base: a Hugging Face ``*ForSemanticSegmentation`` network, from a folder, the hub or random weights.

A family of networks is known by the names of four of its parts, in ``_DESCRIPTIONS``: SegFormer, MobileViT, and the
convolutional ESPNetv2, which Hugging Face does not have and ``espnet.py`` adds.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSemanticSegmentation,
    MobileViTConfig,
    PretrainedConfig,
    PreTrainedModel,
    SegformerConfig,
)
from transformers.utils import logging

from mile_edge.errors import RecipeError
from mile_edge.network.espnet import SCALES, config_of_checkpoint, espnet_config
from mile_edge.network.segformer import reduce_before_upsampling

Base = PreTrainedModel

# A resized classifier is expected here, and the progress of this project is shown by its own bars.
logging.set_verbosity_error()
logging.disable_progress_bar()

# SegFormer B0 to B5 (Xie et al., NeurIPS 2021, arXiv 2105.15203, table 6): depths, widths, decoder width.
_SEGFORMER_SIZES: dict[str, tuple[list[int], list[int], int]] = {
    "b0": ([2, 2, 2, 2], [32, 64, 160, 256], 256),
    "b1": ([2, 2, 2, 2], [64, 128, 320, 512], 256),
    "b2": ([3, 4, 6, 3], [64, 128, 320, 512], 768),
    "b3": ([3, 4, 18, 3], [64, 128, 320, 512], 768),
    "b4": ([3, 8, 27, 3], [64, 128, 320, 512], 768),
    "b5": ([3, 6, 40, 3], [64, 128, 320, 512], 768),
}


@dataclass(frozen=True)
class BaseDescription:
    """Where the parts of a base network are, as module names.

    Attributes:
        classifier: the last layer, a 1x1 convolution from hidden features to class scores.
        entry: the first convolution; a gate that reads its product lets experts adapt every layer, this one too.
        entry_norm: normalisation that follows it, through which such a gate reads, or ``None``.
        early_tap: module whose output feeds the gate in the same pass, before the first adapted layer.
        full_tap: module whose output feeds the gate when a second pass is accepted.
        adapted: regular expression of the layers that take the low-rank path when a recipe names none.
        sliced: a layer that cannot be adapted, since its weights are applied slice by slice.
    """

    classifier: str
    entry: str
    entry_norm: str | None
    early_tap: str
    full_tap: str
    adapted: str
    sliced: str | None = None


_DESCRIPTIONS: dict[str, BaseDescription] = {
    "segformer": BaseDescription(
        classifier="decode_head.classifier",
        entry="segformer.stages.0.patch_embeddings.proj",
        entry_norm="segformer.stages.0.patch_embeddings.layer_norm",
        early_tap="segformer.stages.0",
        full_tap="segformer.stages.3",
        adapted=r"segformer\.stages\.[123]\..*(q_proj|v_proj)",
        sliced="decode_head.linear_fuse",
    ),
    "mobilevit": BaseDescription(
        classifier="segmentation_head.classifier.convolution",
        entry="mobilevit.conv_stem.convolution",
        entry_norm=None,
        early_tap="mobilevit.encoder.layer.1",
        full_tap="mobilevit.encoder.layer.4",
        adapted=r"mobilevit\.encoder\.layer\.[234]\..*(query|value)",
    ),
    "espnetv2": BaseDescription(
        classifier="bu_dec_l4.merge_layer.3",
        entry="base_net.level1.conv",
        entry_norm=None,
        early_tap="base_net.level2_0",
        full_tap="base_net.level4.6",
        adapted=r"base_net\.level[34].*(proj_1x1|conv_1x1_exp)\.conv",
    ),
}


def describe(model: Base | str) -> BaseDescription:
    """Where classifier, taps and adapted layers are, of a network or of a Hugging Face model type.

    Raises:
        RecipeError: the type has no entry here.
    """
    kind = model if isinstance(model, str) else model.config.model_type
    if kind not in _DESCRIPTIONS:
        known = ", ".join(sorted(_DESCRIPTIONS))
        raise RecipeError(f"base type {kind!r} is not described (known: {known}); add it to mile_edge/network/base.py")
    return _DESCRIPTIONS[kind]


def load_base(source: str, num_classes: int | None = None, rows: Sequence[int | None] | None = None) -> Base:
    """A base network in evaluation mode.

    Args:
        source: a local folder with ``config.json`` and ``model.safetensors``, a hub name such as
            ``nvidia/segformer-b0-finetuned-cityscapes-640-1280``, a ``.pth`` file of the authors of ESPNetv2, or
            ``random:segformer-b0`` for untrained weights.
        num_classes: length of the class scores; by default what the source says. A classifier of another
            length starts from random weights.
        rows: for each class the row of the source's own classifier that it starts from, ``None`` for zeros; takes the
            place of ``num_classes``.

    Raises:
        RecipeError: the source does not exist or is no segmentation network, or has no such row.
    """
    if rows is not None:
        return _with_rows(load_base(source), rows)
    if source.startswith("random:"):
        config = _random_config(source.removeprefix("random:"), num_classes or 19)
        model = AutoModelForSemanticSegmentation.from_config(config)
    elif source.endswith(".pth"):
        model = _from_checkpoint(Path(source), num_classes)
    else:
        if not Path(source).is_dir() and (source.startswith((".", "/", "~")) or source.count("/") != 1):
            raise RecipeError(f"base {source!r} does not exist; give a folder, a hub name or random:segformer-b0")
        try:
            overrides = {} if num_classes is None else {"num_labels": num_classes}
            model = AutoModelForSemanticSegmentation.from_pretrained(
                source,
                ignore_mismatched_sizes=True,
                local_files_only=Path(source).is_dir(),
                use_safetensors=True,
                **overrides,
            )
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, StrictDataclassError) as error:
            reason = str(error).splitlines()[0]
            raise RecipeError(f"base {source!r} cannot be loaded ({reason}); give a folder or a hub name") from error
    return _prepare(model)


def base_from_weights(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> Base:
    """A base network from its Hugging Face configuration and a state dict, nothing missing and nothing unexpected."""
    settings = dict(config)
    model = AutoModelForSemanticSegmentation.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise RecipeError(f"base weights do not fit their configuration: missing {missing[:3]}, left {unexpected[:3]}")
    return _prepare(model)


def base_sha256(model: Base) -> str:
    """SHA-256 over names, shapes and bytes of all frozen weights; the classifier is not one, experts bring theirs."""
    classifier = describe(model).classifier
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(classifier + ".") or name.endswith("num_batches_tracked"):
            continue
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to(torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def config_of(model: Base) -> dict[str, Any]:
    """The Hugging Face configuration as plain JSON, without what only concerns the file it came from."""
    config = json.loads(model.config.to_json_string(use_diff=True))
    for key in ("transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path"):
        config.pop(key, None)
    return config


def _from_checkpoint(path: Path, num_classes: int | None) -> Base:
    try:
        # Weights only: a checkpoint that wants to run code is refused by torch.
        weights = torch.load(path, map_location="cpu", weights_only=True)
        config = config_of_checkpoint(weights)
    except (OSError, RuntimeError, ValueError, EOFError, AttributeError, TypeError, pickle.UnpicklingError) as error:
        raise RecipeError(
            f"base {str(path)!r} cannot be loaded ({str(error).splitlines()[0]}); give weights"
        ) from error
    if config is None:
        raise RecipeError(
            f"base {str(path)!r} is no ESPNetv2 checkpoint; convert other networks to Hugging Face folders"
        )
    model = base_from_weights({**config.to_dict(), "model_type": config.model_type}, weights)
    if num_classes is not None and num_classes != config.num_labels:
        model.config.num_labels = num_classes
        parent, _, leaf = describe(model).classifier.rpartition(".")
        setattr(model.get_submodule(parent), leaf, nn.Conv2d(config.projection, num_classes, 1))
    return model


@torch.no_grad()
def chosen_rows(
    weight: torch.Tensor, bias: torch.Tensor | None, rows: Sequence[int | None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (len(rows), ...) and bias (len(rows),) made of a classifier's rows, zeros for ``None``.

    Raises:
        RecipeError: it has no such row.
    """
    beyond = [row for row in rows if row is not None and row >= len(weight)]
    if beyond:
        raise RecipeError(f"a class starts from row {beyond[0]} and the base has {len(weight)}; mend the class map")
    made = weight.new_zeros(len(rows), *weight.shape[1:]), weight.new_zeros(len(rows))
    for place, row in enumerate(rows):
        if row is not None:
            made[0][place] = weight[row]
            made[1][place] = 0.0 if bias is None else bias[row]
    return made


@torch.no_grad()
def _with_rows(model: Base, rows: Sequence[int | None]) -> Base:
    """The network with the classifier's rows in another order."""
    parent, _, leaf = describe(model).classifier.rpartition(".")
    old = model.get_submodule(describe(model).classifier)
    assert isinstance(old, nn.Conv2d)
    new = nn.Conv2d(old.in_channels, len(rows), 1)
    assert new.bias is not None
    for parameter, first in zip((new.weight, new.bias), chosen_rows(old.weight, old.bias, rows), strict=True):
        parameter.copy_(first)
    setattr(model.get_submodule(parent), leaf, new.requires_grad_(False))
    model.config.num_labels = len(rows)
    return model


def _random_config(name: str, num_classes: int) -> PretrainedConfig:
    config: PretrainedConfig
    if name == "mobilevit-xxs":
        config = MobileViTConfig(
            hidden_sizes=[64, 80, 96], neck_hidden_sizes=[16, 16, 24, 48, 64, 80, 320], expand_ratio=2.0
        )
        config.num_labels = num_classes
        return config
    family, _, size = name.partition("-")
    if family == "espnetv2" and size in {str(scale) for scale in SCALES}:
        return espnet_config(float(size), num_classes)
    if family != "segformer" or size not in _SEGFORMER_SIZES:
        raise RecipeError(f"random base {name!r} is unknown; choose segformer-b0 to b5, mobilevit-xxs or espnetv2-2.0")
    depths, widths, decoder = _SEGFORMER_SIZES[size]
    config = SegformerConfig(depths=depths, hidden_sizes=widths, decoder_hidden_size=decoder)
    config.num_labels = num_classes
    return config


def _prepare(model: Base) -> Base:
    if model.config.model_type == "segformer":
        reduce_before_upsampling(model)
    return model.eval().requires_grad_(False)
