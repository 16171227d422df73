"""The table of what one bit each way does to a transformer's first steps."""

from docs.render import headline_causes


def curve(label: str, *values: list[float]) -> dict:
    return {"setting": label, "seeds": list(range(len(values))), "x": [1.0, 2.0, 3.0], "values": list(values)}


def test_a_line_has_the_means_of_each_third_of_the_steps_over_the_seeds(monkeypatch):
    both = "qafel, eden 1 bits up, eden 1 bits down, K = 10"
    up = "qafel, eden 1 bits up, float32 down, K = 10"
    records = {
        "headline-causes-loss": [curve(both, [1.0, 2.0, 3.0], [3.0, 4.0, 5.0]), curve(up, [1.0, 1.0, 1.0])],
        "headline-causes-step_norm": [curve(both, [0.5, 0.5, 0.5]), curve(up, [0.25, 0.25, 0.25])],
        "headline-causes-gap": [curve(both, [0.1, 0.1, 0.1]), curve(up, [0.0, 0.0, 0.0])],
    }
    monkeypatch.setattr(headline_causes, "content", records.__getitem__)
    monkeypatch.setattr(headline_causes, "measured", lambda name: True)
    monkeypatch.setattr(headline_causes, "origin", lambda *names: "")
    lines = [line for line in headline_causes.causes().splitlines() if line.startswith("| qafel")]
    assert lines == [
        "| qafel, eden 1 bits | 2.00 | 3.00 | 4.00 | 0.500 | 0.500 | 0.500 | 0.100 | 0.100 | 0.100 |",
        "| qafel, eden 1 bits up, float32 down | 1.00 | 1.00 | 1.00 | 0.250 | 0.250 | 0.250 | 0 | 0 | 0 |",
    ]
