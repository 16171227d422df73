import math

import torch
from torch import nn


class Centred(nn.Module):
    """A linear model of examples that are centred and scaled by running statistics."""

    def __init__(self, features, classes):
        super().__init__()
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        self.register_buffer("seen", torch.zeros(()))
        self.buffer_policy = {"centre": "averaged", "spread": lambda v: v.clamp(min=0), "seen": "local"}
        self.linear = nn.Linear(features, classes)

    def forward(self, x):
        x = x.flatten(1)
        if self.training:
            with torch.no_grad():
                self.centre.lerp_(x.mean(0), 0.1)
                self.spread.lerp_((x - self.centre).square().mean(0), 0.1)
                self.seen += len(x)
        return self.linear((x - self.centre) / (self.spread + 0.1).sqrt())


def model(config, shape, classes):
    return Centred(math.prod(shape), classes)
