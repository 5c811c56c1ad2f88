"""Tasks. Importing this package registers all of them."""

from roberta.tasks import masked_lm, span

__all__ = ["masked_lm", "span"]
