"""Train a small neural network, with numpy, to distinguish the points of two half moons.

The input has the learning rate: try {"lr": 0.02}, {"lr": 0.2} and {"lr": 2}. Each task writes the loss and
the accuracy of each epoch for TensorBoard, so a board compares the learning rates.
"""

import os

import numpy as np
from tensorboard.summary import Writer

EPOCHS = 80
POINTS = 800
HIDDEN = 16
BATCH = 20


def start(args, api=None):
    """Train with the learning rate of the input; return it with the final loss and accuracy."""
    rate = float(args["input"][0]["lr"])
    # Created here, not at import, because each task has its own folder.
    writer = Writer(os.environ["ALGO_METRICS_DIR"])
    try:
        return train(rate, writer)
    finally:
        writer.close()


def train(rate, writer):
    random = np.random.default_rng(7)
    points, labels = half_moons(random)
    known, held_out = slice(POINTS // 4, None), slice(None, POINTS // 4)
    network = Network(random)
    for epoch in range(EPOCHS):
        for batch in np.array_split(random.permutation(np.arange(POINTS)[known]), POINTS // BATCH):
            network.learn(points[batch], labels[batch], rate)
        scores = {
            "loss/train": network.loss(points[known], labels[known]),
            "loss/validation": network.loss(points[held_out], labels[held_out]),
            "accuracy/validation": network.accuracy(points[held_out], labels[held_out]),
        }
        for name, value in scores.items():
            writer.add_scalar(name, value, epoch)
    return {
        "lr": rate,
        "loss": round(scores["loss/validation"], 4),
        "accuracy": round(scores["accuracy/validation"], 4),
    }


class Network:
    """One hidden layer of tanh, one logistic output, plain gradient descent."""

    def __init__(self, random):
        self.inner = random.normal(scale=0.7, size=(2, HIDDEN))
        self.inner_bias = np.zeros(HIDDEN)
        self.outer = random.normal(scale=0.3, size=HIDDEN)
        self.outer_bias = 0.0

    def learn(self, points, labels, rate):
        hidden, output = self._forward(points)
        wrong = (1 / (1 + np.exp(-np.clip(output, -60, 60))) - labels) / len(labels)
        backward = np.outer(wrong, self.outer) * (1 - hidden**2)
        self.outer -= rate * hidden.T @ wrong
        self.outer_bias -= rate * wrong.sum()
        self.inner -= rate * points.T @ backward
        self.inner_bias -= rate * backward.sum(axis=0)

    def loss(self, points, labels):
        # log(1 + e^v) - y v, the cross-entropy, without overflow.
        _, output = self._forward(points)
        return float(np.mean(np.logaddexp(0, output) - labels * output))

    def accuracy(self, points, labels):
        _, output = self._forward(points)
        return float(np.mean((output > 0) == (labels > 0)))

    def _forward(self, points):
        hidden = np.tanh(points @ self.inner + self.inner_bias)
        return hidden, hidden @ self.outer + self.outer_bias


def half_moons(random):
    """Return points on two interleaved half circles, with noise, and the label of each point."""
    labels = (random.random(POINTS) < 0.5).astype(float)
    angles = np.pi * random.random(POINTS)
    upper = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    lower = np.stack([1 - np.cos(angles), 0.5 - np.sin(angles)], axis=1)
    points = np.where(labels[:, None] > 0, upper, lower)
    return points + random.normal(scale=0.2, size=points.shape), labels
