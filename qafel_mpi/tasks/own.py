'''The user's own data set and model, named `module:function` in the TOML.

A file `mine.py` in the folder where the run is started, or anywhere that Python imports from:

```python
import numpy as np
from torch import nn

from qafel_mpi.tasks import Dataset


def rings(config, data_dir, clients, seed):
    """Two noisy rings. config: the experiment's [task]; data_dir: where data sets lie; seed: the run's."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 2, 1200)
    angle, radius = generator.uniform(0, 2 * np.pi, 1200), 1 + y + generator.normal(0, 0.1, 1200)
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)
    return Dataset(x[:1000], y[:1000], classes=2, test_x=x[1000:], test_y=y[1000:])


def network(config, shape, classes):
    """shape: of one example, here (2,)."""
    return nn.Sequential(nn.Linear(*shape, config.hidden), nn.BatchNorm1d(config.hidden), nn.ReLU(),
                         nn.Linear(config.hidden, classes))
```

```toml
[task]
dataset = "mine:rings"
model = "mine:network"
clients = 10
hidden = 32

[client]
learning_rate = 0.1
local_steps = 5
```

The model maps a batch (n, *shape) to logits (n, classes) and is trained with cross-entropy. What training moves of
it (parameters, running statistics) becomes views into one flat vector (flat.py); everything else stays local. It is
tried once before the run (trial.py): docs/your-own.md says what it may do.
'''
