"""Entry points of `torch.hub.load(REPOSITORY, NAME)`.

The models that have names stand under them, dots included; `from_pretrained` opens any checkpoint by its path.
"""

import functools

from roberta.hub import from_pretrained
from roberta.pretrained import RELEASES, SHIPPED

dependencies = ["torch", "numpy", "regex", "requests", "tqdm", "safetensors", "tiktoken"]

for _name in (*SHIPPED, *RELEASES):
    globals()[_name] = functools.update_wrapper(functools.partial(from_pretrained, _name), from_pretrained)

__all__ = ["from_pretrained", *SHIPPED, *RELEASES]
