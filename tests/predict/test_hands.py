"""What a worker has in hand: how its threads wait for each other."""

import threading

import pytest

from truthloop.predict.hands import IN_HAND, Hand, Hands
from truthloop.predict.work import JobsWork


def in_hand(*, is_slice: bool) -> Hand:
    """A piece of work of which nobody asks what it is."""
    return Hand(JobsWork.__new__(JobsWork), is_slice=is_slice)


@pytest.mark.parametrize("kind", ["jobs", "slices"])
def test_room_that_comes_free_is_taken_without_anything_else_happening(kind: str) -> None:
    hands, is_slice = Hands(), kind == "slices"
    held = [in_hand(is_slice=is_slice) for _ in range(IN_HAND)]
    for hand in held:
        hands.hold(hand)
        hands.give(hand)
    turns = []
    claimer = threading.Thread(target=lambda: turns.append(hands.wait_for_turn({is_slice}, seconds=60)))
    claimer.start()
    stop = threading.Event()
    assert hands.next(stop) is held[0]
    assert claimer.is_alive()
    hands.make_room(held[0])
    claimer.join(30)
    assert [(turn.is_told, turn.has_ended) for turn in turns] == [(False, False)]


def test_a_job_that_comes_while_all_slices_are_full_is_seen_at_once() -> None:
    hands = Hands()
    for _ in range(IN_HAND):
        hands.hold(in_hand(is_slice=True))
    turns = []
    claimer = threading.Thread(target=lambda: turns.append(hands.wait_for_turn({True}, seconds=60)))
    claimer.start()
    hands.announce({"_id": "it"})
    claimer.join(30)
    assert [(turn.is_told, turn.new) for turn in turns] == [(True, {"_id": "it"})]
    assert hands.has_room(slices=False)
