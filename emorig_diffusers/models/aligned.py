"""Weights that lie in memory as torch lays its own tensors, however a model was opened.

safetensors maps a file into memory and diffusers takes the tensors from there, at any multiple of their size. Matrix
products of such weights take other paths (MKL's differ by 3e-7 on some processors), so that a model that was saved and
opened would compute something else than the one that was saved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from torch import nn

if TYPE_CHECKING:
    from diffusers import ModelMixin as _Models
else:
    _Models = object

ALIGNMENT = 64  # bytes; what torch's own CPU allocator gives (c10's gAlignment), a cache line


def align_weights(module: nn.Module) -> None:
    """Copy the parameters and buffers of a module on the CPU to addresses that ALIGNMENT divides, where they are not.

    The parameters stay the same objects, so that optimisers and whoever else holds them go on.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()


class AlignedMixin(_Models):
    """Goes before `diffusers.ModelMixin` in the bases of every model of this package.

    Attributes:
        config: What the model was made with, each argument an attribute.
    """

    config: Any

    if TYPE_CHECKING:

        def to(self, *args: Any, **kwargs: Any) -> Self:
            """As `ModelMixin.to`, whose wrapper hides its arguments from checkers."""
            ...

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Self:
        """As `ModelMixin.from_pretrained` (so a tuple with `output_loading_info`), from safetensors alone unless
        `use_safetensors=False` says otherwise; the weights are aligned."""
        opened: Any = super().from_pretrained(*args, **{"use_safetensors": True} | kwargs)
        align_weights(opened[0] if kwargs.get("output_loading_info") else opened)
        return opened
