"""What a curve may show, by name."""

from __future__ import annotations

# What a curve may run against -> its axis.
AGAINST = {
    "uploads": "uploads",
    "server_steps": "server steps",
    "payload_bytes_up": "payload bytes up",
    "payload_bytes": "payload bytes up and down (broadcast)",
    "wire_bytes_up": "wire bytes up",
    "wire_bytes": "wire bytes up and down (broadcast)",
    "seconds": "seconds",
}

MEASURED = ("accuracy", "loss", "gap", "step_norm", "quantization_error", "gradient_norm_squared")
