"""Compressions of one model side by side: the front, and which of them a policy picks."""

from dataclasses import replace
from itertools import product
from random import Random

import pytest

from fastprune.errors import InputError
from fastprune.releases.choice import Compression, choose, pareto_front

ONE = Compression("MACs 0.5", "macs", "accuracy", 0.9, 0.89, 0.5, 0.6, 0.7, 30.0, "1")


def compressions(*figures):
    return [
        replace(ONE, label=f"MACs {macs}", macs=macs, latency=latency, pruned=pruned, version=str(number))
        for number, (macs, latency, pruned) in enumerate(figures)
    ]


def test_the_front_is_what_no_other_beats():
    draw = Random(0)
    for _ in range(200):
        points = [(draw.randint(1, 6), draw.randint(1, 6)) for _ in range(draw.randint(1, 8))]
        front = pareto_front(*zip(*points))
        assert [points[index] for index in front] == sorted({points[index] for index in front})
        for one, other in product(front, range(len(points))):
            cost, value = points[other]
            assert not (cost <= points[one][0] and value >= points[one][1] and points[other] != points[one])
        for index in range(len(points)):
            assert any(points[one][0] <= points[index][0] and points[one][1] >= points[index][1] for one in front)


def test_the_cheapest_that_the_policy_accepts_is_picked():
    found = compressions((0.7, 0.8, 0.9), (0.4, 0.5, 0.87), (0.3, 0.45, 0.8))
    assert choose(found, "max_accuracy_drop: 0.05")["picked"] == 1
    assert choose(found, "max_accuracy_drop: 0.2")["picked"] == 2
    assert choose(found, "max_accuracy_drop: 0.05")["candidates"] == [1, 0]  # cheapest first
    strict = choose(found, "{max_accuracy_drop: 0.05, min_speedup: 2.1}")
    assert strict["picked"] == 0  # none is accepted: the most accurate one goes to the gate, which says so
    assert "max_accuracy_drop: 0.1" in strict["compressions"][2]["refused"][0]
    assert "min_speedup: 1.25" in strict["compressions"][0]["refused"][0]
    assert strict["candidates"] == [0]
    assert choose(found)["picked"] is None and choose(found)["candidates"] == []
    # Tags, approvers and the champion's data are for the promotion.
    assert choose(found, "{max_accuracy_drop: 0.05, approvers: [zoe], required_tags: {owner: ann}}")["picked"] == 1


def test_the_cost_is_latency_where_a_budget_was():
    found = compressions((0.5, 0.7, 0.88), (0.6, 0.4, 0.89))
    assert [one["on_front"] for one in choose(found)["compressions"]] == [True, True]
    named = [replace(one, label=f"latency {one.macs}") for one in found]
    assert choose(named)["cost"] == "macs", "a label decides nothing"
    found[0] = replace(found[0], constraint="latency")
    summed_up = choose(found)
    assert summed_up["cost"] == "latency" and [one["on_front"] for one in summed_up["compressions"]] == [False, True]


def test_a_policy_that_is_none_is_refused():
    with pytest.raises(InputError, match="policy"):
        choose([ONE], "max_drop: 1")


def test_the_exported_model_is_a_candidate_of_its_own():
    exported = {"format": "onnx", "quantize": "int8", "metric": 0.885, "agreement": 0.97, "megabytes": 7.5}
    exported |= {"standard_error": 0.011, "standard_error_of_drop": 0.004, "threads": 1, "device_name": "EPYC"}
    exported |= {"seq_len": 27, "latency_ms": {"batch_8": {"dense": 40.0, "exported": 5.0}}}
    metrics = {"metric": "accuracy", "dense": 0.9, "pruned": 0.89, "macs_kept": 0.5, "params_kept": 0.7}
    metrics |= {"keep_ratio": 0.5, "megabytes": {"pruned": 30.0}, "latency_ms": {"dense": 10.0, "pruned": 6.0}}
    assert Compression.of(metrics, "1") == ONE
    both = Compression.of(metrics | {"exported": exported}, "1")
    found = choose([both])["compressions"][0]
    assert found["exported"] == {
        "form": "onnx int8",
        "metric": 0.885,
        "error": 0.011,
        "agreement": 0.97,
        "megabytes": 7.5,
        "latency": 0.125,
    }
    # The version serves the export: a policy that takes the pruned model may refuse what is served, and the other way.
    strict = "{max_accuracy_drop: 0.012, min_speedup: 2, speed_on: EPYC, max_megabytes: 10}"
    assert choose([both], strict)["compressions"][0]["refused"] == [
        "max_accuracy_drop: 0.015 +- 0.004 (accuracy), required at most 0.012"
    ]
    assert not choose([both], "{max_accuracy_drop: 0.02, min_speedup: 7, max_megabytes: 10}")["compressions"][0][
        "refused"
    ]
    other = Compression.of(metrics | {"exported": {**exported, "format": "openvino"}}, "1")
    assert "min_speedup: 1.667" in choose([other], "min_speedup: 2")["compressions"][0]["refused"][0]


def test_the_front_is_of_what_is_served():
    """The int8 form of the one loses what its PyTorch form has: the other is better, and cheaper where it is served."""

    def served(macs, pruned, metric, speedup):
        own = {"metric": "accuracy", "pruned": metric, "speedup": speedup, "standard_error": {"pruned": 0.01}}
        own |= {"dense": 0.9, "speed": None, "megabytes": 7.5}
        return replace(ONE, macs=macs, pruned=pruned, served=own, exported={"form": "onnx int8"})

    found = [served(0.6, 0.89, 0.7, 4.0), served(0.5, 0.88, 0.87, 5.0)]
    assert [one["on_front"] for one in choose(found)["compressions"]] == [False, True]
    told = choose(found)["compressions"][0]["judged"]
    assert told == {"form": "onnx int8", "metric": 0.7, "error": 0.01, "latency": 0.25}
    assert choose(found, "max_accuracy_drop: 0")["candidates"] == [1]  # none is accepted: the most accurate, served
    found[0] = replace(found[0], constraint="latency", latency=0.1)
    assert [one["on_front"] for one in choose(found)["compressions"]] == [False, True]
