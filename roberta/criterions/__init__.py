"""Criterions: what is summed over a batch's targets. Importing this package registers all of them.

A criterion is built from its config and the name of the head that is trained. It is called with (model, batch) and
returns (loss sum, sums to log); `metrics(sums, num_targets)` turns sums over any number of batches into the figures
that people read, with `loss` among them.
"""

from roberta.criterions import masked_lm

__all__ = ["masked_lm"]
