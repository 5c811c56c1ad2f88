"""Optimizers and learning-rate schedules. Importing this package registers all of them."""

from roberta.optim import adam, muon, schedules

__all__ = ["adam", "muon", "schedules"]
