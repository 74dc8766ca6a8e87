"""Create models through timm, with weights from the embedded files, a checkpoint, or timm itself."""

from __future__ import annotations

import difflib
import hashlib
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pmq.core.allocation import ModelInfo
from pmq.core.errors import PmqError, one_line
from pmq.core.tensors import TensorFile
from pmq.models.embedded import ASSETS, EMBEDDED_NAME, embedded_architecture
from pmq.models.torchvision_ops import ensure_torchvision

StateDict = dict[str, Tensor]


def create_model(
    name: str | None = None,
    checkpoint: Path | str | None = None,
    num_classes: int | None = None,
    pretrained: bool = True,
    seed: int = 0,
) -> nn.Module:
    """Create a model in evaluation mode.

    Args:
        name: timm's ``arch.tag``; without it the embedded model.
        checkpoint: safetensors, or a torch file that holds tensors only. The number of classes is read off its head; a
            checkpoint without a head makes a feature extractor.
        num_classes: overrides what the checkpoint or timm says; 0 makes a feature extractor.
        pretrained: without a checkpoint, take timm's published weights; off, random ones drawn by ``seed``.
        seed: see ``pretrained``.

    Raises:
        PmqError: unknown name, unreadable or unsafe checkpoint, or one of another shape.
    """
    ensure_torchvision()
    if name in (None, EMBEDDED_NAME):
        name = EMBEDDED_NAME
        checkpoint = checkpoint or ASSETS / "model.safetensors"
    state = None if checkpoint is None else read_checkpoint(Path(checkpoint))
    if state is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _timm_model(name, num_classes, pretrained).eval()
    skeleton = _timm_model(name, None, pretrained=False)
    classes = _classes_of(state, skeleton)
    if num_classes not in (None, classes, 0):
        raise PmqError(f"--num-classes {num_classes}, but the head of {str(checkpoint)!r} has {classes}; drop the flag")
    classes = classes if num_classes is None else num_classes
    model = skeleton if classes == skeleton.num_classes else _timm_model(name, classes, pretrained=False)
    _load(model, state, str(checkpoint), name)
    return model.eval()


def _timm_model(name: str | None, num_classes: int | None, pretrained: bool) -> Any:
    import timm

    options = {} if num_classes is None else {"num_classes": num_classes}
    if name == EMBEDDED_NAME:
        return embedded_architecture(**options)
    assert name is not None
    architecture = name.split(".")[0]
    if ":" not in name and not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else "; `timm.list_models()` names them all"
        raise PmqError(f"model {name!r} is not one of timm's{hint}")
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        hint = "pass --checkpoint with the weights" if pretrained else "see timm's documentation of that model"
        raise PmqError(f"timm cannot create {name!r}: {one_line(error)}; {hint}") from None


def read_checkpoint(path: Path) -> StateDict:
    """Read a state dict, never executing code from the file.

    Raises:
        PmqError: the file is absent, truncated, holds pickled code, or holds no tensors.
    """
    from timm.models import load_state_dict

    if not path.is_file():
        raise PmqError(f"checkpoint {str(path)!r} does not exist; give a .safetensors or torch file")
    try:
        state = load_state_dict(str(path), device="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        if "weights_only" in str(error):
            raise PmqError(
                f"checkpoint {str(path)!r} holds pickled code, which is not run; save its state dict as safetensors"
            ) from None
        raise PmqError(f"checkpoint {str(path)!r} is truncated or no checkpoint: {one_line(error)}") from None
    except (AttributeError, TypeError) as error:
        raise PmqError(f"checkpoint {str(path)!r} holds no state dict: {one_line(error)}") from None
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    if not tensors:
        raise PmqError(f"checkpoint {str(path)!r} holds no tensors; give a state dict")
    return tensors


def _classes_of(state: StateDict, model: Any) -> int:
    """Read the number of classes off the head; 0 without one."""
    classifier = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or "head"
    first = classifier if isinstance(classifier, str) else classifier[0]
    for key in (f"{first}.weight", "head.weight", "head.fc.weight"):
        if key in state:
            return int(state[key].shape[0])
    return 0


def _load(model: nn.Module, state: StateDict, checkpoint: str, name: str | None) -> None:
    own = model.state_dict()
    if own.keys() - state.keys():  # perhaps another layout that timm knows how to convert
        convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        if convert is not None:
            state = convert(state, model)
    head_keys = ("head.", "head_dist.", "fc_norm.") if getattr(model, "num_classes", None) == 0 else ()
    state = {k: v for k, v in state.items() if k in own or not k.startswith(head_keys)} if head_keys else state
    optional = {k for k in state if k.endswith(("relative_position_index", "attn_mask"))}  # timm rebuilds these
    for key in own:
        if key not in state:
            raise PmqError(f"checkpoint {checkpoint!r} has no {key!r}, which {name!r} needs: it is of another model")
        if state[key].shape != own[key].shape:
            shapes = f"{tuple(state[key].shape)}, in {name!r} it is {tuple(own[key].shape)}"
            raise PmqError(f"checkpoint {checkpoint!r}: {key!r} is {shapes}; give the model the checkpoint was made for")
    for key in state.keys() - own.keys() - optional:
        raise PmqError(f"checkpoint {checkpoint!r} has {key!r}, which {name!r} does not: it is of another model")
    model.load_state_dict({k: v for k, v in state.items() if k in own})


def model_info(model: nn.Module) -> ModelInfo:
    """Describe any timm-built module: its name, classes, weights and preprocessing; a pruned one as what it was before."""
    from timm.data import resolve_model_data_config

    config = getattr(model, "pretrained_cfg", None) or {}
    name = config.get("architecture") or type(model).__name__
    tag = config.get("tag")
    data_config = {k: list(v) if isinstance(v, tuple) else v for k, v in resolve_model_data_config(model).items()}
    data_config |= _built_for(model, data_config)
    return ModelInfo(
        name=f"{name}.{tag}" if tag else name,
        num_classes=int(getattr(model, "num_classes", 0) or 0),
        weights_sha256=getattr(model, "pruned_from", None) or weights_sha256(model),
        data_config=data_config,
    )


def model_label(model: nn.Module) -> str:
    """Tell a model's name, and if it is pruned, how: what latencies are kept by."""
    name, plan = model_info(model).name, getattr(model, "pruning_plan", None)
    return name if plan is None else f"{name}{'-' if '.' in name else '.'}pruned-{plan.digest}"


def class_names(model: nn.Module) -> list[str]:
    """What a model calls its classes: by its own config, or ImageNet-1k's where there are a thousand; else nothing.

    Of ImageNet's synonyms the first, unless two classes share it.
    """
    own = (getattr(model, "pretrained_cfg", None) or {}).get("label_names")
    if own and len(own) == getattr(model, "num_classes", 0):
        return list(own)
    if getattr(model, "num_classes", 0) != 1000:
        return []
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    names = [info.index_to_description(i) for i in range(1000)]
    first = [name.split(",")[0] for name in names]
    return [short if first.count(short) == 1 else name for short, name in zip(first, names, strict=True)]


def _built_for(model: nn.Module, data_config: dict[str, Any]) -> dict[str, Any]:
    """Correct the data config where the model was built for another image size or other channels than it says."""
    patches: Any = getattr(model, "patch_embed", None)
    size, channels = getattr(patches, "img_size", None), getattr(getattr(patches, "proj", None), "in_channels", None)
    found = data_config["input_size"]
    corrected: dict[str, Any] = {"input_size": [channels or found[0], *(size or found[1:])]}
    for key in ("mean", "std"):
        values = data_config[key]
        if channels is not None and len(values) != channels:
            corrected[key] = [sum(values) / len(values)] * channels
    return corrected


def parameters_file(model: nn.Module) -> TensorFile:
    """All parameters of a model."""
    return TensorFile.of({name: p.detach().cpu().contiguous().numpy() for name, p in model.named_parameters()})


def weights_sha256(model: nn.Module) -> str:
    """Hash names, shapes and values of the state dict."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else b"")
    return digest.hexdigest()
