"""Converters of the published models' files (FLAME, DECA, EMOCA, DiffusionRig), which users bring themselves."""
