"""Change the emotion of a face in a photo and keep the person."""

from .codes import FaceCodes
from .emotions import ACTION_UNITS, EMOTIONS
from .faces import NoFaceError
from .photos import PhotoError
from .pipeline_emorig import EmoRigOutput, EmoRigPipeline
from .version import __version__


__all__ = ["__version__", "ACTION_UNITS", "EMOTIONS", "EmoRigOutput", "EmoRigPipeline", "FaceCodes", "NoFaceError", "PhotoError"]
