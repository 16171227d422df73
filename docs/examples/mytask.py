import numpy as np
from sklearn.datasets import load_breast_cancer
from torch import nn

from qafel_mpi.tasks import Dataset


def data(config, data_dir, clients, seed):
    x, y = load_breast_cancer(return_X_y=True)  # (569, 30) features, (569,) classes from 0
    x = ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    test, train = order[:100], order[100:]
    return Dataset(x[train], y[train], classes=2, test_x=x[test], test_y=y[test])


def model(config, shape, classes):
    return nn.Sequential(nn.Linear(shape[0], config.hidden), nn.ReLU(), nn.Linear(config.hidden, classes))
