"""What gateways say of a replica: only the latest word of those that are connected and still speak."""

from __future__ import annotations

from serving.channel.reports import FRESH_S, Reports
from serving.channel.work import Report


def test_the_demand_is_that_of_all_gateways_together_each_by_its_latest_word() -> None:
    reports = Reports()
    reports.heard("g1", Report(9.0), now=1.0)
    reports.heard("g1", Report(3.0), now=2.0)
    reports.heard("g2", Report(4.5), now=2.0)
    assert reports.demand(2.0) == 7.5
    reports.forget("g2")
    assert reports.demand(2.0) == 3.0
    assert Reports().demand(2.0) == 0.0


def test_a_gateway_that_says_nothing_any_more_counts_neither_way() -> None:
    reports = Reports()
    reports.heard("silent", Report(9.0, 0.0), now=0.0)
    reports.heard("g1", Report(1.0, 20.0), now=FRESH_S)
    assert reports.ejected_s(FRESH_S) == 0.0
    assert (reports.demand(FRESH_S + 0.1), reports.ejected_s(FRESH_S + 0.1)) == (1.0, 20.0)


def test_a_replica_is_ejected_only_if_all_that_speak_say_so_and_for_as_long_as_the_last_of_them() -> None:
    reports = Reports()
    assert reports.ejected_s(0.0) == 0.0
    reports.heard("g1", Report(0.0, 20.0), now=0.0)
    reports.heard("g2", Report(0.0, 4.0), now=0.0)
    assert reports.ejected_s(0.0) == 4.0
    reports.heard("g2", Report(), now=0.0)
    assert reports.ejected_s(0.0) == 0.0
