"""Tasks. Importing this package registers all of them."""

from roberta.tasks import masked_lm, sentence_prediction, sentence_ranking, span, tagging, wsc

__all__ = ["masked_lm", "sentence_prediction", "sentence_ranking", "span", "tagging", "wsc"]
