"""One training, described by one TOML file: what to split, augment and train, and for how long."""

import json
import tomllib
from dataclasses import field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from dermserve.models.training.data.splits import Protocol
from dermserve.models.training.errors import ExperimentError, plain_name

FOLDER: Any = resources.files("dermserve.models").joinpath("experiments")  # of those that come with dermserve
_CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False)
_Amount: TypeAlias = Annotated[float, Field(ge=0)]
_Share: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
_Count: TypeAlias = Annotated[int, Field(ge=1)]
_Magnification: TypeAlias = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, slots=True, config=_CHECKED)
class Augmentation:
    """How training photos are varied; every range is drawn from anew for each photo and epoch. Zeros vary nothing."""

    rotation: _Amount = 0.0  # largest turn to either side, in degrees; 180 is any
    zoom: tuple[_Magnification, _Magnification] = (1.0, 1.0)  # least and most, relative to serving
    shift: _Amount = 0.0  # largest shift along either axis, as a share of the photo's side
    shear: _Amount = 0.0  # largest shear, in degrees
    flip: bool = False  # mirror half of the photos left to right
    brightness: _Amount = 0.0  # largest relative change of all channels
    channel_gain: _Amount = 0.0  # largest relative change of each channel on its own: what another camera or lamp does
    contrast: _Amount = 0.0  # largest relative change of the distance from the photo's mean
    saturation: _Amount = 0.0  # largest relative change of the distance from gray
    sharpness: _Amount = 0.0  # largest share of the detail (photo minus its blur) taken away or added again
    spoiled: _Share = 0.0
    """Share of the photos that are first spoiled as people do it: taken from afar, cut off, washed out, too light or
    too dark, with a glare (data.spoiling). Teachers see them as they were."""


@dataclass(frozen=True, kw_only=True, slots=True, config=_CHECKED)
class Distillation:
    """How a student heeds its teachers."""

    temperature: Annotated[float, Field(ge=1)] = 2.0  # divides the logits of both: higher tells more of other classes
    weight: Annotated[float, Field(ge=0, le=1)] = 0.7  # share of the loss by the teachers; the rest is by the labels


@dataclass(frozen=True, kw_only=True, slots=True, config=_CHECKED)
class Stage:
    """One stretch of training with one set of trainable layers."""

    name: str  # for the logs and curves
    epochs: _Count  # at most; early stopping may end it before
    trainable: str = "all"
    """"all", "head" (all but the backbone), "top:N" (head and the backbone's last N layers) or "from:NAME" (head and
    the backbone from that layer on)."""
    optimizer: Literal["adamw", "lamb"] = "adamw"
    """AdamW, or LAMB (You et al. 2020), whose steps are `rate` times the norm of the weights they change: kernels whose
    batch norm was folded away once differ in size by a factor of 600."""
    rate: _Amount = 1e-4  # learning rate of the optimizer, after the warm-up
    schedule: Literal["constant", "cosine"] = "constant"  # whether the rate stays or falls to zero along a half cosine
    warmup: _Share = 0.0  # share of the stage over which the rate rises from zero
    batch: _Count = 64  # photos a step
    side: _Count = 224  # height and width of the training crops, in pixels; validation uses the whole input
    zoom: tuple[_Magnification, _Magnification] | None = None  # in place of the augmentation's, to suit the crop
    weight_decay: _Amount = 0.0  # decoupled, as in AdamW
    batch_norm: Literal["frozen", "train"] = "frozen"  # statistics of the backbone: stored, or the batch's
    average: _Share = 0.0  # decay of the exponential moving average of the weights that the stage hands on; 0 for none
    patience: _Count | None = None  # epochs without a better one after which the stage ends; never when absent
    keep: Literal["best", "last"] = "last"  # which epoch's weights the stage hands on: the best one's or the last's
    monitor: Literal["loss", "accuracy"] = "loss"  # what of the validation photos says which epoch is the best


@dataclass(frozen=True, kw_only=True, slots=True, config=_CHECKED)
class Experiment:
    """A whole training."""

    name: str  # of the experiment; the file's
    model: Literal["resnet50", "mobilenet_v3_small"]
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]  # in order
    protocol: Protocol = Protocol.LESION  # what the split keeps together
    validation: float = 0.15  # share of the photos that validate
    test: float = 0.15  # share of the photos that test; unused where the data set says what tests
    seed: Annotated[int, Field(ge=0, lt=2_000_000)] = 0  # of split, head, order and augmentation
    dropout: _Share | None = None  # before the logits; the paper's when absent
    l2: _Amount = 0.01  # weight penalty of the hidden dense layer
    label_smoothing: _Share = 0.0  # share of each target spread over all classes
    balance: _Amount = 0.0  # photos are drawn with weights (class size)^-balance: 1 draws all classes alike
    class_weights: _Amount = 0.0  # losses are weighted with (class size)^-class_weights, to mean 1
    outliers: _Share = 0.0
    """Photos of lesions that the model does not know, beside the photos of each batch and as a share of their number
    (`--others`). All classes are equally probable for them (Hendrycks et al., "Deep Anomaly Detection with Outlier
    Exposure", ICLR 2019)."""
    augmentation: Augmentation = field(default_factory=Augmentation)  # how training photos are varied
    teacher: Literal["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"] | None = None
    """Train this network in the model's place, to teach it: a teacher is never exported."""
    distillation: Distillation | None = None  # how the teachers are heeded; Distillation's defaults when absent
    also_complete: bool = False  # photos of --also are of no class that their folder lacks
    precision: Literal["float32", "mixed_bfloat16"] = "float32"  # of training; weights are float32

    def __post_init__(self) -> None:
        if not (0 < self.validation < 1 and 0 <= self.test < 1 and self.validation + self.test < 1):
            raise ExperimentError("validation and test must be shares that leave photos to train on")


_EXPERIMENT = TypeAdapter(Experiment)


def load_experiment(source: str | Path) -> Experiment:
    """Load an experiment from a TOML file, or one of dermserve's own by name; an ExperimentError as `parse_record`."""
    path = Path(source)
    if path.suffix != ".toml":
        if str(source) not in (known := sorted(item.name.removesuffix(".toml") for item in FOLDER.iterdir())):
            raise ExperimentError(f"no experiment {str(source)!r}: pass a .toml file or one of {', '.join(known)}")
        path = FOLDER.joinpath(f"{source}.toml")
    try:
        return parse_experiment(path.read_text(encoding="utf-8-sig"), name=plain_name(path).removesuffix(".toml"))
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path} can't be read: {error}") from error


def parse_experiment(text: str, *, name: str) -> Experiment:
    """Parse the TOML text of an experiment; an ExperimentError as `parse_record`."""
    try:
        return parse_record({"name": name, **tomllib.loads(text)}, name)
    except tomllib.TOMLDecodeError as error:
        raise ExperimentError(f"{name} is not TOML: {error}") from error


def parse_record(values: dict[str, Any], where: str) -> Experiment:
    """Read an experiment from its fields; an ExperimentError names the first that is unknown or can't be."""
    try:
        return _EXPERIMENT.validate_json(json.dumps(values, default=str), strict=True)  # TOML has dates
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        at = "".join(f".{part}" for part in problem["loc"])
        value = f" is {problem['input']!r}" if isinstance(problem["input"], str | int | float) else ""
        raise ExperimentError(f"{where}{at}{value}: {problem['msg']}") from error
