"""RoBERTa for research and use.

`roberta.from_pretrained(name_or_path)` opens a model for notebooks; the commands, such as `roberta-train`,
`roberta-finetune` and `roberta-eval`, make and measure one. ARCHITECTURE.md beside this file tells how it is built.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roberta.hub import RobertaHubInterface, from_pretrained

__version__ = "0.1.0"
__all__ = ["RobertaHubInterface", "__version__", "from_pretrained"]


def __getattr__(name: str) -> Any:
    """Import the hub when it is first asked for, so that commands which need no torch start at once."""
    if name in ("RobertaHubInterface", "from_pretrained"):
        from roberta import hub

        return getattr(hub, name)
    raise AttributeError(f"module 'roberta' has no attribute {name!r}")
