"""The hub interface: a pretrained model and its tokenizer, with one method for each thing that people do with them.

It decides what is a single item and what a list, and in which mode the model computes; the work is in the modules
beside this one. Two rules hold for all methods:

- Tensors in, tensors out, in the model's mode (`.eval()`, `.train()`) and with gradients, as in training.
- Texts in, answers out, in evaluation mode and without gradients. One text gives one answer; a list gives a list in the
  same order, computed in batches of texts of like length. A tuple of texts, such as a pair, is one sequence.

Shapes: B sequences, S padded length, C embed_dim, K outputs of a head, N texts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

from torch import Tensor

from roberta import pretrained
from roberta.errors import DataError
from roberta.hub import alignment, answering, border, choosing, features, filling, predicting, scoring, tagging
from roberta.hub.border import Engine, Text, as_sequences, as_texts
from roberta.hub.features import Pooling
from roberta.hub.model import HubModel


def from_pretrained(
    name_or_path: str | Path, checkpoint_file: str = pretrained.FAIRSEQ_FILE, *, verify: bool = True
) -> "RobertaHubInterface":
    """Return the hub interface of a released model, a checkpoint of ours, or a foreign one, in evaluation mode.

    name_or_path: `roberta.mini` (comes with the package), `roberta.base`, `roberta.large`, `roberta.large.mnli`,
    `roberta.large.wsc` (downloaded once), a run or checkpoint folder, a Hugging Face folder or `hf:owner/name`, a
    fairseq folder with its `checkpoint_file`, a `.pt` file, or a `.tar.gz` archive of such a folder. Without `verify`
    the tensors of our own checkpoints are mapped without comparing them with their checksums: faster, and blind to a
    flipped bit.

    Raises:
        CheckpointError, DownloadError, VocabError: it can't be found, fetched or read; the message says why.

    >>> from_pretrained("roberta.mini").max_tokens
    128
    """
    loaded = pretrained.load(name_or_path, checkpoint_file, verify=verify)
    return RobertaHubInterface(loaded.model, loaded.tokenizer)


class RobertaHubInterface(HubModel):
    """RoBERTa with text on one side and tensors on the other; what is not an answer it has from `HubModel`."""

    def extract_features(
        self, tokens: Tensor | Text | Sequence[Text], return_all_hiddens: bool = False, *, truncate: bool = False
    ) -> Any:
        """Return the features of the last layer, or of all layers beginning with the embedding output.

        tokens: (S,) or padded (B, S) int64, with `<pad>` on either side; each result is then (B, S, C), zero at
        `<pad>`. A text gives (S, C), one row for each token of `encode(text)`; a list gives a list of those. With
        `return_all_hiddens` there is a list of layers in place of each tensor.

        Raises:
            DataError: a sequence is empty or longer than `max_tokens`, or an id is outside the vocabulary.

        >>> roberta.extract_features(roberta.encode("Hello world!")).shape
        torch.Size([1, 5, 16])
        >>> [rows.shape for rows in roberta.extract_features(["Hello world!", "Hello"])]
        [torch.Size([5, 16]), torch.Size([3, 16])]
        """
        if isinstance(tokens, Tensor):
            border.refuse_truncation(truncate)
            grid = border.pack(tokens, self.model)
            if return_all_hiddens:
                return [grid.unpack(hidden) for hidden in self.model.encoder.all_hiddens(grid.tokens, grid.layout)]
            return grid.unpack(self.model(grid.tokens, grid.layout))
        extract = features.all_hiddens if return_all_hiddens else features.features
        return self._answer(as_sequences(tokens), partial(extract, self._engine, truncate=truncate))

    def extract_features_aligned_to_words(
        self, sentence: str | Sequence[str], words: Sequence[Any] | None = None
    ) -> Any:
        """Return words, their places in a sentence, and a feature row for each: the mean of the tokens it touches.

        words: any words of the sentence in order, as strings or as tokens of a library such as spaCy; the parts
        between white space if not given. For a list of sentences: one such list for each. Features: (W, C).

        Raises:
            DataError: words are a string, a word is not in the sentence, or a sentence is longer than `max_tokens`.

        >>> aligned = roberta.extract_features_aligned_to_words("He said “don’t”", ["He", "don’t"])
        >>> aligned.words, aligned.character_spans, aligned.features.shape
        (('He', 'don’t'), ((0, 2), (9, 14)), torch.Size([2, 16]))
        """
        sentences, single = as_texts(sentence)
        found = alignment.find_words(sentences, [words] if single else words)
        results = alignment.word_features(self.tokenizer, sentences, found, self.extract_features(sentences))
        return results[0] if single else results

    def attentions(self, tokens: Tensor | Text) -> list[Tensor]:
        """Return the attention probabilities of one sequence for every layer, each (H, S, S): row, what it attends to.

        tokens: (S,) int64, or a text or tuple of texts. They are computed beside the forward pass, without dropout.

        Raises:
            DataError: there are several sequences, or one that is empty or too long.

        >>> [layer.shape for layer in roberta.attentions("Hello world!")]
        [torch.Size([2, 5, 5]), torch.Size([2, 5, 5])]
        """
        if isinstance(tokens, Tensor):
            return features.attentions(self.model, tokens)
        (texts, is_single) = border.as_sequences(tokens)
        if not is_single:
            raise DataError(f"attentions takes one text or a tuple of texts, not a list of {len(texts)}")
        with border.inference(self.model):
            return features.attentions(self.model, self.encode_batch(texts))

    def embed(
        self, texts: Text | Sequence[Text], *, pooling: Pooling = "mean", normalize: bool = True, truncate: bool = False
    ) -> Tensor:
        """Return one vector for each text: (N, C), or (C,) for a single one.

        pooling: "mean" or "max" over all tokens, `<s>` and `</s>` included, or "cls", the `<s>` alone, which means
        little before fine-tuning. With `normalize` the vectors have length 1.

        Raises:
            ConfigError: no such pooling.
            DataError: a text is longer than `max_tokens`.

        >>> roberta.embed(["Hello world!", "Hello"]).shape
        torch.Size([2, 16])
        """
        embed = partial(features.embeddings, self._engine, pooling=pooling, normalize=normalize, truncate=truncate)
        return self._answer(as_sequences(texts), embed)

    @overload
    def predict(self, head: str, tokens: Tensor, return_logits: bool = False) -> Tensor: ...

    @overload
    def predict(self, head: str, tokens: Text | Sequence[Text], *, truncate: bool = False) -> Any: ...

    def predict(
        self, head: str, tokens: Tensor | Text | Sequence[Text], return_logits: bool = False, *, truncate: bool = False
    ) -> Any:
        """Return what a head says of tokens, as a tensor, or of texts, as labels and numbers.

        tokens: (S,) or padded (B, S) int64. The log-probabilities, or logits, of a classification head: (B, K), of a
        tagging head: (B, S, K), of a span head over the tokens of each sequence: (B, S, 2), `-inf` at `<pad>`; the
        values of a regression head on its scale, or the scores of a choice head: (B, 1).

        For each text or tuple of texts: `.label` and `.probabilities` by label name (or class number) from a
        classification head, and `.labels`, those that hold, of which there may be several or none where it tells
        several at once; `.value` from a regression or choice head; a tuple of tags by token from a tagging head.

        Raises:
            ConfigError: the model has no such head, or the head is not for texts.
            DataError: a sequence is empty or longer than `max_tokens`, or an id is outside the vocabulary.

        >>> roberta.predict("mnli", roberta.encode("It rains.", "It is dry.")).shape
        torch.Size([1, 3])
        >>> sorted(roberta.predict("mnli", ("It rains.", "It is dry.")).probabilities)
        ['contradiction', 'entailment', 'neutral']
        """
        self.model.head_config(head)
        if isinstance(tokens, Tensor):
            border.refuse_truncation(truncate)
            grid = border.pack(tokens, self.model)
            return predicting.predict_grid(self.model, head, grid, return_logits=return_logits)
        if return_logits:
            raise DataError("texts give labels and probabilities; for logits give predict the tokens of encode_batch")
        classify = partial(predicting.predict_texts, self._engine, head, truncate=truncate)
        return self._answer(as_sequences(tokens), classify)

    def tag_words(self, head: str, words: Sequence[str] | Sequence[Sequence[str]]) -> Any:
        """Return the label of each word of a list by a tagging head: `.word`, `.label` and `.probability`.

        A word's label is that of its first token, with a space between any two words, as `roberta-finetune tagging`
        trains it. Words beyond `max_tokens` are read apart. A list of lists of words gives a list of lists.

        Raises:
            ConfigError: the model has no such head, or it labels no tokens.
            DataError: not a list of words or of such lists, or a word is empty.

        >>> from roberta.models.heads import TaggingHeadConfig
        >>> roberta.register_head("names", TaggingHeadConfig(num_classes=2, labels=("O", "B-PER")))  # a random one
        >>> [tagged.word for tagged in roberta.tag_words("names", ["Emma", "smiled", "."])]
        ['Emma', 'smiled', '.']
        """
        return self._answer(tagging.as_word_lists(words), partial(tagging.tag_words, self._engine, head))

    def entities(self, head: str, texts: str | Sequence[str]) -> Any:
        """Return the entities in a text by a tagging head: `.type`, `.text`, its characters `.start` to `.end`.

        The words are those of the text and its punctuation apart; `.probability` is that of the least likely label. A
        list of texts gives a list of such lists.

        Raises:
            ConfigError: the model has no such head, or it does not tell entities.

        >>> from roberta.models.heads import TaggingHeadConfig
        >>> roberta.register_head("people", TaggingHeadConfig(num_classes=2, labels=("O", "B-PER")))  # a random one
        >>> text = "Emma, who smiled."
        >>> all(text[found.start : found.end] == found.text for found in roberta.entities("people", text))
        True
        """
        return self._answer(as_texts(texts), partial(tagging.find_entities, self._engine, head))

    def predict_batches(
        self, head: str, sequences: Iterable[Sequence[int]], *, max_tokens: int | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield (indices, logits (M, K)) of a head for many sequences of token ids, batch by batch.

        Sequences of like length go together, at most `max_tokens` tokens at once (but always one sequence),
        `batch_tokens` if not given; the longest come first. Every index appears in one batch. The rows of a head that
        sees all tokens follow each other. Computed in evaluation mode and without gradients.

        Raises:
            ConfigError: the model has no such head.
            DataError: a sequence is empty, too long, or holds `<pad>` or an id outside the vocabulary; or `max_tokens`
                is no whole number of at least 1.

        >>> sequences = [roberta.encode(text).tolist() for text in ("It rains.", "It is dry today.")]
        >>> [(indices, logits.shape) for indices, logits in roberta.predict_batches("mnli", sequences, max_tokens=8)]
        [([1], torch.Size([1, 3])), ([0], torch.Size([1, 3]))]
        """
        self.model.head_config(head)  # before the first batch is asked for
        engine = Engine(self.model, self.tokenizer, self.batch_tokens if max_tokens is None else max_tokens)
        return predicting.batched_logits(engine, head, sequences)

    def zero_shot(
        self,
        texts: str | Sequence[str],
        labels: Sequence[str],
        *,
        template: str = "This example is {}.",
        head: str | None = None,
        multi_label: bool = False,
        truncate: bool = False,
    ) -> predicting.Classification | list[predicting.Classification]:
        """Return which of some labels fits a text, by an NLI head: does the text entail the template with the label?

        head: `mnli` if there is one, or else the one with a class "entailment" (in letters of either case).

        The probabilities are a softmax over the labels' logits of entailment. With `multi_label`, or a single label,
        each is that of entailment against contradiction, or against all else where no class is called so.

        Raises:
            ConfigError: the model has no such head, or several, or the head has no such class.
            DataError: labels are no list, missing or not distinct, the template has no `{}`, or a text is too long.

        >>> sorted(roberta.zero_shot("The match ended 3:2.", ["sport", "politics"]).probabilities)
        ['politics', 'sport']
        """
        classify = partial(predicting.zero_shot, self._engine, head, labels=labels, template=template)
        return self._answer(as_texts(texts), partial(classify, multi_label=multi_label, truncate=truncate))

    def choose(
        self,
        context: str | Sequence[str],
        question: str | Sequence[str],
        options: Sequence[Any],
        *,
        head: str = "choice",
        truncate: bool = False,
    ) -> choosing.Choice | list[choosing.Choice]:
        """Return which option answers a question about a context, with `.probabilities`; the context may be "".

        A sequence is `<s> question option </s></s> context </s>`, or `<s> Q: question </s> A: option </s>`, as the
        published models were trained. For one that was trained otherwise, as transformers' run_swag.py does, the best
        of `roberta.predict(head, [(context, option), ...])` is the answer.

        A list of questions, with one context or one for each, and a list of options for each, gives a list.

        Raises:
            ConfigError: the model has no such head, or the head does not give one score to a sequence.
            DataError: there are not as many of each, an option is empty, or there are fewer than two, or a sequence is
                longer than `max_tokens`.

        >>> from roberta.models.heads import ChoiceHeadConfig
        >>> roberta.register_head("choice", ChoiceHeadConfig())  # a random one; roberta-finetune trains one
        >>> choice = roberta.choose("It rained all day.", "How was the street?", ["wet", "dry", "hot"])
        >>> choice.option == ["wet", "dry", "hot"][choice.index], len(choice.probabilities)
        (True, 3)
        """
        choose = partial(choosing.choose, self._engine, head, truncate=truncate)
        return self._answer(choosing.as_questions(context, question, options), choose)

    def disambiguate_pronoun(
        self, sentence: str | Sequence[str], candidates: Sequence[Any] | None = None, *, truncate: bool = False
    ) -> Any:
        """Return what the [pronoun] of a sentence stands for; where a _query_ is marked, whether it stands for that.

        Each candidate takes the pronoun's place, and that with the best mean log-probability of its tokens wins; no
        fine-tuning is needed, but it helps. Without candidates they are the noun phrases that spaCy finds. A list of
        sentences, with a list of candidates for each, gives a list.

        Raises:
            ConfigError: the model has no masked-LM head, or candidates are not given and spaCy is not installed.
            DataError: the marks are wrong, there are no candidates, or a sentence is longer than `max_tokens`.

        >>> sentence = "The trophy would not fit in the suitcase because [it] was too big."
        >>> roberta.disambiguate_pronoun(sentence, ["the trophy", "the suitcase"]) in ("the trophy", "the suitcase")
        True
        """
        scoring.check_lm_head(self.model)
        sentences, single = as_texts(sentence)
        given = [candidates] if single and candidates is not None else candidates
        disambiguate = partial(choosing.disambiguate, self._engine, candidates=given, truncate=truncate)
        return self._answer((sentences, single), disambiguate)

    def answer(
        self,
        question: str | Sequence[str],
        context: str | Sequence[str],
        topk: int = 1,
        *,
        head: str = "span",
        threshold: float | None = None,
        max_answer_tokens: int = 30,
        stride: int | None = None,
    ) -> Any:
        """Return what answers a question in a context: `.text`, its characters `.start` to `.end`, and `.probability`.

        With a `topk` above 1 a list of the likeliest, best first. No answer is the text "" without a start, and the
        best one where its probability is above `threshold`: 0.5 if not given and the head tells whether there is an
        answer; a head that does not gives none only if there is a threshold, and takes `<s>` for no answer. A long
        context is read in windows, `stride` tokens apart. Lists of questions, with a context for each or one for all,
        give a list.

        Raises:
            ConfigError: the model has no such span head, or `stride` is out of range.
            DataError: there is not one context for each question, a question takes more than half of `max_tokens`, or
                `topk` or `max_answer_tokens` is below 1.

        >>> from roberta.models.heads import SpanHeadConfig
        >>> roberta.register_head("span", SpanHeadConfig())
        >>> found = roberta.answer("Where was she born?", "Ada was born in London.")
        >>> found.text == "Ada was born in London."[found.start : found.end]
        True
        """
        find = partial(answering.answer, self._engine, head=head, topk=topk, threshold=threshold)
        find = partial(find, max_answer_tokens=max_answer_tokens, stride=stride)
        return self._answer(answering.as_pairs(question, context), find)

    def fill_mask(self, masked_input: str | Sequence[str], topk: int = 5) -> list[Any]:
        """Return the likeliest tokens for the one `<mask>` of a text: (filled text, probability, token), best first.

        White space before `<mask>` belongs to the token that fills it. A list of texts gives a list of such lists.

        Raises:
            DataError: a text does not hold one `<mask>`, is too long, or `topk` is not in the vocabulary's range.
            ConfigError: the model has no masked-LM head.

        >>> [(filled, probability, token)] = roberta.fill_mask("Paris is in <mask>.", topk=1)
        >>> filled == f"Paris is in{token}."
        True
        """
        scoring.check_lm_head(self.model)
        return self._answer(as_texts(masked_input), partial(filling.fill_single, self._engine, topk=topk))

    def fill_masks(
        self, masked_input: str | Sequence[str], topk: int = 5, *, joint: filling.Joint = "independent"
    ) -> list[Any]:
        """Return the likeliest fillings of all masks of a text: filled text, probability and tokens, best first.

        joint: "independent" takes each mask with all others in place, and multiplies these probabilities; "beam" fills
        from left to right, each mask given the tokens before it, and keeps the `topk` best on the way;
        "left_to_right" lets the first mask branch, and takes the likeliest token for each further one. Probabilities
        are normalised over the vocabulary at each mask. A list of texts gives a list of such lists.

        Raises:
            ConfigError: no such `joint`, or the model has no masked-LM head.
            DataError: a text holds no `<mask>`, is too long, or `topk` is not in the vocabulary's range.

        >>> [len(fill.tokens) for fill in roberta.fill_masks("<mask> and <mask>", topk=3, joint="beam")]
        [2, 2, 2]
        """
        scoring.check_lm_head(self.model)
        return self._answer(as_texts(masked_input), partial(filling.fill, self._engine, topk=topk, joint=joint))

    def fill_candidates(self, masked_input: str | Sequence[str], candidates: Sequence[str]) -> list[Any]:
        """Return the one `<mask>` of a text filled by each of some words or phrases, likeliest first.

        A candidate of n tokens takes n masks, filled from left to right; its probability is the product of theirs.
        Each is normalised over the vocabulary: neither over the candidates nor for their length. A space before
        `<mask>` goes to the candidate. A list of texts gives a list of such lists.

        Raises:
            ConfigError: the model has no masked-LM head.
            DataError: there is not exactly one `<mask>`, the candidates are no list, one is empty, or a filled text is
                too long.

        >>> [len(fill.tokens) for fill in roberta.fill_candidates("I <mask> it.", ["like"])]
        [1]
        """
        scoring.check_lm_head(self.model)
        return self._answer(
            as_texts(masked_input), partial(filling.fill_candidates, self._engine, candidates=candidates)
        )

    def score(
        self, texts: str | Sequence[str], *, within_word: bool = True
    ) -> scoring.PseudoLikelihood | list[scoring.PseudoLikelihood]:
        """Return the pseudo-log-likelihood of a text: `.score` in nats, and `.log_probabilities` of its `.tokens`.

        Each token is masked in turn (arXiv:1910.14659). With `within_word` the later tokens of its word are masked with
        it, else words of several tokens look too likely (arXiv:2305.10588). `<s>` and `</s>` are not scored.

        Raises:
            ConfigError: the model has no masked-LM head.
            DataError: a text is longer than `max_tokens`.

        >>> roberta.score("Hello world!").tokens
        ('Hello', ' world', '!')
        """
        scoring.check_lm_head(self.model)
        score = partial(scoring.pseudo_likelihoods, self._engine, within_word=within_word)
        return self._answer(as_texts(texts), score)

    def _answer(self, given: tuple[list[Any], bool], answers: Callable[[list[Any]], Any]) -> Any:
        """Return the answers to some items, or the answer to a single one."""
        items, single = given
        with border.inference(self.model):
            results = answers(items)
        return results[0] if single else results
