"""What a recurring run's cron expression may be, and what is said of one that it may not."""

import pytest

from fastprune.errors import InputError
from fastprune.sweep.cron import EXAMPLE, check_cron


@pytest.mark.parametrize(
    "cron",
    [
        EXAMPLE,
        "* * * * * *",
        "0 0 9 ? * 2-6",
        "0 */15 9-17 * * mon-FRI",
        "0 5/20 9-17/2 1,15 jan,jul ?",
        "59 59 23 31 12 6",
        "0 0 0 29 feb *",
        "0  0 0\t30 4,6 *",
        "0 0 0 31 2 mon",
        "0 0 0 */31 2 *",
    ],
)
def test_taken(cron):
    assert check_cron(cron) == " ".join(cron.split())


@pytest.mark.parametrize(
    "cron, message",
    [
        ("0 2 * * *", "5 fields, not 6; with seconds in front it is '0 0 2 * * *'"),
        ("@daily", "1 fields, not 6"),
        ("", "0 fields, not 6"),
        ("0 0 0 2 * * *", "7 fields, not 6"),
        ("60 0 0 * * *", "the second, '60': '60' is out of range (it may be 0 to 59"),
        ("0 60 0 * * *", "the minute, '60'"),
        ("0 0 24 * * *", "the hour, '24'"),
        ("0 0 0 0 * *", "the day of the month, '0': '0' is out of range (it may be 1 to 31"),
        ("0 0 0 1 13 *", "the month, '13': '13' is out of range (it may be 1 to 12, or jan to dec"),
        ("0 0 0 * * 7", "the day of the week, '7': '7' is out of range (it may be 0 to 6, or sun to sat"),
        ("0 0 0 L * *", "the day of the month, 'L': 'L' is no number"),
        ("0 0 0 * * monday", "the day of the week, 'monday': 'monday' is no number"),
        ("0 0 0 * mon *", "the month, 'mon'"),
        ("0 0 0 * * fri-mon", "'fri-mon' runs backwards"),
        ("0 0 0 * * 1#2", "'1#2' is no number"),
        ("0 1,,2 * * * *", "the minute, '1,,2': '' is no number"),
        ("0 -5 * * * *", "the minute, '-5'"),
        ("0 1-2-3 * * * *", "'1-2-3' is no range or step"),
        ("0 1/2/3 * * * *", "'1/2/3' is no range or step"),
        ("0 *-5 * * * *", "'*-5' is no range or step"),
        ("0 */0 * * * *", "the step '0' is not 1 to 59"),
        ("0 */90 * * * *", "the step '90'"),
        ("0 */x * * * *", "the step 'x'"),
        ("0 1.5 * * * *", "'1.5' is no number"),
        ("0 ٣ * * * *", "is no number"),
        ("0 0 0 30 feb *", "it never runs: no month of 'feb' has a day 30"),
        ("0 0 0 31 4,6,9,11 ?", "it never runs: no month of '4,6,9,11' has a day 31"),
    ],
)
def test_refused_with_the_field_and_an_example(cron, message):
    with pytest.raises(InputError) as error:
        check_cron(cron)
    assert message in str(error.value) and f"cron {cron!r}" in str(error.value) and EXAMPLE in str(error.value)
