"""Threads within the CPU limit of a container."""

import pytest
import torch
from tiny_tables import CPU

import fastprune
from fastprune import environment
from fastprune.data.preparation import table_task
from fastprune.environment import usable_threads
from fastprune.latency.timing import torch_threads
from fastprune.stages import steps


@pytest.fixture
def limit(tmp_path, monkeypatch):
    """Writes what a cgroup's files say."""
    here = tuple(
        tuple(tmp_path / file.relative_to("/sys/fs/cgroup") for file in files) for files in environment._CPU_LIMITS
    )
    monkeypatch.setattr(environment, "_CPU_LIMITS", here)

    def write(files):
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(content)

    return write


@pytest.mark.parametrize(
    "files, want",
    [
        ({}, 6),
        ({"cpu.max": "max 100000\n"}, 6),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu.max": "900000 100000\n"}, 6),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 6),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu,cpuacct/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/cpu.cfs_period_us": "50000\n"}, 1),
        ({"cpu.max": "much\n"}, 6),
    ],
    ids=str,
)
def test_threads_keep_to_the_limit_of_the_container(limit, files, want):
    limit(files)
    with torch_threads(6):
        assert usable_threads() == want
        steps._keep_to_cpu_limit()
        assert torch.get_num_threads() == want


def test_compress_leaves_the_threads_as_they_were(limit, source):
    limit({"cpu.max": "100000 100000\n"})
    with torch_threads(2):
        result = fastprune.compress(
            source["source"],
            dataset=source["train_file"],
            evaluation=source["eval_file"],
            task=table_task(source["source"], ("sentence",), "label"),
            keep_ratio=0.5,
            num_samples=16,
            dry_run=True,
            device=str(CPU),
            progress=False,
        )
        assert result.manifest["threads"] == 1 and torch.get_num_threads() == 2
