"""Tensors on disk, what is left of memory, and that results do not depend on it."""

import os
import subprocess
import sys

import pytest
import torch
from tiny_models import build, random_batches, random_masks

import fastprune
from fastprune import memory, method
from fastprune.errors import InputError
from fastprune.importance import curvature
from fastprune.importance.curvature import estimate_curvature, graph_bytes
from fastprune.importance.fisher import estimate_fisher
from fastprune.importance.selection import Importance
from fastprune.model.architectures import describe
from fastprune.search.cost import Cost
from fastprune.tuning.layerwise import Teacher
from fastprune.tuning.weights import reconstruct_weights

LENGTHS = [[9, 7, 4, 1], [8, 3], [5]]


def test_tensors_on_disk_are_what_was_put_there(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kept = memory.OnDisk()
    given = [torch.randn(2, 3), torch.randn(4).to(torch.bfloat16), torch.tensor(3.0), torch.randn(3, 4).T]
    for tensor in given:
        kept.append(tensor)
    assert len(kept) == 4 and all(torch.equal(one, kept[number]) for number, one in enumerate(given))
    given[0], given[1] = torch.randn(50, 3), torch.zeros(1, 2, dtype=torch.float64)
    kept[0], kept[1] = given[:2]
    assert all(torch.equal(one, kept[number]) and kept[number].dtype == one.dtype for number, one in enumerate(given))
    assert not list(tmp_path.iterdir()), "the file has no name, so that nothing stays of it"


def test_what_fits_into_half_of_what_is_left_stays_in_memory(monkeypatch):
    monkeypatch.setattr(memory, "_machine", lambda: 1000)
    monkeypatch.setattr(memory, "_cgroup", lambda: [800])
    monkeypatch.setattr(memory, "_resident", lambda: 300)
    cpu = torch.device("cpu")
    assert memory.left(cpu) == 800
    assert isinstance(memory.tensors(400, cpu), list) and isinstance(memory.tensors(401, cpu), memory.OnDisk)
    with memory.limited("0.5KB"):
        assert memory.left(cpu) == 200
        with memory.limited(None):
            assert memory.left(cpu) == 200
    assert memory.left(cpu) == 800


@pytest.mark.parametrize(
    "files, want",
    [
        ({"memory.max": "max", "memory.current": "5", "memory.stat": "anon 1\n"}, []),
        ({"memory.max": "100", "memory.current": "50", "memory.stat": "anon 1\ninactive_file 20\n"}, [70]),
        (
            {
                "memory/memory.limit_in_bytes": "100",
                "memory/memory.usage_in_bytes": "50",
                "memory/memory.stat": "total_inactive_file 10\n",
            },
            [60],
        ),
        ({}, []),
    ],
)
def test_the_limit_of_a_container_counts(files, want, tmp_path, monkeypatch):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    here = [tuple(tmp_path / path.relative_to("/sys/fs/cgroup") for path in pair) for pair in memory._CGROUPS]
    monkeypatch.setattr(memory, "_CGROUPS", here)
    assert memory._cgroup() == want


@pytest.mark.parametrize("size, want", [("8GiB", 8 << 30), ("1.5 gb", 1_500_000_000), ("300", 300), (7, 7)])
def test_sizes(size, want):
    assert memory.parse_size(size) == want


@pytest.mark.parametrize("size", ["8Gi", "-1GB", "0", "much", "", "nan"])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(InputError, match="is no size; give bytes, or a number with MB"):
        memory.parse_size(size)


@pytest.mark.parametrize(
    "family, problem", [("bert", "classification"), ("modernbert", "classification"), ("roberta", "question-answering")]
)
def test_weights_do_not_depend_on_memory(family, problem):
    model = build(family, problem)
    encoder, batches = describe(model), random_batches(model, problem, LENGTHS * 3)
    masks, made = random_masks(encoder), []
    for limit in (None, 1):
        with memory.limited(limit):
            made.append(reconstruct_weights(Teacher(encoder, batches), masks, problem, progress=False).model)
    for name, tensor in made[0].state_dict().items():
        assert torch.equal(tensor, made[1].state_dict()[name]), name


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_curvature_does_not_depend_on_memory_but_for_rounding(family, monkeypatch):
    model = build(family, "classification")
    encoder, batches = describe(model), random_batches(model, "classification", LENGTHS * 3)
    whole, sizes = estimate_curvature(encoder, batches, "classification", progress=False), []
    model.register_forward_pre_hook(lambda _, args, given: sizes.append(len(given["input_ids"])), with_kwargs=True)
    for examples in (0, 2):
        room = 2 * examples * graph_bytes(encoder, 9)
        monkeypatch.setattr(curvature, "_check_memory", lambda *_: None)
        monkeypatch.setattr(memory, "left", lambda device, room=room: room)
        sizes.clear()
        parts = estimate_curvature(encoder, batches, "classification", progress=False)
        assert max(sizes) == max(examples, 1) and sum(sizes) == 7 * 3
        assert parts.counts == whole.counts
        for name in ("attention_inputs", "attention_gradients", "ffn_inputs", "ffn_gradients"):
            for one, other in zip(getattr(whole, name), getattr(parts, name), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6 * float(one.abs().max()))


def test_what_does_not_fit_onto_a_gpu_is_kept_beside_it_or_on_disk(monkeypatch):
    room = {"cuda": 700, "cpu": 1000}
    monkeypatch.setattr(memory, "left", lambda device: room[device.type])
    kinds = [type(memory.tensors(size, torch.device("cuda"))) for size in (350, 500, 501)]
    assert kinds == [list, memory.Beside, memory.OnDisk]
    beside, given = memory.Beside(), [torch.randn(2, 3), torch.arange(4)]
    for tensor in given:
        beside.append(tensor)
    given[1] = beside[1] = torch.randn(5, 1)
    assert len(beside) == 2 and all(torch.equal(one, beside[number]) for number, one in enumerate(given))


def test_fewer_examples_at_once_where_a_gpus_memory_ends():
    tried = []

    def work(examples):
        tried.append(examples)
        if examples > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "made"

    most = 2
    with pytest.warns(UserWarning, match="the GPU's memory has ended; on with 2 examples at once"):
        assert memory.retreat(work, 7) == "made" and tried == [7, 4, 2]
    most = 0
    with pytest.warns(UserWarning), pytest.raises(InputError, match="memory ends with a single example"):
        memory.retreat(work, 2)


@pytest.mark.filterwarnings("ignore:the GPU's memory has ended")
@pytest.mark.parametrize("step", ["curvature", "per_sample", "per_batch", "weights", "mask"])
def test_a_gpu_whose_memory_ends_in_the_middle_changes_nothing_but_rounding(step):
    """In the second layer, when sums of the first have been made; they are not counted twice."""
    model = build("bert")
    encoder, batches = describe(model), random_batches(model, "classification", LENGTHS * 2)
    masks, importance = random_masks(encoder), Importance(torch.rand(3, 4).double(), torch.rand(3, 24).double())
    cost = Cost.of(encoder, 6.0, None)

    def run():
        if step == "curvature":
            found = estimate_curvature(encoder, batches, "classification", progress=False)
            return [*found.attention_inputs, *found.attention_gradients, *found.ffn_inputs, *found.ffn_gradients]
        if step.startswith("per"):
            found = estimate_fisher(encoder, batches, "classification", estimator=step, progress=False)
            return [found.head_grads, found.filter_grads]
        teacher = method.make_teacher(encoder, batches, step, keep=True)
        given = (encoder, masks, importance, cost, 0.5, batches, "classification", step)
        return list(method.tune(*given, teacher=teacher, progress=False).model.state_dict().values())

    whole, sizes = run(), []

    def end(_, given):
        sizes.append(len(given[0]))
        if len(given[0]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    encoder.layers[1].ffn.writes.register_forward_pre_hook(end)
    parts = run()
    assert max(sizes) > 1 and min(sizes) == 1
    for one, other in zip(whole, parts, strict=True):
        rounding = 1e-3 if step == "weights" else 1e-5  # its systems have few tokens here, and enlarge it
        torch.testing.assert_close(one, other, rtol=1e-3, atol=rounding * max(1.0, float(one.abs().max())))


def test_too_little_memory_is_refused_with_what_is_needed(tmp_path, source):
    task = fastprune.Task("table", "classification", "accuracy", ("sentence",), "label")
    given = {"dataset": source["train_file"], "evaluation": source["eval_file"], "task": task, "keep_ratio": 0.5}
    with pytest.raises(InputError, match="0.00 GiB of memory are left, and the curvature of this model takes 0.0"):
        fastprune.compress(source["source"], **given, memory="1MB", output_dir=tmp_path / "out", progress=False)
    with pytest.raises(InputError, match="memory 'all' is no size"):
        fastprune.compress(source["source"], **given, memory="all", output_dir=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given, want", [(None, "1"), ("0", "0")])
def test_large_pages_are_asked_for_before_torch_is_there_unless_the_user_says_otherwise(given, want):
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    environment |= {"THP_MEM_ALLOC_ENABLE": given} if given else {}
    program = "import fastprune, os, sys; print('torch' in sys.modules, os.environ['THP_MEM_ALLOC_ENABLE'])"
    told = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout.split() == ["False", want]
