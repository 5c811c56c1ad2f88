"""Models and their heads. Importing this package registers all of them."""

from roberta.models import heads, roberta

__all__ = ["heads", "roberta"]
