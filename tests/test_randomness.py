"""Random numbers of one purpose tell nothing about those of another."""

from itertools import combinations

import pytest

from workbench.data.views import Purpose, random_stream

PLACES = [(), (0,), (0, 0), (0, 0, 0), (1,), (1, 0), (0, 1)]


def numbers(purpose: Purpose, seed: int, *place: int) -> tuple:
    return tuple(random_stream(purpose, seed, *place).integers(0, 1 << 60, 4).tolist())


@pytest.mark.parametrize(("first", "second"), list(combinations(Purpose, 2)))
def test_two_purposes_share_no_stream_at_any_place(first, second):
    one = {numbers(first, 1337, *place) for place in PLACES}
    other = {numbers(second, 1337, *place) for place in PLACES}
    assert not one & other


def test_every_place_has_a_stream_of_its_own():
    assert len({numbers(Purpose.AUGMENT, 1337, *place) for place in PLACES}) == len(PLACES)


def test_a_stream_is_the_same_on_every_machine():
    stream = random_stream(Purpose.AUGMENT, 1337, 2, 17)
    assert stream.integers(0, 1000, 4).tolist() == [589, 805, 260, 904]
