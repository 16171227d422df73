"""The tables of the headline: their order, and FedBuff as the unit."""

from docs.render import headline, records


def one(setting: str, uploads: float, over: dict) -> dict:
    sizes = {f"{count}_bytes_{way}": 1e6 * uploads for count in ("payload", "wire") for way in ("up", "down")}
    return {
        "setting": setting,
        "algorithm": setting.partition(",")[0],
        "target": "accuracy ≥ 0.9",
        "runs": 3,
        "reached": 3 if uploads else 0,
        "seeds": [0, 1, 2],
        "mean": {"uploads": uploads, **sizes},
        "standard_deviation": {"uploads": 0.5},
        "fedbuff_over_this": over,
    }


def test_fedbuff_stands_first_and_uploads_are_over_its_own(monkeypatch):
    times = {"ratio": 0.5, "low": 0.4, "high": 0.8}
    found = [
        one("ca2fl, float32 up, float32 down, K = 10", 0, {}),
        one(
            "qafel, eden 1 bits up, eden 1 bits down, K = 10",
            4,
            {"uploads": times, "payload_bytes_up": times},
        ),
        one("fedbuff, float32 up, float32 down, K = 10, staleness.weight = polynomial", 2, {}),
    ]
    monkeypatch.setattr(headline, "content", lambda name: found)
    monkeypatch.setattr(headline, "origin", lambda name: "")
    table = [line for line in headline.digits_suite().splitlines() if line.startswith("| ")][1:]
    assert [line.split(" | ")[0] for line in table] == [
        "| fedbuff, float32",
        "| qafel, eden 1 bits",
        "| ca2fl, float32",
    ]
    assert "| 4.00 ± 0.50 | 2.00 [1.25, 2.50] | 4 MB | 0.500 [0.400, 0.800] |" in table[1]
    assert "| 0 of 3 |" in table[2]
    assert records.NOTHING in table[2]
