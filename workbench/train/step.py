"""One compiled training step: gradients, clipping, AdamW and an optional average of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import tensorflow as tf
import tf_keras as keras

from workbench.errors import StepError
from workbench.settings import TrainingSettings
from workbench.train.losses import loss_per_image

# What a step tells of its batch; several devices add them up.
FIGURES = ("loss", "right", "judged", "gradient_norm")


class TrainingStep:
    """Everything a batch changes: the network, the optimizer, the average of the weights."""

    def __init__(
        self,
        network: keras.Model,
        objective: Callable,
        settings: TrainingSettings,
        weight_decay: float,
        strategy: tf.distribute.Strategy,
        task: str = "multilabel",
    ) -> None:
        self.network, self.objective, self.settings = network, objective, settings
        self.task = task
        self.strategy, self.traces = strategy, 0
        self._rate: float | None = None
        with strategy.scope():
            self.optimizer = _optimizer(network, weight_decay, settings.beta_2)
            self.average = [_shadow(v) for v in network.variables] if settings.ema_decay else []
        self.run = tf.function(self._run, autograph=False)  # no Python to translate

    def arrays(self) -> dict[str, list[np.ndarray]]:
        """Copy every tensor that a resumed run needs, by group."""
        return {name: [v.numpy() for v in group] for name, group in self._groups().items()}

    def restore(self, arrays: dict[str, list[np.ndarray]]) -> None:
        for name, variables in self._groups().items():
            for variable, value in zip(variables, arrays[name], strict=True):
                variable.assign(value)

    @property
    def rate(self) -> float:
        return self._rate

    def set_rate(self, rate: float) -> None:
        if rate != self._rate:  # an assignment costs as much as a small step
            self.optimizer.learning_rate = self._rate = rate

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights into the network for as long as somebody looks at it."""
        if not self.average:
            yield
            return
        trained = self.network.get_weights()
        self.network.set_weights([shadow.numpy() for shadow in self.average])
        try:
            yield
        finally:
            self.network.set_weights(trained)

    def _groups(self) -> dict[str, list[tf.Variable]]:
        optimizer = list(self.optimizer.variables)
        if _scales(self.optimizer):
            # Keras leaves these out; the public `loss_scale` is a copy and cannot be restored.
            optimizer += [self.optimizer._loss_scale.current_loss_scale]
            optimizer += [self.optimizer.dynamic_counter]
        return {"weights": self.network.weights, "optimizer": optimizer, "average": self.average}

    def _run(self, iterator) -> tf.Tensor:
        """Take a batch; return its `FIGURES` as one tensor, whose reading waits only once."""
        self.traces += 1  # Python runs only while TensorFlow traces
        figures = self.strategy.run(self._replica_step, args=(iterator.get_next(),))
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, figures, axis=None)

    def _replica_step(self, batch) -> tf.Tensor:
        views, targets, mask = batch
        images = _sum_over_replicas(tf.cast(tf.shape(targets)[0], tf.float32))
        with tf.GradientTape() as tape:
            logits = tf.cast(self.network(views[-1], training=True), tf.float32)
            per_image = loss_per_image(self.objective, logits, views, targets, mask)
            check_loss(per_image)
            loss = tf.reduce_sum(per_image) / images
            half = _scales(self.optimizer)  # whose small gradients would vanish unscaled
            scaled = self.optimizer.get_scaled_loss(loss) if half else loss
        variables = self.network.trainable_variables
        gradients = tape.gradient(scaled, variables)
        if half:
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        norm = self._apply(_sum_over_replicas(gradients), variables)
        right, judged = _count_right(logits, targets, mask, self.task)
        return tf.stack([loss, right, judged, norm / self.strategy.num_replicas_in_sync])

    def _apply(self, gradients, variables) -> tf.Tensor:
        """Change the weights; return the norm of the gradients before they were clipped."""
        # The sum over replicas comes first: the norm of a part says nothing about the whole.
        norm = tf.linalg.global_norm(gradients)
        if self.settings.clip_norm:
            clip = self.settings.clip_norm
            gradients, norm = tf.clip_by_global_norm(gradients, clip, use_norm=norm)
        pairs = zip(gradients, variables, strict=True)
        self.optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)
        if self.average:
            for shadow, variable in zip(self.average, self.network.weights, strict=True):
                shadow.assign_add((1 - self._decay()) * (variable - shadow))
        return norm

    def _decay(self) -> tf.Tensor:
        # A short memory at first, or the start weights would count for thousands of steps.
        steps = tf.cast(self.optimizer.iterations, tf.float32)
        return tf.minimum(self.settings.ema_decay, (1 + steps) / (10 + steps))


def _count_right(logits, targets, mask, task: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Count images that are all right, as `validation_figures` does, and those with a label."""
    if task == "single_label":
        right = tf.equal(tf.argmax(logits, axis=1), tf.argmax(targets, axis=1))
    else:
        agree = tf.equal(logits >= 0, targets >= 0.5)
        right = tf.reduce_all(agree | tf.equal(mask, 0), axis=1)
    judged = tf.reduce_any(mask > 0, axis=1)
    counts = (tf.cast(found, tf.float32) for found in (right & judged, judged))
    return tuple(map(tf.reduce_sum, counts))


def check_loss(per_image: tf.Tensor) -> None:
    """Refuse what adds up wrongly: most Keras losses already take the mean over the batch."""
    if per_image.shape.rank != 1:
        raise StepError(
            f"the loss gives shape {tuple(per_image.shape)}; a value per image, [N], is needed. "
            "With a Keras loss set reduction='none'"
        )


def _optimizer(network: keras.Model, weight_decay: float, beta_2: float):
    optimizer = keras.optimizers.AdamW(weight_decay=weight_decay, beta_2=beta_2, jit_compile=False)
    # Biases and batch norm are the vectors; decay would pull them to 0 for no gain.
    vectors = [v for v in network.trainable_variables if v.shape.rank <= 1]
    optimizer.exclude_from_weight_decay(var_list=vectors)
    if keras.mixed_precision.global_policy().name == "mixed_float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    optimizer.build(network.trainable_variables)
    return optimizer


def _shadow(variable: tf.Variable) -> tf.Variable:
    mean = tf.VariableAggregation.MEAN  # batch norm differs by replica, and by machine
    return tf.Variable(variable, trainable=False, dtype=variable.dtype, aggregation=mean)


def _sum_over_replicas(value):
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)


def _scales(optimizer: keras.optimizers.Optimizer) -> bool:
    return isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer)
