"""How good texts are that a system wrote: against references, against another system, or by a model alone."""
