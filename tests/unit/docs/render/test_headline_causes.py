"""The table of what one bit each way does to a transformer's first steps."""

from docs.render import headline_causes


def curve(label: str, *values: list[float]) -> dict:
    return {"setting": label, "seeds": list(range(len(values))), "x": [1.0, 2.0], "values": list(values)}


def test_a_line_has_the_mean_loss_after_each_step_and_the_last_steps_length_and_lag(monkeypatch):
    both = "qafel, eden 1 bits up, eden 1 bits down, K = 10"
    up = "qafel, eden 1 bits up, float32 down, K = 10"
    records = {
        "headline-causes-loss": [curve(both, [1.0, 2.0], [3.0, 4.0]), curve(up, [1.0, 1.5], [1.0, 1.5])],
        "headline-causes-step_norm": [
            curve(up, [0.5, 0.25], [0.5, 0.75]),
            curve(both, [9.0, 0.5], [9.0, 0.5]),
        ],
        "headline-causes-gap": [curve(both, [9.0, 0.1], [9.0, 0.3]), curve(up, [0.0, 0.0], [0.0, 0.0])],
    }
    monkeypatch.setattr(headline_causes, "content", records.__getitem__)
    monkeypatch.setattr(headline_causes, "measured", lambda name: True)
    monkeypatch.setattr(headline_causes, "origin", lambda *names: "")
    lines = [line for line in headline_causes.causes().splitlines() if line.startswith("| qafel")]
    assert lines == [
        "| qafel, eden 1 bits | 2.00 | 3.00 | 0.500 | 0.200 |",
        "| qafel, eden 1 bits up, float32 down | 1.00 | 1.50 | 0.500 | 0 |",
    ]
