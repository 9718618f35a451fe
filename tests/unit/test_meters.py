"""Counters and histograms of one process, before they reach Redis."""

import pytest

from contract.meters import Counter, Histogram, Tally


@pytest.fixture
def tally():
    return Tally()


def test_a_total_sums_all_labels_of_a_name_and_no_other(tally):
    seen = Counter("seen_total", "", ("model",), tally)
    seen.add(model="a")
    seen.add(2, model="b")
    Counter("other_total", "", (), tally).add(5)
    assert tally.total("seen_total") == 3


@pytest.mark.parametrize(("value", "bound"), [(0.5, "1.0"), (1.0, "1.0"), (1.5, "2.0"), (9.0, "+Inf")])
def test_an_observation_goes_into_the_first_bucket_that_holds_it(tally, value, bound):
    Histogram("size", "", (), (1.0, 2.0), tally).observe(value)
    assert tally.counted() == {("size_bucket", bound): 1, ("size_sum",): value}


def test_a_block_that_raises_is_timed_too(tally):
    took = Histogram("took_seconds", "", ("stage",), tally=tally)
    with pytest.raises(OSError), took.time(stage="download"):
        raise OSError
    assert sum(value for (name, *_), value in tally.counted().items() if name == "took_seconds_bucket") == 1


def test_a_forgotten_or_an_unknown_label_is_an_error_at_once(tally):
    with pytest.raises(ValueError, match="model"):
        Counter("seen_total", "", ("model",), tally).add()
