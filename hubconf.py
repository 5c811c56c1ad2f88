"""Entry points of `torch.hub.load(REPOSITORY, NAME)`.

The released models stand under their names, dots included; `from_pretrained` opens any checkpoint by its path.
"""

import functools

from roberta.hub import from_pretrained
from roberta.pretrained import RELEASES

dependencies = ["torch", "numpy", "regex", "requests", "tqdm", "safetensors", "tiktoken"]

for _name in RELEASES:
    globals()[_name] = functools.update_wrapper(functools.partial(from_pretrained, _name), from_pretrained)

__all__ = ["from_pretrained", *RELEASES]
