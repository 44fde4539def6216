"""DiffMoE diffusion transformers in NumPy: sampling, and the routing of tokens to experts.

>>> from diffmoe import Pipeline
>>> images, trace = Pipeline.from_pretrained("eurosat.safetensors")(labels="River", seed=7)  # doctest: +SKIP
"""

from .config import Config
from .errors import ModelError, SettingsError, TraceError
from .model import Model
from .pipeline import Output, Pipeline
from .trace import Trace

__version__ = "0.1.0"
__all__ = ["Config", "Model", "ModelError", "Output", "Pipeline", "SettingsError", "Trace", "TraceError"]
