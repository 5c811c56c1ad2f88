"""RoBERTa: a transformer encoder with named heads (arXiv:1907.11692). Config, model, presets.

Shapes: B sequences, T packed tokens, M selected rows, C embed_dim, K outputs of a head.
"""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from roberta.config import check_types, option
from roberta.errors import CheckpointError, ConfigError, choices
from roberta.layout import SequenceLayout
from roberta.models.dropout import check_rates
from roberta.models.heads import with_mean_rows
from roberta.models.initialisation import look_nearby
from roberta.models.linear import CPU_ENGINES, CpuEngine, CpuEngineChoice, Linear, fastest_engine, obstacle
from roberta.models.quantization import Int8Linear, refuse_to_move, to_int8
from roberta.models.transformer import Activation, Perturbation, TransformerEncoder
from roberta.registry import HEADS, MODELS

# The largest of each size that is taken for meant: far beyond any model, and small enough to be reckoned with.
LARGEST = {
    "vocab_size": 2**26,
    "max_positions": 2**20,
    "encoder_layers": 1000,
    "embed_dim": 2**16,
    "ffn_embed_dim": 2**18,
    "attention_heads": 2**12,
}


@dataclass(frozen=True)
class RobertaConfig:
    """Shape and regularisation of a RoBERTa encoder."""

    vocab_size: int = option(50265, help="rows of the token embedding: the dictionary with its specials")
    padding_idx: int = option(1, help="id of <pad>; positions count from the id after it")
    max_positions: int = option(512, help="longest sequence in tokens, <s> and </s> included")
    encoder_layers: int = option(12, help="number of layers")
    embed_dim: int = option(768, help="width of the features")
    ffn_embed_dim: int = option(3072, help="inner width of the feed-forward part")
    attention_heads: int = option(12, help="number of attention heads; divides embed_dim")
    dropout: float = option(0.1, help="dropout after embeddings, attention and feed-forward")
    attention_dropout: float = option(0.1, help="dropout on the attention probabilities")
    activation_dropout: float = option(0.0, help="dropout after the activation of the feed-forward part")
    encoder_layerdrop: float = option(0.0, help="chance of leaving a layer out of a training step (arXiv:1909.11556)")
    activation_fn: Activation = option("gelu", help="activation of the feed-forward part; gelu is the exact form")
    layer_norm_eps: float = option(1e-5, help="what LayerNorm adds to the variance")
    initialisation: Literal["bert", "local"] = option(
        "bert", help="where training starts from: as BERT's, or with first layers that look at the tokens nearby"
    )

    def __post_init__(self) -> None:
        for name, largest in LARGEST.items():
            if not 1 <= getattr(self, name) <= largest:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1 and at most {largest}")
        check_rates(self, "dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop")
        if not 0.0 < self.layer_norm_eps <= 1.0:
            raise ConfigError(f"layer_norm_eps is {self.layer_norm_eps}; it must lie in (0, 1]")
        if self.embed_dim % self.attention_heads:
            raise ConfigError(f"embed_dim {self.embed_dim} is not a multiple of attention_heads {self.attention_heads}")
        if not 0 <= self.padding_idx < self.vocab_size:
            raise ConfigError(f"padding_idx {self.padding_idx} is outside the vocabulary of {self.vocab_size}")


@MODELS.register("roberta", RobertaConfig)
class RobertaModel(nn.Module):
    """A RoBERTa encoder; heads are added by name."""

    def __init__(self, config: RobertaConfig) -> None:
        super().__init__()
        self.config = config
        self.is_int8 = False
        self.cpu_engine: CpuEngine = "torch"
        self.head_configs: dict[str, Any] = {}
        self.heads = nn.ModuleDict()
        self.encoder = TransformerEncoder(config)
        if config.initialisation == "local" and not self.encoder.embed_tokens.weight.is_meta:
            look_nearby(self.encoder)

    def register_head(self, name: str, config: Any) -> None:
        """Add a fresh head under `name`, built from its config, in the mode of the model, or replace the one there.

        Raises:
            ConfigError: the name can't name a head, or the config is not that of a head or could not be saved.
        """
        if not name.isidentifier() or hasattr(nn.ModuleDict(), name):
            raise ConfigError(f"{name!r} can't name a head: not an identifier, or a name that torch uses; try 'topic'")
        HEADS.name_of(type(config))
        check_types(config)
        weight = self.encoder.embed_tokens.weight
        head = HEADS.build(config, self.encoder).to(device=weight.device, dtype=weight.dtype)
        self.heads[name] = head.train(self.training)
        self.head_configs[name] = config
        self._tell_engine(self.heads[name])

    def head_config(self, name: str) -> Any:
        """Return the config of the head of that name.

        Raises:
            ConfigError: there is none; the message lists those there are.
        """
        if not isinstance(name, str) or name not in self.head_configs:
            raise ConfigError(f"the model has no head {name!r}; {choices(str(name), self.head_configs)}")
        return self.head_configs[name]

    def forward(
        self,
        tokens: Tensor,
        layout: SequenceLayout,
        head: str | None = None,
        select: Tensor | None = None,
        targets: Tensor | None = None,
        perturb: Perturbation | None = None,
    ) -> Tensor:
        """Map token ids (T,) to features, to the outputs of a head, or to its loss.

        `select` (M,) int64 picks feature rows, all where not given; `perturb` changes the token embeddings (T, C).
        Returns (M, C) features, or (M, K) outputs of `head`, or with `targets` (M,) the summed loss of a head that
        has one of its own.
        """
        if head is None:
            return self.encoder(tokens, layout, perturb, select)  # (M, C)
        module: Any = self.heads[head]
        if targets is None:
            return module(self.encoder(tokens, layout, perturb, select))
        with module.sharing() if hasattr(module, "sharing") else nullcontext():
            return module.loss(self.encoder(tokens, layout, perturb, select), targets)

    def set_cpu_engine(self, engine: CpuEngineChoice = "auto") -> "RobertaModel":
        """Choose what multiplies the matrices of the layers and the vocabulary on a CPU, and return self.

        "torch", "numpy" and "onednn" differ in speed, and in the last bits of their results. Nothing else changes: the
        model is trained, moved and saved as before. "numpy" is for fp32. "onednn" is for fp32 and bf16, and for frozen
        layers, whose weights it holds a second time in a layout of its own, and leaves the vocabulary to torch; it
        notices when they change, but for what is written to `.data` in place. "auto" measures all that can be taken, on
        a layer and the vocabulary, and keeps "torch" unless another one is faster.

        Raises:
            ConfigError: no such engine, it doesn't take the precision of the model, the model is in int8 or not on the
                CPU, or "onednn" for layers that are not frozen or where torch was built without it.
        """
        if engine not in get_args(CpuEngineChoice):
            raise ConfigError(f"unknown engine {engine!r}; {choices(str(engine), get_args(CpuEngineChoice))}")
        maps = [module for module in self.encoder.layers.modules() if isinstance(module, Linear)]
        if engine == "auto":
            candidates = [engine for engine in CPU_ENGINES if not obstacle(engine, maps)]
            times = len(self.encoder.layers)
            parts: dict[Any, int] = dict.fromkeys(maps[: len(maps) // times], times)
            parts |= {head: 1 for head in self.heads.values() if hasattr(head, "engine")}
            engine = fastest_engine(parts, candidates)
        if reason := obstacle(engine, maps):
            raise ConfigError(reason)
        self.cpu_engine = engine
        self._tell_engine(self)
        return self

    def _tell_engine(self, part: Any) -> None:
        for module in part.modules():
            if hasattr(module, "engine"):
                module.engine = self.cpu_engine

    def int8(self) -> "RobertaModel":
        """Turn the linear maps of the encoder's layers, which take nearly all of the time, into int8; in place.

        Embeddings, LayerNorms, attention and heads stay as they are. Nothing of the model can be trained afterwards but
        heads that are registered later, on features that stay; nor can it be moved, copied, saved or exported.

        Raises:
            ConfigError: the model isn't on the CPU in fp32, or is in int8 already, or torch was built without oneDNN.
        """
        weight = self.encoder.embed_tokens.weight
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            raise ConfigError(
                f"int8 is made from fp32 on the CPU, not from {weight.dtype} on {weight.device}; use .cpu().float() "
                "before"
            )
        if self.is_int8:
            raise ConfigError("the model is in int8 already")
        self.set_cpu_engine("torch")
        to_int8(self.encoder.layers)
        self.requires_grad_(False)
        self.is_int8 = True
        return self

    @torch.no_grad()
    def add_symbols(self, num_symbols: int) -> None:
        """Append symbols whose embedding, and outputs in masked-LM heads, begin as the mean of those there are.

        The parameters that grow are new ones: an optimizer made before this does not know them.
        """
        embedding = self.encoder.embed_tokens
        embedding.weight = nn.Parameter(with_mean_rows(embedding.weight, num_symbols), embedding.weight.requires_grad)
        embedding.num_embeddings = len(embedding.weight)
        heads: Any = self.heads.values()
        for head in heads:
            if hasattr(head, "add_symbols"):  # whose outputs are the symbols
                head.add_symbols(num_symbols)
        self.config = dataclasses.replace(self.config, vocab_size=len(embedding.weight))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RobertaModel":
        if self.is_int8:
            refuse_to_move(fn)  # before a part is moved
        super()._apply(fn, recurse)
        return self

    @property
    def num_parameters(self) -> int:
        """How many numbers the model has learned, those in int8 included."""
        rounded = sum(module.num_weights for module in self.modules() if isinstance(module, Int8Linear))
        return rounded + sum(parameter.numel() for parameter in self.parameters())

    def load_weights(self, weights: Mapping[str, Tensor], *, source: str) -> None:
        """Take over all parameters from `weights`, without a copy.

        Raises:
            CheckpointError: parameters are missing, unknown or of another shape; the message lists all of them.
        """
        own = self.state_dict()
        missing = [name for name in own if name not in weights]
        unknown = [name for name in weights if name not in own]
        reshaped = [
            f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
            for name in own
            if name in weights and weights[name].shape != own[name].shape
        ]
        if missing or unknown or reshaped:
            lists = {"missing": missing, "unknown": unknown, "of another shape": reshaped}
            details = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in lists.items() if names)
            raise CheckpointError(f"{source}: the weights do not fit the model: {details}")
        self.load_state_dict(weights, assign=True)


Preset = Callable[[], RobertaConfig]
PRESETS: dict[str, Preset] = {}


def preset(name: str) -> Callable[[Preset], Preset]:
    """Return a decorator that enters a function of literals as the model shape `name`.

    Raises:
        ConfigError: the name is already taken.
    """

    def enter(function: Preset) -> Preset:
        if name in PRESETS:
            raise ConfigError(f"preset {name!r} is registered twice; choose another name")
        PRESETS[name] = function
        return function

    return enter


def preset_config(name: str) -> RobertaConfig:
    """Return the config of a named model shape.

    Raises:
        ConfigError: no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(
            f"unknown preset {name!r}; {choices(name, PRESETS)}; if it is one of yours, import its module first "
            "(--user-module)"
        )
    return PRESETS[name]()


@preset("roberta.base")
def roberta_base() -> RobertaConfig:
    """RoBERTa base, 125M parameters (arXiv:1907.11692, table 9)."""
    return RobertaConfig(encoder_layers=12, embed_dim=768, ffn_embed_dim=3072, attention_heads=12)


@preset("roberta.large")
def roberta_large() -> RobertaConfig:
    """RoBERTa large, 355M parameters (arXiv:1907.11692, table 9)."""
    return RobertaConfig(encoder_layers=24, embed_dim=1024, ffn_embed_dim=4096, attention_heads=16)


@preset("roberta.small")
def roberta_small() -> RobertaConfig:
    """Six layers of width 256, 18M parameters: learns from tens of megabytes of text on a few cores."""
    return RobertaConfig(encoder_layers=6, embed_dim=256, ffn_embed_dim=1024, attention_heads=4)


@preset("roberta.mini")
def roberta_mini() -> RobertaConfig:
    """Four layers of width 256, for short sequences: the shape of the model that ships with the package."""
    return RobertaConfig(max_positions=128, encoder_layers=4, embed_dim=256, ffn_embed_dim=1024, attention_heads=4)


@preset("roberta.tiny")
def roberta_tiny() -> RobertaConfig:
    """Two layers of width 128, 7M parameters: for demonstrations of minutes."""
    return RobertaConfig(encoder_layers=2, embed_dim=128, ffn_embed_dim=512, attention_heads=2)
