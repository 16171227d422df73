"""Local training with FedProx's proximal term (Li et al., MLSys 2020, arXiv 1812.06127): a linear model in numpy."""

import numpy as np
import torch

from qafel_mpi.codecs import Layout
from qafel_mpi.tasks import Evaluation, Task, TrainResult

MU = 0.1  # weight of the proximal term mu/2 * |y - y_0|^2


class FedProx(Task):
    def __init__(self, task, client, data, shares, *, dtype, device, seed):
        self.data, self.shares, self.client = data, shares, client
        self.dtype, self.device, self.clients = dtype, device, len(shares)
        self.width = int(np.prod(data.shape))
        self.layout = Layout(("weight",), ((self.width, data.classes),))

    def initial(self, seed):
        return torch.zeros(self.layout.elements, dtype=self.dtype)

    def examples(self, client):
        return len(self.shares.indices(client))

    def train(self, client, start, delta, seed, poll=None, *, version=0):
        y_0 = start.cpu().numpy().reshape(self.width, -1).copy()  # start may move on while we train
        y, mine = y_0.copy(), self.shares.indices(client)
        steps = self.client.steps(len(mine))
        for _ in range(steps):
            loss, gradient = self.loss_and_gradient(y, self.data.x[mine], self.data.y[mine])
            y -= self.client.rate_at(version) * (gradient + MU * (y - y_0))
            if poll is not None:
                poll()  # broadcasts are applied here
        delta.copy_(torch.from_numpy((y - y_0).reshape(-1)))
        return TrainResult(loss, len(mine), steps)

    def evaluate(self, x, examples=None):
        inputs, labels = (part[:examples] for part in self.data.evaluated)
        y = x.cpu().numpy().reshape(self.width, -1)
        loss, _ = self.loss_and_gradient(y, inputs, labels)
        right = (self.seen(inputs) @ y).argmax(axis=1) == labels
        return Evaluation(loss, float(right.mean()), len(labels))

    def gradient_norm_squared(self, x):
        y = x.cpu().numpy().reshape(self.width, -1)
        return float((self.loss_and_gradient(y, self.data.x, self.data.y)[1] ** 2).sum())

    def seen(self, inputs):
        return inputs.reshape(len(inputs), -1) * self.data.scale + self.data.shift

    def loss_and_gradient(self, y, inputs, labels):
        """Cross-entropy of a linear model, and its gradient."""
        rows = self.seen(inputs)
        outputs = rows @ y
        shares = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        picked = np.arange(len(labels)), labels
        loss = float(-np.log(shares[picked]).mean())
        shares[picked] -= 1
        return loss, (rows.T @ shares / len(labels)).astype(y.dtype)
