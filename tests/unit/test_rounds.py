"""Rounds begin, pause and end as they are told."""

from threading import Event

from contract.rounds import Rounds

FAR_S = 3600.0


class Counted:
    """Something to do: counts how often it was done, and answers as asked."""

    def __init__(self, *answers: float | None) -> None:
        self._answers, self.done, self.all_done = list(answers), 0, Event()

    def __call__(self) -> float | None:
        answer, self.done = self._answers[self.done], self.done + 1
        if self.done == len(self._answers):
            self.all_done.set()
        return answer


def test_what_is_done_may_say_when_it_is_to_be_done_again():
    work = Counted(0.0, -1.0, 0.001, FAR_S)
    rounds = Rounds("test", work, every_s=FAR_S, at_once=True)
    rounds.start()
    assert work.all_done.wait(60)
    rounds.stop()
    assert work.done == 4


def test_otherwise_the_usual_pause_comes_between():
    work = Counted(None, None, FAR_S)
    rounds = Rounds("test", work, every_s=0.001)
    rounds.start()
    assert work.all_done.wait(60)
    rounds.stop()
    assert work.done == 3


def test_after_a_stop_nothing_is_done():
    work = Counted(None)
    rounds = Rounds("test", work, every_s=FAR_S)
    rounds.start()
    rounds.stop()
    assert work.done == 0
