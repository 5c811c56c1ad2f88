"""The hub: pretrained models as people use them in a notebook, texts in and answers out."""

from roberta.hub.interface import RobertaHubInterface, from_pretrained

__all__ = ["RobertaHubInterface", "from_pretrained"]
