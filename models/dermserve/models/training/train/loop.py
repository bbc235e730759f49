"""The training loop: stages of epochs, each of which ends in a checkpoint that the next start goes on from.

Everything random follows from the experiment's seed, the stage and the epoch, also after an interruption.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from scipy.special import log_softmax

from dermserve.models.catalogue import SPECS
from dermserve.models.training.data.photos import Labelled
from dermserve.models.training.data.spoiling import spoil_at_random
from dermserve.models.training.errors import RunError, TrainingError
from dermserve.models.training.terminal import say, track
from dermserve.models.training.train import checkpoint
from dermserve.models.training.train.augment import augment
from dermserve.models.training.train.checkpoint import Epoch, State
from dermserve.models.training.train.dataset import centre, class_weights
from dermserve.models.training.train.experiment import Distillation, Experiment
from dermserve.models.training.train.network import select_trainable

Tensor: TypeAlias = Any

# Taken off the logits of classes that a photo's data set lacks: that it is not of those says where it comes from alone.
_IMPOSSIBLE = 1e4
_JUDGED = 64  # photos a batch in validation
_OUTLIER = -1  # the label of lesions that the network shall not know
_OPTIMIZERS = {"adamw": keras.optimizers.AdamW, "lamb": keras.optimizers.Lamb}
_EPOCH = (
    "{stage} {epoch}: loss {loss:.3f}, accuracy {accuracy:.3f}; validation loss {validation_loss:.3f}, accuracy "
    "{validation_accuracy:.3f}, balanced {validation_balanced_accuracy:.3f}; {seconds:.0f} s"
)


def train(
    network: keras.Model,
    experiment: Experiment,
    *,
    training: Labelled,
    validation: Labelled,
    folder: Path,
    teachers: Sequence[keras.Model] = (),
    others: Labelled | None = None,
) -> list[Epoch]:
    """Train a training copy through an experiment's stages, from the last checkpoint in the folder; return all epochs.

    Teachers are training copies whose mean answer it learns beside the labels; `others` lesions that it shall not know.
    Raises TrainingError: a loss is not finite; the checkpoint is that of the epoch before.
    """
    state = checkpoint.load(folder) or State(stage=0)
    while state.stage < len(experiment.stages):
        run = _StageRun(network, experiment, state, training, validation, teachers, others)
        while not run.ended:
            run.epoch()
            checkpoint.save(folder, run.state())
            say(_EPOCH.format(**state.history[-1]))
        run.hand_on()
        state = State(stage=state.stage + 1, history=state.history)
    return state.history


class _StageRun:
    """One stage under way: the optimiser, the moving average, and the best weights so far."""

    def __init__(
        self,
        network: keras.Model,
        experiment: Experiment,
        state: State,
        training: Labelled,
        validation: Labelled,
        teachers: Sequence[keras.Model] = (),
        others: Labelled | None = None,
    ) -> None:
        """Begin a stage, or go on from a checkpoint of it; `state` is kept up to date, but for its variables."""
        self._network, self._experiment, self._teachers = network, experiment, teachers
        self._stage = stage = experiment.stages[state.stage]
        self._at, self._training, self._validation, self._others = state, training, validation, others
        select_trainable(network, stage.trainable, batch_norm=stage.batch_norm)
        self._steps = max(1, len(training) // stage.batch)
        whole = stage.epochs * self._steps
        warmup = round(stage.warmup * whole)
        first, target = (0.0, stage.rate) if warmup else (stage.rate, None)
        least = 1.0 if stage.schedule == "constant" else 0.0  # of the rate, at the end
        how = {"alpha": least, "warmup_target": target, "warmup_steps": warmup}
        rates = keras.optimizers.schedules.CosineDecay(first, max(1, whole - warmup), **how)
        self._optimizer = _OPTIMIZERS[stage.optimizer](rates, weight_decay=stage.weight_decay)
        self._optimizer.build(network.trainable_variables)
        trained = [layer for layer in network.get_layer("backbone").layers if layer.trainable]
        statistics = [weight for layer in trained for weight in layer.non_trainable_weights]  # of batch norm
        self._averaged = [*network.trainable_variables, *statistics]
        self._averages = [tf.Variable(variable) for variable in self._averaged]
        sizes = np.maximum(np.bincount(training.labels), 1).astype(np.float64)
        self._sampling = _shares(sizes[training.labels] ** -experiment.balance)
        self._outlier_sampling = None if others is None else _shares(class_weights(others.labels))
        weights = sizes**-experiment.class_weights
        self._weights = tf.constant(weights / weights[training.labels].mean(), tf.float32)
        everything = np.ones((len(training), len(sizes)), np.float32)
        self._possible = everything if training.possible is None or experiment.also_complete else training.possible
        self._step = tf.function(self._train_step)
        self._infer = tf.function(lambda images: network(tf.cast(images, tf.float32), training=False)["logits"])
        # Everything that changes in training, the random states of dropout included.
        self._variables = [*network.variables, *self._optimizer.variables, *self._averages]
        if state.variables:
            try:
                for variable, value in zip(self._variables, state.variables, strict=True):
                    variable.assign(value)
            except ValueError as error:
                raise RunError(f"the checkpoint is of other code ({error}): train into another --out") from error
            state.variables = []

    @property
    def ended(self) -> bool:
        stage, at = self._stage, self._at
        return at.epoch >= stage.epochs or (stage.patience is not None and at.epoch - at.best_epoch >= stage.patience)

    def state(self) -> State:
        """Return what a restart needs."""
        return replace(self._at, variables=[np.asarray(variable) for variable in self._variables])

    def epoch(self) -> None:
        """Train for one epoch and judge it."""
        started, at = time.monotonic(), self._at
        loss, accuracy = self._train_epoch()
        at.epoch += 1
        self._swap_averages()
        judged = self._judge()
        self._finite(judged["loss"], f"epoch {at.epoch}, on validation photos")
        score = judged["loss"] if self._stage.monitor == "loss" else -judged["accuracy"]
        if score < at.best_score:
            at.best_score, at.best_epoch = score, at.epoch
            at.best = self._network.get_weights() if self._stage.keep == "best" else None
        self._swap_averages()
        found = {f"validation_{name}": value for name, value in judged.items()} | {"loss": loss, "accuracy": accuracy}
        place = {"stage": self._stage.name, "epoch": at.epoch, "rate": float(self._optimizer.learning_rate)}
        at.history.append({**place, **found, "seconds": round(time.monotonic() - started, 1)})

    def hand_on(self) -> None:
        """Leave in the network what the next stage starts from."""
        if self._at.best is not None:
            self._network.set_weights(self._at.best)
        else:
            self._swap_averages()

    def _train_epoch(self) -> tuple[float, float]:
        stage, epoch, base = self._stage, self._at.epoch, self._experiment.seed
        rng = np.random.default_rng((base, self._at.stage, epoch))
        photos = len(self._training)
        order = rng.choice(photos, photos, p=self._sampling) if self._experiment.balance else rng.permutation(photos)
        losses, hits = [], []
        for step in track(range(self._steps), f"{stage.name} {epoch + 1}/{stage.epochs}"):
            chosen = order[step * stage.batch : (step + 1) * stage.batch]
            seed = tf.constant((base * 1000 + self._at.stage, epoch * self._steps + step), tf.int32)
            clean = self._training.images[self._training.rows[chosen]]
            labels, possible = self._training.labels[chosen], self._possible[chosen]
            if len(strange := self._outliers(rng)):
                clean = np.concatenate([clean, strange])
                labels = np.append(labels, np.full(len(strange), _OUTLIER))
                possible = np.append(possible, np.ones((len(strange), possible.shape[1]), np.float32), axis=0)
            images = self._spoiled(clean, rng)
            loss, accuracy = self._step(images, tf.constant(labels), tf.constant(possible), seed, clean)
            losses.append(self._finite(float(loss), f"epoch {epoch + 1}, step {step + 1} of {self._steps}"))
            hits.append(float(accuracy))
        return float(np.mean(losses)), float(np.mean(hits))

    def _outliers(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Draw lesions that the network shall not know, half of them enlarged; [N, S, S, 3]."""
        others, count = self._others, round(self._experiment.outliers * self._stage.batch)
        if others is None or not count:
            return np.empty((0, 0, 0, 3), np.uint8)
        photos = others.images[others.rows[rng.choice(len(others), count, p=self._outlier_sampling)]]
        return np.stack([centre(photo) if rng.random() < 0.5 else photo for photo in photos])

    def _spoiled(self, images: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Spoil as many of the photos as the augmentation says, each before skin of another photo."""
        chosen = np.flatnonzero(rng.random(len(images)) < self._experiment.augmentation.spoiled)
        if not len(chosen):
            return images
        images, skins = images.copy(), self._training.rows[self._training.labels == SPECS[self._experiment.model].skin]
        for index in chosen:
            skin = self._training.images[rng.choice(skins)] if len(skins) else None
            images[index] = spoil_at_random(images[index], skin, rng)
        return images

    def _finite(self, loss: float, where: str) -> float:
        """Stop at the first loss that is not finite, before its weights reach a checkpoint."""
        if math.isfinite(loss):
            return loss
        advice = f"lower the stage's rate ({self._stage.rate:g}), raise its warmup, or take precision float32"
        what = f"the loss is {loss} in stage {self._stage.name}, {where}"
        raise TrainingError(f"{what}: {advice}; then train into another --out")

    def _train_step(
        self, images: Tensor, labels: Tensor, possible: Tensor, seed: Tensor, clean: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take a step by photos as they are spoiled; what teachers say is of the `clean` ones."""
        network, stage = self._network, self._stage
        photos = self._varied(images, seed)
        known, classes = labels != _OUTLIER, self._weights.shape[0]
        smoothing = self._experiment.label_smoothing
        spread = smoothing * possible / tf.reduce_sum(possible, axis=1, keepdims=True)
        targets = tf.one_hot(labels, classes) * (1 - smoothing) + spread
        targets = tf.where(known[:, tf.newaxis], targets, 1 / classes)
        away = (possible - 1) * _IMPOSSIBLE
        with tf.GradientTape() as tape:
            logits = network(photos, training=True)["logits"] + away
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            if self._teachers:
                seen = self._varied(clean, seed) if self._experiment.augmentation.spoiled else photos
                settings = self._experiment.distillation or Distillation()
                soft = soft_targets(self._teachers, seen, away, settings.temperature)
                losses = tf.where(known, distillation_losses(losses, soft, logits, settings), losses)
            weights = tf.where(known, tf.gather(self._weights, tf.maximum(labels, 0)), 1.0)
            loss = tf.reduce_mean(losses * weights)
            total = tf.add_n([loss, *(tf.cast(penalty, tf.float32) for penalty in network.losses)])
        variables = network.trainable_variables
        self._optimizer.apply_gradients(zip(tape.gradient(total, variables), variables, strict=True))
        if stage.average:
            # A young average forgets faster, so that it does not hang on to where the stage began.
            count = tf.cast(self._optimizer.iterations, tf.float32)
            decay = tf.minimum(stage.average, (1 + count) / (10 + count))
            for average, variable in zip(self._averages, self._averaged, strict=True):
                average.assign_sub((1 - decay) * (average - variable))
        return loss, tf.reduce_mean(tf.cast((tf.argmax(logits, -1) == labels)[known], tf.float32))

    def _varied(self, images: Tensor, seed: Tensor) -> Tensor:
        settings = self._experiment.augmentation
        settings = replace(settings, zoom=self._stage.zoom or settings.zoom)
        return augment(images, settings, side=self._stage.side, seed=seed)

    def _judge(self) -> dict[str, float]:
        photos, labels = self._validation, self._validation.labels
        batches = [photos.rows[start : start + _JUDGED] for start in range(0, len(photos), _JUDGED)]
        logits = np.concatenate([np.asarray(self._infer(photos.images[rows])) for rows in batches]).astype(np.float32)
        logs = log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
        accuracy, balanced = accuracies(logits.argmax(axis=1), labels)
        return {"loss": float(-logs.mean()), "accuracy": accuracy, "balanced_accuracy": balanced}

    def _swap_averages(self) -> None:
        for average, variable in zip(self._averages, self._averaged, strict=True) if self._stage.average else ():
            value = tf.identity(variable)
            variable.assign(average)
            average.assign(value)


def accuracies(answers: NDArray[np.int64], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Give the share of right answers and the mean recall over the classes there are; both int64 [N]."""
    hits = answers == labels
    recalls = [hits[labels == label].mean() for label in np.unique(labels)]
    return float(hits.mean()), float(np.mean(recalls))


def soft_targets(teachers: Sequence[keras.Model], photos: Tensor, away: Tensor, temperature: float) -> Tensor:
    """Give the teachers' mean probabilities, float32 [N, C]; `away` [N, C] rules out what a photo can't be."""
    given = [tf.nn.softmax((teacher(photos, training=False)["logits"] + away) / temperature) for teacher in teachers]
    return tf.add_n(given) / len(given)


def distillation_losses(own: Tensor, soft: Tensor, logits: Tensor, settings: Distillation) -> Tensor:
    """Mix the losses by the labels, [N], with those of logits [N, C] by the teachers' targets (Hinton et al. 2015)."""
    temperature, share = settings.temperature, settings.weight
    taught = tf.nn.softmax_cross_entropy_with_logits(soft, logits / temperature)
    return (1 - share) * own + share * temperature**2 * taught


def _shares(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(weights / weights.sum())
