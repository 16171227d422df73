"""The family as one design: an algorithm is a preset, a point in the space of settings.

{buffer K} × {uplink codec} × {downlink: hidden | direct | none} × {staleness weight} × {server optimizer}
× {asynchronous | synchronous rounds}. A preset has the shape of an experiment's TOML; the experiment's own
sections override it.
"""

from __future__ import annotations

from typing import Any

_QSGD4 = {"codec": "qsgd", "bits": 4}
_IDENTITY = {"codec": "identity"}

PRESETS: dict[str, dict[str, Any]] = {
    # Ortega and Jafarkhani, arXiv 2308.00263, Algorithms 1-3.
    "qafel": {"uplink": _QSGD4, "downlink": {"mode": "hidden", **_QSGD4}},
    # QAFeL with error feedback upward, as AsynFLC-EF (arXiv 2504.19903) has it. The hidden state is EF21-P's downlink
    # (Gruntkowska, Tyurin and Richtárik, arXiv 2209.15218), w ← w + C(x − w), brought to buffered asynchrony; MCM
    # (Philippenko and Dieuleveut, arXiv 2102.12528) has the same with a memory rate.
    "qafel-ef": {
        "uplink": _QSGD4,
        "downlink": {"mode": "hidden", **_QSGD4},
        "client": {"error_feedback": True},
    },
    # Nguyen et al., AISTATS 2022 (arXiv 2106.06639).
    "fedbuff": {"uplink": _IDENTITY, "downlink": {"mode": "none"}},
    # FedBuff as NVFlare 2.9.0 runs it: its counter has moved on before the weight is taken, so fresh updates weigh ½.
    "fedbuff-nvflare": {
        "uplink": _IDENTITY,
        "downlink": {"mode": "none"},
        "staleness": {"weight": "nvflare"},
    },
    # FedBuff as APPFL 1.12.0 runs it: x += α Σ s(τ) (y − x)/n, x the model on arrival, n the number of clients.
    "fedbuff-appfl": {
        "uplink": _IDENTITY,
        "downlink": {"mode": "none"},
        "server": {"update": "model", "reduction": "clients"},
    },
    # What QAFeL is compared with: the model itself is quantized, and the error propagates.
    "naive": {"uplink": _QSGD4, "downlink": {"mode": "direct", **_QSGD4}},
    # Xie et al. 2019 (arXiv 1903.03934): x ← (1 − α_τ) x + α_τ y_P, with α_τ = learning_rate · s(τ).
    "fedasync": {
        "uplink": _IDENTITY,
        "downlink": {"mode": "none"},
        "server": {"buffer_size": 1, "update": "model", "learning_rate": 0.6, "momentum": 0.0},
    },
    # Wang et al., FADAS, ICML 2024 (arXiv 2407.18365), with the delay-adaptive rate of its authors' code.
    "fadas": {
        "uplink": _IDENTITY,
        "downlink": {"mode": "none"},
        "server": {"optimizer": "amsgrad", "delay_rate": "divided"},
        "staleness": {"weight": "constant"},
    },
    # Wang et al., CA²FL, ICLR 2024, Algorithm 2. With K = 1 and server.reduction = "clients" a step goes along the
    # mean of all clients' last updates, as ACE does (arXiv 2511.19066).
    "ca2fl": {
        "uplink": _IDENTITY,
        "downlink": {"mode": "none"},
        "server": {"calibration": "clients"},
        "staleness": {"weight": "constant"},
    },
    # Decoupled DiLoCo (arXiv 2604.21428): a step with K_min updates and a grace window behind them, or with all;
    # outer Nesterov with DiLoCo's rates (arXiv 2311.08105), AdamW at the clients. Weights are examples here; the
    # paper's are tokens times tokens per step, and it merges fragments of the model one after the other. "All" are as
    # many as train at a time, which is the run's to know: an experiment sets buffer_size to that.
    "decoupled": {
        "uplink": _IDENTITY,
        "downlink": {"mode": "none"},
        "client": {"optimizer": "adamw", "learning_rate": 1e-3, "momentum": 0.0},
        "server": {
            "buffer_size": 10,
            "quorum": 5,
            "grace_seconds": 0.5,
            "weighting": "examples",
            "learning_rate": 0.7,
            "momentum": 0.9,
            "nesterov": True,
        },
        "staleness": {"weight": "constant"},
    },
    # Zakerinia et al., QuAFL (arXiv 2206.10032), with the averaging of its authors' code: no state is shared, models
    # are decoded near what the receiver has, and the server asks S = buffer_size clients. The lattice is cubic, and
    # no rotation comes before it.
    "quafl": {
        "uplink": {"codec": "lattice", "bits": 8, "spacing": 2e-3},
        "downlink": {
            "mode": "direct",
            "delivery": "unicast",
            "codec": "lattice",
            "bits": 8,
            "spacing": 2e-3,
        },
        "server": {
            "pull": True,
            "update": "model",
            "reduction": "with-server",
            "learning_rate": 1.0,
            "momentum": 0.0,
        },
        "client": {"momentum": 0.0},
        "staleness": {"weight": "constant"},
    },
    # McMahan et al., AISTATS 2017 (arXiv 1602.05629): synchronous rounds, weighted by examples.
    "fedavg": {
        "uplink": _IDENTITY,
        "downlink": {"mode": "none"},
        "server": {"synchronous": True, "weighting": "examples", "momentum": 0.0},
        "staleness": {"weight": "constant"},
    },
    # Reisizadeh et al., AISTATS 2020 (arXiv 1909.13014): FedAvg with quantized uploads, equal weights.
    "fedpaq": {
        "uplink": _QSGD4,
        "downlink": {"mode": "none"},
        "server": {"synchronous": True, "momentum": 0.0},
        "staleness": {"weight": "constant"},
    },
}

_ASYNCHRONOUS = {"server.synchronous": False, "server.update": "delta"}
_EXACT = {"uplink.codec": "identity", "downlink.codec": "identity"}

# What an algorithm is by definition. A run that has something else is no longer this algorithm, and its name says so.
DEFINING: dict[str, dict[str, Any]] = {
    "qafel": {"downlink.mode": "hidden", **_ASYNCHRONOUS},
    "qafel-ef": {"downlink.mode": "hidden", "client.error_feedback": True, **_ASYNCHRONOUS},
    "fedbuff": {**_EXACT, **_ASYNCHRONOUS},
    "fedbuff-nvflare": {**_EXACT, **_ASYNCHRONOUS, "staleness.weight": "nvflare"},
    "fedbuff-appfl": {
        **_EXACT,
        "server.synchronous": False,
        "server.update": "model",
        "server.reduction": "clients",
    },
    "naive": {"downlink.mode": "direct", **_ASYNCHRONOUS},
    "fedasync": {**_EXACT, "server.synchronous": False, "server.update": "model", "server.buffer_size": 1},
    "fadas": {**_EXACT, **_ASYNCHRONOUS, "server.optimizer": "amsgrad"},
    "ca2fl": {**_EXACT, **_ASYNCHRONOUS, "server.calibration": "clients"},
    "decoupled": {
        **_EXACT,
        **_ASYNCHRONOUS,
        "server.weighting": "examples",
        "server.nesterov": True,
        "client.optimizer": "adamw",
    },
    "quafl": {"server.pull": True, "uplink.codec": "lattice", "downlink.codec": "lattice"},
    "fedavg": {**_EXACT, "server.synchronous": True, "server.weighting": "examples"},
    "fedpaq": {"downlink.codec": "identity", "server.synchronous": True, "server.weighting": "uniform"},
}
