"""FaceCodes: the one currency of the package. Encoders make it, emotions change it, the head draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class FaceCodes:
    """Parameters of one or more faces, batch first, in the frame of their aligned square crops.

    Attributes:
        shape: Identity β [B, S], unit variance.
        expression: ψ [B, E]; for the open head, named action units in about [0, 1].
        pose: Axis-angle of the head (3) and of the jaw (3) [B, 6], radians.
        camera: Weak perspective (s, tx, ty) [B, 3] as in DECA: x' = s (x + tx), y' = -s (y + ty) in [-1, 1].
        light: Nine spherical-harmonic coefficients for red, green and blue [B, 9, 3].
        texture: Albedo code [B, T]; T is 0 where the photo itself is the texture.
    """

    shape: Tensor
    expression: Tensor
    pose: Tensor
    camera: Tensor
    light: Tensor
    texture: Tensor

    def __len__(self) -> int:
        return self.shape.shape[0]

    def __getitem__(self, index: int) -> FaceCodes:
        """One face as a batch of one."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"There are codes of {len(self)} faces, not of face {index}.")
        return FaceCodes(*(getattr(self, f.name)[index : index + 1 or None] for f in fields(self)))

    def with_(self, **changes: Tensor) -> FaceCodes:
        """A copy with some codes replaced."""
        return replace(self, **changes)

    def towards(self, other: FaceCodes, share: float) -> FaceCodes:
        """Codes on the straight way to another's: these at 0, the other's at 1."""
        both = ((getattr(codes, f.name) for codes in (self, other)) for f in fields(self))
        return FaceCodes(*(torch.lerp(mine, theirs, share) for mine, theirs in both))

    def to(self, *args: object, **kwargs: object) -> FaceCodes:
        """Move or cast every code, as `Tensor.to`."""
        return FaceCodes(*(getattr(self, f.name).to(*args, **kwargs) for f in fields(self)))

    def to_dict(self) -> dict[str, list]:
        """Nested lists, ready for JSON."""
        return {f.name: getattr(self, f.name).tolist() for f in fields(self)}

    @classmethod
    def from_dict(cls, values: dict[str, list]) -> FaceCodes:
        """Inverse of `to_dict`.

        Raises:
            ValueError: If a code is missing or the batch sizes differ.
        """
        missing = [f.name for f in fields(cls) if f.name not in values]
        if missing:
            raise ValueError(f"Face codes lack {', '.join(missing)}: write them with `emorig codes`.")
        codes = cls(*(torch.tensor(values[f.name], dtype=torch.float32) for f in fields(cls)))
        if len({getattr(codes, f.name).shape[0] for f in fields(cls)}) != 1:
            raise ValueError("Every code needs the same number of faces: write them with `emorig codes`.")
        return codes

    @classmethod
    def cat(cls, codes: Sequence[FaceCodes]) -> FaceCodes:
        """Join batches."""
        return cls(*(torch.cat([getattr(c, f.name) for c in codes]) for f in fields(cls)))
