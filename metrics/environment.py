"""What must not be installed beside a CPU build of torch."""

from __future__ import annotations

from importlib import metadata, util

import torch


def torchvision_conflict() -> str | None:
    """Why this environment's torchvision breaks it, or None.

    The wheels of torchvision are built for CUDA. Beside a CPU torch its import fails, and because it is installed,
    importing torchmetrics, diffusers' models and every transformers model fails too; `pip check` sees nothing.

    Returns:
        A message that says what is wrong and what to do, or None where torchvision is absent or torch has CUDA.
    """
    if util.find_spec("torchvision") is None or torch.version.cuda is not None:
        return None
    return (
        f"torchvision {_version('torchvision')} is installed beside a CPU build of torch ({torch.__version__}): its "
        "import fails with 'operator torchvision::nms does not exist' and takes torchmetrics, diffusers and "
        "transformers with it. Nothing here needs it: `pip uninstall torchvision` (and lpips, torch-fidelity, "
        "pytorch-fid, timm, which bring it); use a CUDA build of torch where you want them"
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(unknown version)"
