"""What a guest's pages must hold, as the host computes it."""

from __future__ import annotations

import pytest

from vmthaw import _core
from vmthaw.errors import GuestMismatchError, StateError, VmthawValueError
from vmthaw.machine import GuestReport, Workload
from vmthaw.machine_values import ORDERS, share_of

PAGES = 1000


def test_every_page_is_unlike_every_other_and_unlike_that_of_another_seed() -> None:
    pages = {Workload(seed).page(number) for seed in (0, 1, 2) for number in range(300)}
    assert len(pages) == 900
    assert {len(page) for page in pages} == {4096}


def test_no_word_occurs_twice_in_a_page() -> None:
    page = Workload(5).page(77)
    assert len({page[i : i + 8] for i in range(0, 4096, 8)}) == 512


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_asked_share_of_pages_is_zeros(share: float) -> None:
    workload = Workload(3, share_of(share, "zero_share"))
    zeros = sum(_core.payload_word(workload.as_tuple(), number, 0) == 0 for number in range(4000))
    assert abs(zeros / 4000 - share) < 0.04
    if share in (0.0, 1.0):
        assert zeros == 4000 * share


def test_a_rewriting_takes_its_share_of_its_range_and_gives_new_content() -> None:
    before = Workload(3)
    after = Workload(3, 0, ((9, share_of(0.5, "share"), 100, 200),))
    taken = [number for number in range(400) if after.generation(number) == 1]
    assert taken
    assert min(taken) >= 100
    assert max(taken) < 300
    assert 70 <= len(taken) <= 130
    assert all((before.page(number) != after.page(number)) == (number in taken) for number in range(400))


def test_the_last_rewriting_that_took_a_page_counts() -> None:
    whole = share_of(1.0, "share")
    workload = Workload(3, 0, ((1, whole, 0, 300), (2, whole, 100, 100)))
    assert [workload.generation(number) for number in (99, 100, 199, 200, 299, 300)] == [1, 2, 2, 1, 1, 0]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_share_is_from_0_to_1(value: float) -> None:
    with pytest.raises(VmthawValueError, match="zero_share must be from 0 to 1"):
        share_of(value, "zero_share")


@pytest.mark.parametrize("pages", [1, 2, 3, 255, 256, 257, PAGES])
def test_a_random_touch_visits_every_page_once(pages: int) -> None:
    for seed in (0, 1, 99):
        visited = [_core.payload_touch_page(ORDERS["random"], step, pages, seed) for step in range(pages)]
        assert sorted(visited) == list(range(pages))


def test_random_orders_differ_by_seed_and_are_not_sequential() -> None:
    def visits(seed: int) -> list[int]:
        return [_core.payload_touch_page(ORDERS["random"], step, PAGES, seed) for step in range(PAGES)]

    assert visits(1) != visits(2)
    neighbours = sum(after == before + 1 for before, after in zip(visits(1), visits(1)[1:], strict=False))
    assert neighbours < PAGES // 20


def test_a_zipf_touch_repeats_few_pages_often() -> None:
    visited = [_core.payload_touch_page(ORDERS["zipf"], step, PAGES, 4) for step in range(10_000)]
    assert all(0 <= page < PAGES for page in visited)
    counts = sorted((visited.count(page) for page in set(visited)), reverse=True)
    assert sum(counts[:10]) > 2500  # the ten best of a thousand
    assert len(counts) > 300


def test_a_report_of_a_mismatch_raises_with_the_place() -> None:
    report = GuestReport(
        "verify", status=1, words=512, mismatches=2, wrong_address=0x1008, wrong_page=1, expected=5, found=6
    )
    assert not report.ok
    with pytest.raises(GuestMismatchError, match="2 of 512 words are wrong, the first at guest address 0x1008") as info:
        report.check()
    assert (info.value.wrong_page, info.value.expected, info.value.found, info.value.mismatches) == (1, 5, 6, 2)


def test_a_good_report_gives_itself_and_an_unknown_operation_raises() -> None:
    good = GuestReport("ping")
    assert good.check() is good
    with pytest.raises(StateError, match="does not know the operation"):
        GuestReport("dance", status=2).check()
