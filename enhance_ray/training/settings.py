"""What a training run is: the schema of the files in `configs/`."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from annotated_types import Ge

from enhance_ray.errors import ConfigError
from enhance_ray.models.denoiser import DenoiserConfig
from enhance_ray.models.discriminators import DiscriminatorConfig
from enhance_ray.models.enhancer import EnhancerConfig
from enhance_ray.settings.options import Precision, Solver
from enhance_ray.settings.ranges import Count, Positive, Range, Share, Whole, Within
from enhance_ray.settings.schema import settings
from enhance_ray.training.examples import CorpusConfig, ExampleConfig
from enhance_ray.training.learner import OptimizerConfig
from enhance_ray.training.losses import AutoencoderLossConfig, DenoiserLossConfig


@settings
class AutoencoderStageConfig:
    """What stage 1 alone needs. The defaults are the original's."""

    loss: AutoencoderLossConfig = field(default_factory=AutoencoderLossConfig)
    gan_start: Whole | None = 5000
    """Step from which the critics take part; None leaves them out."""
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """Sizes of the critics."""


@settings
class FlowStageConfig:
    """What stage 2 alone needs. The defaults are the original's, but for the latents' scale."""

    autoencoder_from: str | None = None
    """Stage 1: its checkpoint, or its run folder for the newest one. Needed unless `init_from` is given."""
    latent_scale: Positive | None = None
    """Factor for the latents; by default measured, so that they have a standard deviation of 1."""
    train_denoiser: bool = True
    """Whether the denoiser goes on learning beside the flow."""
    prior_temperature: Annotated[Range, Within(0, 1)] = (0.0, 1.0)
    """Range of the share of noise in where the flow starts: what it is to be good at."""
    validation_nfe: Annotated[int, Ge(2)] = 16
    """Evaluations of the velocity field for each validation example."""


@settings
class DistilStageConfig:
    """What distillation alone needs: the flow learns to reach in few evaluations where it leads in many. The
    original has none."""

    nfe: Count = 2
    """Evaluations for which the model is made; it recommends them afterwards."""
    teacher_nfe: Annotated[int, Ge(2)] = 16
    """Evaluations of the flow that it starts with, for each example."""
    teacher_solver: Solver = "ab2"
    most_temperature: Share = 0.6
    """Largest share of noise in the starts, which are drawn evenly."""

    def __post_init__(self) -> None:
        if self.nfe >= self.teacher_nfe:
            raise ConfigError("teacher_nfe", f"must be above nfe ({self.nfe}), got {self.teacher_nfe}")


@settings
class VocoderStageConfig:
    """What stage 3 alone needs: the vocoder learns from what the flow gives. The original has none."""

    loss: AutoencoderLossConfig = field(default_factory=AutoencoderLossConfig)
    """Of waveforms; the weight of the mel does not count."""
    nfe: Annotated[int, Ge(2)] = 4
    """Evaluations of the velocity field for each example, in training and validation."""
    prior_temperature: Annotated[Range, Within(0, 1)] = (0.0, 0.6)
    """Range of the share of noise in where the flow starts."""


@settings
class TrainConfig:
    """One training run."""

    stage: Literal["denoiser", "autoencoder", "flow", "distil", "vocoder", "repair"] = "denoiser"
    """What learns: the denoiser; stage 1, autoencoder and vocoder; stage 2, the flow; and if wanted three
    more: the flow again, for fewer evaluations, the vocoder on what the flow gives, and a net that repairs
    what the denoiser gives."""
    name: str = "denoiser"
    """Name of the model, for its config.yaml and reports."""
    seed: int = 0
    """Decides the initial weights and every example."""
    batch_size: Count = 32
    """Examples per worker and step."""
    precision: Precision = "fp32"
    """Type of the convolutions; "auto" is bf16 where the processor has it, and a CPU that has not would take
    several times as long. Weights, gradients' sums and the loss are float32 in any case."""
    model: DenoiserConfig = field(default_factory=DenoiserConfig)
    """Sizes of the denoiser; in stage "repair" of the net that repairs."""
    enhancer: EnhancerConfig = field(default_factory=EnhancerConfig)
    """Sizes of the rest, for stages 1 and 2."""
    init_from: str | None = None
    """Model whose weights a new run starts with, for fine-tuning: a model folder, "default", a run folder of
    the original or hf://. Sizes are then the model's own, and what `model` and `enhancer` say does not
    count; but a recurrent block that `model` asks for and the model lacks is added in the denoiser's stage,
    and at first changes nothing, and in stage "repair" a net of other sizes than `model` says is a new one,
    with what fits of its weights."""
    denoiser_from: str | None = None
    """Model whose denoiser stages 1 and 2 start with; without it that of stage 1, or a new one."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    examples: ExampleConfig = field(default_factory=ExampleConfig)
    loss: DenoiserLossConfig = field(default_factory=DenoiserLossConfig)
    """Of the denoiser's and the repair net's stage."""
    autoencoder: AutoencoderStageConfig = field(default_factory=AutoencoderStageConfig)
    flow: FlowStageConfig = field(default_factory=FlowStageConfig)
    distil: DistilStageConfig = field(default_factory=DistilStageConfig)
    vocoder: VocoderStageConfig = field(default_factory=VocoderStageConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Of what learns; the critics have one of their own with the same settings."""
    track: Literal["mlflow", "wandb"] | None = None
    """Who is told of the curves, beside TensorBoard."""
    log_every: Count = 50
    """Steps between lines of the log."""
    validate_every: Count = 5000
    """Steps between validations."""
    checkpoint_every: Count = 5000
    """Steps between checkpoints; there is one at the end, too."""
    validation_examples: Count = 32
    """Size of the validation set, which is the same every time."""
    validation_seconds: Positive = 5.0
    """Length of a validation example."""
    workers: Whole = 1
    """Processes that make examples; 0 makes them in the training process. On a cluster Ray Data decides."""

    def __post_init__(self) -> None:
        if self.stage == "flow" and self.init_from is None and self.flow.autoencoder_from is None:
            raise ConfigError("flow: autoencoder_from", "stage 2 needs a stage 1 to build on, or init_from")
        if self.stage in ("distil", "vocoder", "repair") and self.init_from is None:
            raise ConfigError("init_from", f"stage {self.stage} needs a whole model to begin with")
