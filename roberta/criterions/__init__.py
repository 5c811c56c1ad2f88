"""Criterions: what is summed over a batch's targets. Importing this package registers all of them.

A criterion is built from its config and the name of the head that is trained. It is called with (model, batch) and
returns (loss sum, sums to log); `metrics(sums, num_targets)` turns sums over any number of batches into the figures
that people read, with `loss` among them. Its config may have `check_fits(head)`, which is called with the config of the
head before anything is trained. Where the outputs of the head are to be scored too, it does so in two steps:
`outputs(model, batch)`, then `loss(outputs, batch)`.
"""

from roberta.criterions import masked_lm, sentence_prediction, sentence_ranking, span, tagging, wsc

__all__ = ["masked_lm", "sentence_prediction", "sentence_ranking", "span", "tagging", "wsc"]
