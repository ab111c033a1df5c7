"""Pages with all that they can show, of models as large and names as long as they come."""

import random

from fastprune.reports import bench, report, summary

LAYERS, HEADS, FILTERS = 24, 16, 4096


def _error(value):
    return {"dense": 0.0091, "pruned": value, "drop": 0.0041}


def report_page():
    """Of a BERT-large whose budget was sought, exported in int8."""
    draw = random.Random(0)
    kept = [draw.sample(range(HEADS), draw.randint(0, HEADS)) for _ in range(LAYERS)]
    points = [(0.5, 0.9012), (0.25, 0.8514), (0.375, 0.8921), (0.4375, 0.8967), (0.406, 0.8950), (0.39, 0.8933)]
    metrics = {
        "metric": "matthews_correlation",
        "dense": 0.9051,
        "pruned": 0.8962,
        "standard_error": _error(0.0092),
        "rows": 17250,
        "keep_ratio": 0.39,
        "macs_kept": 0.3896,
        "params_kept": 0.432,
        "heads": [len(row) for row in kept],
        "filters": [draw.randint(0, FILTERS) for _ in kept],
        "num_heads": HEADS,
        "num_filters": FILTERS,
        "params": {"dense": 335_000_000, "pruned": 144_900_000},
        "megabytes": {"dense": 1340.6, "pruned": 579.5},
        "latency_ms": {
            "dense": 1833.1,
            "pruned": 821.2,
            "batch_size": 32,
            "seq_len": 127,
            "device": "cpu",
            "device_name": "Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz",
            "threads": 32,
            "predicted_dense": 1790.2,
            "predicted_pruned": 805.1,
        },
        "latency_kept": 0.45,
        "curve": {"points": points, "dense": 0.9051, "keep_ratio": 0.39, "margins": [], "form": "onnx int8"},
        "exported": {
            "format": "onnx",
            "quantize": "int8",
            "metric": 0.8933,
            "standard_error": 0.0093,
            "standard_error_of_drop": 0.0044,
            "agreement": 0.98765,
            "megabytes": 148.3,
            "left_in_float32": [],
            "latency_ms": {"batch_1": {"dense": 80.0, "exported": 8.6}, "batch_8": {"dense": 600.0, "exported": 58.0}},
        },
        "stages": {"search": 0.7871, "rearrange": 0.7912, "tuning": 0.8962},
        "seconds": {"prepare": 3.1, "evaluate_dense": 30.0, "importance": 144.2, "budget": 1200.0, "tune": 231.7},
    }
    manifest = {
        "source_model": "s3://a-bucket-with-a-long-name/models/of/the/team/bert-large-uncased-finetuned-cola-2026",
        "source_sha256": "3f" * 32,
        "sample_size": 2048,
        "seq_len": 27.02,
        "seed": 0,
        "keep_ratio": 0.39,
        "macs_before": 3.2e10,
        "macs_after": 1.25e10,
        "kept_heads": kept,
        "versions": {"torch": "2.13.0", "fastprune": "0.2.0+" + "c0ffee" * 6},
    }
    return report.render(metrics, manifest)


def summary_page():
    """Of a sweep with exported models, a refusal, a pick, and compressions that failed."""
    compressions = []
    for macs, pruned, latency in ((0.7, 0.8912, 0.78), (0.6, 0.8907, 0.69), (0.5, 0.8850, 0.58), (0.4, 0.8790, 0.46)):
        compressions.append(
            {
                "label": f"MACs {macs}",
                "metric": "accuracy",
                "dense": 0.8923,
                "pruned": pruned,
                "macs": macs,
                "latency": latency,
                "params": 0.5 + macs / 2,
                "megabytes": 300 * (0.5 + macs / 2),
                "version": str(len(compressions) + 1),
                "on_front": macs != 0.6,
                "judged": {"form": "onnx int8", "metric": pruned - 0.0011, "error": 0.0112, "latency": latency / 4},
                "refused": []
                if macs > 0.4
                else ["max_accuracy_drop: 0.0133 +- 0.004 (accuracy), required at most 0.01"],
                "standard_error": _error(0.011),
                "exported": {
                    "form": "onnx int8",
                    "metric": pruned - 0.0011,
                    "error": 0.0112,
                    "agreement": 0.98 - 0.1 * (1 - macs),
                    "megabytes": 75 * (0.5 + macs / 2),
                    "latency": latency / 4,
                },
            }
        )
    failed = [
        {
            "compression": "bert-large-uncased/latency-0-25",
            "stage": "tune",
            "why": "InputError: the budget of 1.2 ms cannot be met; the smallest that can be met is 1.37 ms",
        }
    ]
    return summary.render({"cost": "macs", "picked": 2, "compressions": compressions, "failed": failed})


def bench_page():
    """Of seven folders at two batch sizes."""
    figures = (
        ("bert-base-uncased-sst2", "PyTorch", 0.8739, 11.18),
        ("dense-onnx", "ONNX Runtime", 0.8739, 5.37),
        ("dense-int8", "ONNX Runtime int8", 0.8761, 2.27),
        ("half", "PyTorch", 0.8750, 7.09),
        ("half-onnx", "ONNX Runtime", 0.8750, 3.26),
        ("half-int8", "ONNX Runtime int8", 0.8727, 1.54),
        ("fifth-int8", "OpenVINO int8", 0.8612, 0.95),
    )
    candidates = [
        {
            "name": f"models/{name}",
            "what": what,
            "megabytes": 90.9,
            "metric": {"name": "accuracy", "value": metric, "rows": 872, "standard_error": 0.0112},
            "agreement": 0.97,
            "batch": {
                size: {
                    "batch_size": int(size),
                    "p50_ms": times * ms,
                    "p95_ms": 1.3 * times * ms,
                    "rows_per_second": 1e3 * int(size) / (times * ms),
                    "speedup": 11.18 / ms,
                }
                for size, times in (("1", 1), ("8", 6.5))
            },
        }
        for name, what, metric, ms in figures
    ]
    return bench.render(
        {"candidates": candidates, "cpu_time": False, "threads": 1, "device": "AMD EPYC 9R14 96-Core Processor"}
    )


PAGES = {"report": report_page, "summary": summary_page, "bench": bench_page}
