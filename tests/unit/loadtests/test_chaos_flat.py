"""What counts as growth, and what doesn't."""

from __future__ import annotations

import math
import random

from loadtests.chaos.flat import POINTS_MAX, Line, growth, is_flat, thinned

HALF_HOUR_S, EVERY_S, WARM_UP_S = 1800, 3, 60


def line(*, slope: float = 0.0, noise: float = 0.0, from_s: float = 0.0, to_s: float = HALF_HOUR_S) -> Line:
    """Values around 160; `slope` is for a minute."""
    chance = random.Random(5)
    moments = range(int(from_s), int(to_s), EVERY_S)
    return [(at_s, 160 + slope * (at_s - from_s) / 60 + chance.gauss(0, noise)) for at_s in moments]


def flat(*lines: Line, most: float = 20.0, share: float = 0.1) -> bool:
    found = growth(lines, warm_up_s=WARM_UP_S)
    assert found is not None
    return is_flat(found, most=most, share=share)


def test_a_slow_leak_is_found_beneath_the_noise() -> None:
    assert not flat(line(slope=1.0, noise=8.0))
    found = growth([line(slope=1.0, noise=8.0)], warm_up_s=WARM_UP_S)
    assert found is not None
    assert math.isclose(found.grown, 29, abs_tol=2)


def test_noise_alone_is_flat() -> None:
    assert flat(line(noise=15.0))


def test_a_saw_tooth_is_flat() -> None:
    assert flat([(at_s, 160 + at_s % 240 / 4) for at_s in range(0, HALF_HOUR_S, EVERY_S)])


def test_a_peak_or_a_single_step_is_flat_and_steps_again_and_again_are_not() -> None:
    moments = range(0, HALF_HOUR_S, EVERY_S)
    assert flat([(at_s, 400.0 if 600 < at_s < 700 else 160.0) for at_s in moments])
    assert flat([(at_s, 175.0 if at_s > 300 else 160.0) for at_s in moments])
    assert not flat([(at_s, 160.0 + at_s // 300 * 10) for at_s in moments])


def test_what_a_process_needs_at_first_is_no_growth() -> None:
    assert flat([(at_s, 160 + min(at_s, 50)) for at_s in range(0, HALF_HOUR_S, EVERY_S)])


def test_successors_begin_anew_and_their_size_beside_the_one_before_says_nothing() -> None:
    assert flat(line(to_s=600), [(at_s, value + 90) for at_s, value in line(from_s=600)])


def test_a_leak_isnt_forgiven_because_processes_die_of_something_else() -> None:
    lives = [line(slope=6.0, from_s=start, to_s=start + 450) for start in range(0, HALF_HOUR_S, 450)]
    assert not flat(*lives)


def test_one_that_leaks_beside_sound_ones_is_found() -> None:
    assert not flat(line(noise=2.0), line(noise=2.0), line(slope=1.0))


def test_a_short_life_isnt_taken_for_a_long_one() -> None:
    assert flat(line(noise=2.0), line(slope=10.0, from_s=0, to_s=120))


def test_less_is_never_too_much() -> None:
    assert flat(line(slope=-5.0))


def test_a_share_counts_where_it_is_more_than_the_bound() -> None:
    growing = line(slope=0.5)
    assert not flat(growing, most=5.0, share=0.0)
    assert flat(growing, most=5.0, share=0.1)


def test_who_lived_too_short_isnt_judged() -> None:
    assert growth([line(to_s=70)], warm_up_s=WARM_UP_S) is None
    assert growth([[]], warm_up_s=WARM_UP_S) is None
    assert growth([], warm_up_s=WARM_UP_S) is None


def test_a_long_line_is_thinned_out_and_keeps_its_length() -> None:
    long = [(float(number), 0.0) for number in range(1000)]
    assert len(thinned(long)) <= POINTS_MAX
    assert thinned(long)[-1][0] > 990
    assert thinned(long[:10]) == long[:10]
