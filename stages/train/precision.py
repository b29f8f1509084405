"""The number format that a model is trained in: `train.precision` on this device."""

from typing import Any

import torch

from nanogpt.runtime import Runtime, bfloat16_gain, is_emulated
from stages.train.lineage import device_name

DTYPES = {
    "auto": None,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def number_format_line(runtime: Runtime) -> str:
    """Return a line that names the number format and, where it is emulated, the cost."""
    name = str(runtime.dtype).removeprefix("torch.")
    line = f"train: on {device_name(runtime.device)}, computing in {name}"
    if runtime.dtype == torch.bfloat16 and is_emulated(runtime.dtype, runtime.device):
        times = 1 / bfloat16_gain(runtime.device)
        line += (
            f", as set by `train.precision`; this processor emulates it, {times:.0f} times slower "
            "than float32, which `auto` would choose"
        )
    return line


def format_of(earlier: dict[str, Any], device: torch.device) -> torch.dtype | None:
    """Return the number format of an earlier session on such a device; None: choose one.

    What was measured once is reused, so that a resumed run computes the same bits. A checkpoint
    that moved to a processor that emulates its format continues in another.
    """
    if earlier.get("device") != device_name(device):
        return None
    dtype = DTYPES[earlier["number_format"]]
    return None if dtype == torch.bfloat16 and is_emulated(dtype, device) else dtype
