"""Training of small DiffMoE models (arXiv 2503.14487) in plain PyTorch: the extra ``diffmoe[train]``.

    python -m diffmoe.train configs/eurosat.toml --data-root DATA

What a model *is* stands in the packages above: its configuration (``diffmoe.config``), its tensors (``diffmoe.weights``),
how files store them (``diffmoe.formats``), prompts to tokens (``diffmoe.tokenizer``), noise levels and
samplers (``diffmoe.schedulers``).  Modules here import from there, never the other way round, so that NumPy is enough
for everything but training."""

import sys
from importlib.util import find_spec

from ..errors import one_of

#: Modules and what they are called where they are installed.
NEEDED = {"torch": "PyTorch", "tokenizers": "tokenizers", "PIL": "Pillow", "tqdm": "tqdm"}

if missing := [name for module, name in NEEDED.items() if find_spec(module) is None]:
    _are = "are" if missing[1:] else "is"
    _message = f"{one_of(missing, 'and')} {_are} missing; install what training needs with pip install 'diffmoe[train]'"
    # While Python looks for the module of a command, its name is "-m": a command ends with the sentence alone.
    raise SystemExit(_message) if sys.argv[:1] == ["-m"] else ImportError(_message)
