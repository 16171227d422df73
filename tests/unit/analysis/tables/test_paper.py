"""The published numbers that come with the package."""

from qafel_analysis.tables.paper import published_concurrency


def test_the_published_concurrencies_have_three_repetitions_of_both_algorithms():
    found = published_concurrency()
    assert set(found) == {"fedbuff", "qafel"}
    for of in found.values():
        assert list(of) == [100, 500, 1000]
        assert all(len(uploads) == 3 for uploads in of.values())
