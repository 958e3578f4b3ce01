"""How a rate counts: never over, whatever is asked when; and what is refused is told when to come back."""

from math import floor

from hypothesis import example, given
from hypothesis import strategies as st

from taskq.limits.line import Answer, Asked, Line, answer, read, written
from taskq.limits.rates import PARTS, Bucket, Leaky, Rate, State, Window

EPOCH = 1_790_000_000.0

rates = st.one_of(
    st.builds(Window, st.integers(1, 20), st.sampled_from([0.1, 1.0, 60.0, 3600.0])),
    st.builds(Bucket, st.integers(1, 20), st.sampled_from([0.1, 1.0, 60.0, 3600.0])),
    st.builds(Leaky, st.integers(1, 20), st.sampled_from([0.01, 0.1, 1.0, 7.0])),
)
steps = st.lists(
    st.tuples(st.floats(0, 2), st.integers(1, 5), st.floats(0, 3), st.booleans(), st.booleans()), max_size=120
)


def span(rate: Rate) -> float:
    return rate.interval if isinstance(rate, Leaky) else rate.per / rate.n if isinstance(rate, Window | Bucket) else 1.0


def over(rate: Rate, grants: list[tuple[float, float]]) -> bool:
    """Whether more was granted than the rate says; by the definition, grant against grant."""
    match rate:
        case Window(n, per):
            return any(sum(c for at, c in grants if end - per < at <= end) > n for end, _ in grants)
        case Bucket(n, per):
            # A period begins a millionth early, or the float of its own first moment could lie before it.
            periods = [floor((at + 1e-6) / per) for at, _ in grants]
            return any(sum(c for p, (_, c) in zip(periods, grants, strict=True) if p == one) > n for one in periods)
        case Leaky(size, interval):
            return any(
                sum(c for at, c in grants if begin <= at <= end) > size + (end - begin) / interval + 1e-3
                for begin, _ in grants
                for end, _ in grants
                if end >= begin
            )
        case _:
            raise AssertionError


def granted(rate: Rate, asks: list[tuple[float, int, float, bool, bool]]) -> list[tuple[float, float]]:
    grants: list[tuple[float, float]] = []
    value: bytes | None = None
    now = EPOCH
    for step, cost, patience, lines_up, its_turn in asks:
        now += step * span(rate)
        line = read(value)
        asked = Asked(min(cost, rate.most), patience * span(rate), lines_up, its_turn)
        (answered,) = answer(rate, line, now, [asked])
        value = written(line)
        if answered.granted:
            grants.append((now + answered.wait, asked.cost))
    return grants


@given(rates, steps)
def test_a_rate_is_never_exceeded(rate: Rate, asks: list[tuple[float, int, float, bool, bool]]) -> None:
    assert not over(rate, granted(rate, asks))


def test_the_judge_of_rates_sees_one_too_many() -> None:
    assert over(Window(2, 1.0), [(EPOCH, 1), (EPOCH + 0.5, 1), (EPOCH + 0.99, 1)])
    assert over(Bucket(2, 60.0), [(EPOCH - EPOCH % 60, 1), (EPOCH - EPOCH % 60 + 59, 2)])
    assert over(Leaky(2, 1.0), [(EPOCH, 2), (EPOCH + 0.5, 1)])


@given(rates, st.integers(1, 200))
@example(Window(1, 60.0), 3)
def test_one_who_asks_again_when_told_to_is_granted(rate: Rate, many: int) -> None:
    state: State = ()
    moment = EPOCH
    for _ in range(many):
        moment = rate.next(state, EPOCH, 1)
        assert rate.next(state, moment, 1) == moment
        state = rate.take(state, moment, 1)
    # As fast as it may be, or a part of a window less.
    assert moment - EPOCH <= (many + rate.most) * span(rate) * (1 + 1 / PARTS) + 1e-3


@given(rates, st.integers(1, 50))
def test_a_state_whose_end_has_come_says_nothing(rate: Rate, many: int) -> None:
    state: State = ()
    for _ in range(many):
        state = rate.take(state, rate.next(state, EPOCH, 1), 1)
    end = rate.ends(state)
    assert rate.next(state, end, rate.most) == end


@given(rates, st.integers(2, 300), st.integers(1, 40))
def test_everybody_in_the_line_is_refused_once_and_granted_in_turn(rate: Rate, many: int, slots: int) -> None:
    line, now = Line(), EPOCH
    turns: list[tuple[float, int]] = []
    done: list[int] = []
    for name in range(many):
        (told,) = answer(rate, line, now, [Asked(lines_up=True)])
        if told.granted:
            done.append(name)
        else:
            turns.append((now + told.wait, name))
        if name % slots == 0:
            now += 0.0001 * span(rate)
    for moment, name in turns:
        now = max(now, moment)
        (told,) = answer(rate, line, now, [Asked(lines_up=True, its_turn=True, patience=0.05 * span(rate))])
        assert told.granted
        done.append(name)
    assert done == list(range(many))


def test_who_comes_later_does_not_pass_the_line() -> None:
    rate, line = Leaky(1, 10.0), Line()
    first, second = answer(rate, line, 0.0, [Asked(lines_up=True), Asked(lines_up=True)])
    assert (first, second) == (Answer(True, 0.0, 0.0), Answer(False, 10.0))
    assert answer(rate, line, 9.5, [Asked(lines_up=True, patience=1.0)]) == [Answer(False, 10.5)]
    assert answer(rate, line, 10.0, [Asked(lines_up=True, its_turn=True)]) == [Answer(True, 0.0, 10.0)]


def test_who_waits_where_it_stands_goes_before_the_line() -> None:
    rate, line = Leaky(1, 10.0), Line()
    answer(rate, line, 0.0, [Asked(lines_up=True), Asked(lines_up=True)])
    assert answer(rate, line, 1.0, [Asked(patience=10.0)]) == [Answer(True, 9.0, 10.0)]
    assert answer(rate, line, 10.0, [Asked(lines_up=True, its_turn=True)]) == [Answer(False, 10.0)]


def test_a_pause_grants_nothing_and_moves_the_line() -> None:
    rate, line = Window(5, 1.0), Line(paused=30.0)
    assert answer(rate, line, 0.0, [Asked(patience=29.0)]) == [Answer(False, 30.0)]
    assert answer(rate, line, 0.0, [Asked(lines_up=True)]) == [Answer(False, 30.0)]
    assert answer(rate, line, 30.0, [Asked(lines_up=True, its_turn=True)]) == [Answer(True, 0.0, 30.0)]


def test_who_only_looks_is_told_its_turn_and_changes_nothing() -> None:
    rate, line = Leaky(1, 10.0), Line()
    before = written(line)
    assert answer(rate, line, 0.0, [Asked(lines_up=True, looks=True)] * 2) == [Answer(True, 0.0, 0.0)] * 2
    assert written(line) == before
    answer(rate, line, 0.0, [Asked(lines_up=True), Asked(lines_up=True)])
    before = written(line)
    assert answer(rate, line, 0.0, [Asked(lines_up=True, looks=True)] * 2) == [Answer(False, 20.0)] * 2
    assert written(line) == before


@given(rates, st.lists(st.tuples(st.floats(0, 2), st.integers(1, 5), st.booleans(), st.floats(0, 2)), max_size=80))
def test_what_was_given_back_unused_is_granted_again_and_the_rate_holds(
    rate: Rate, asks: list[tuple[float, int, bool, float]]
) -> None:
    grants: list[tuple[float, float]] = []
    state: State = ()
    now = EPOCH
    for step, cost, unused, later in asks:
        now += step * span(rate)
        cost = min(cost, int(rate.most))
        moment = rate.next(state, now, cost)
        before, state = state, rate.take(state, moment, cost)
        if not unused:
            grants.append((moment, cost))
            continue
        now += later * span(rate)
        state = rate.give_back(state, moment, now, cost)
        if not later and not isinstance(rate, Window):
            assert rate.next(state, now, cost) <= max(rate.next(before, now, cost), moment) + 1e-3
    assert not over(rate, grants)


def granted_in_a_second(rate: Rate, line: Line, now: float) -> int:
    return sum(one.granted for one in answer(rate, line, now, [Asked()] * 20))


def test_a_pause_halves_a_rate_that_is_to_recover_and_it_grows_back() -> None:
    rate, line = Window(10, 1.0), Line()
    line.pause(0.0, 20.0, 100.0)
    assert granted_in_a_second(rate, line, 19.9) == 0
    # Others who are told meanwhile tell nothing new, but how long.
    line.pause(5.0, 10.0, 100.0)
    line.pause(5.0, 30.0, 100.0)
    assert [granted_in_a_second(rate, line, now) for now in (30.0, 55.0, 79.0, 81.0, 90.0)] == [5, 7, 9, 10, 10]
    assert read(written(line)).ends(rate) < 92


def test_a_rate_that_is_paused_again_and_again_is_slow_but_never_none() -> None:
    rate, line = Window(10, 1.0), Line()
    grants: list[int] = []
    for now in range(0, 100, 10):
        line.pause(now, now + 5, 10_000.0)
        grants.append(granted_in_a_second(rate, line, now + 5))
    assert grants == [5, 2, 1, 1, 1, 1, 1, 1, 1, 1]


def test_a_crowd_of_late_turns_is_not_granted_at_once() -> None:
    """All workers were away for a minute: the turns of that minute come together, and the rate holds all the same."""
    rate, line = Window(10, 1.0), Line()
    answer(rate, line, 0.0, [Asked(lines_up=True)] * 700)
    late = answer(rate, line, 60.0, [Asked(lines_up=True, its_turn=True, patience=1.0)] * 600)
    assert sum(told.granted and told.wait == 0 for told in late) == 10
    assert sum(told.granted for told in late) <= 20
