"""The stages in which the photo's own texture is redrawn."""
