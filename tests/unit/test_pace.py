"""Images a second, with a clock moved by hand."""

from worker.pace import Pace


def test_the_pace_is_that_of_the_last_minute():
    # given a process that looks every 30 s
    clock, total = [0.0], [0.0]
    pace = Pace(lambda: total[0], lambda: clock[0])
    assert pace.look() == 0.0

    # when it does 10 images a second for a minute, then 1
    rates = []
    for images in (300, 300, 30, 30, 30):
        clock[0] += 30
        total[0] += images
        rates.append(pace.look())

    # then the last minute counts
    assert rates == [10.0, 10.0, 5.5, 1.0, 1.0]
