"""Proposals of how many tokens to merge."""

from __future__ import annotations

from itertools import product

from pmq.optimize.merging import OVERHEAD, propose_mergings

ERRORS = {"a": {2: 0.2, 4: 0.5, 8: 2.0}, "b": {2: 0.03, 4: 0.1, 8: 0.9}, "c": {2: 0.001, 4: 0.002, 8: 0.003}}


def test_no_other_merging_has_less_error_and_fewer_tokens() -> None:
    def facts(merged: dict[str, int]) -> tuple[float, float]:
        left, tokens = 17, 0
        for block in ERRORS:
            assert merged.get(block, 0) <= (left - 1) // 2
            left -= merged.get(block, 0)
            tokens += left
        return sum(ERRORS[block][count] for block, count in merged.items()), tokens + OVERHEAD * 17 * len(merged)

    possible = []
    for counts in product((0, 2, 4, 8), repeat=3):
        left = 17
        if all(count <= (left - 1) // 2 and (left := left - count) for count in counts):
            possible.append(facts({b: n for b, n in zip("abc", counts, strict=True) if n}))
    proposals = propose_mergings(ERRORS, 17, 1, 6)
    assert proposals[0] == {} and 3 <= len(proposals) <= 6
    tokens = [facts(proposal)[1] for proposal in proposals]
    assert tokens == sorted(tokens, reverse=True) and len(set(tokens)) == len(tokens)
    for proposal in proposals:
        error, n = facts(proposal)
        assert not any(e < error - 1e-12 and t <= n for e, t in possible)


def test_merging_that_costs_nothing_is_no_reason_to_fail() -> None:
    assert propose_mergings({"a": {2: 0.0}}, 9, 1, 4) == [{}]
