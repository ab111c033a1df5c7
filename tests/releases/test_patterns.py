"""The regular expressions of a policy end."""

import time

import pytest

from fastprune.errors import InputError
from fastprune.releases import patterns
from fastprune.releases.policy import parse_policy


@pytest.mark.parametrize(
    ("pattern", "value", "fits"),
    [("a|b", "b", True), ("a", "ab", False), (".*\\d", "ü 7", True), ("", "", True), ("(?i)YES", "yes", True)],
)
def test_the_whole_value_matches_or_not(pattern, value, fits):
    assert patterns.matches(pattern, value) is fits


def test_an_expression_that_never_ends_is_given_up(monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 0.5)
    begin = time.perf_counter()
    with pytest.raises(InputError, match=r"'\(a\|aa\)\+' takes longer than 0.5 s"):
        patterns.matches("(a|aa)+", "a" * 100 + "b")
    assert time.perf_counter() - begin < 10


@pytest.mark.parametrize("pattern", ["[", "a{99999999999999999999}", "a" * 501])
def test_what_is_no_expression_is_refused_when_the_policy_is_read(pattern):
    with pytest.raises(InputError, match="policy.yaml: required_tags: .*owner: .*regular expression"):
        parse_policy(f"required_tags: {{owner: '{pattern}'}}", "policy.yaml")
