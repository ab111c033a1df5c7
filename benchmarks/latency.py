"""Look-up tables: few measurements against many, and what they predict against what sliced models take.

    python -m benchmarks.latency                                                      # BERT-base
    python -m benchmarks.latency --layers 6 --hidden 384 --filters 1536 --check 0     # MiniLM, every number

The table is checked at random numbers of filters that are measured as well (``--check 0``: at all of them, as the
published generator does), as times of a layer with half of the heads. Then models sliced to a fraction of the predicted
latency, by either solver, are timed in turn with the dense one.
"""

from __future__ import annotations

import time
import warnings

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.common import parser, random_encoder, start
from fastprune.errors import InputError
from fastprune.latency.profiler import Bench, profile, thin_model
from fastprune.latency.search import search_latency
from fastprune.latency.timing import full_batch, measure_latency, steady_allocator
from fastprune.model.surgery import slice_model


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.set_defaults(tokens=64)
    options.add_argument("--batch-size", type=int, default=8)
    options.add_argument("--tolerance", type=float, default=0.02)
    options.add_argument("--check", type=int, default=100, help="numbers of filters measured as well; 0: all")
    options.add_argument("--ratios", type=float, nargs="*", default=(0.4, 0.5, 0.6, 0.7, 0.8), help="of latency")
    options.add_argument("--rounds", type=int, default=15)
    options = options.parse_args(arguments)
    start(options)
    encoder = random_encoder(options)
    device, config = torch.device("cpu"), encoder.model.config
    shape = {"batch_size": options.batch_size, "seq_len": options.tokens, "tolerance": options.tolerance}
    table = profile(config, device=device, **shape)
    used, total = table.origin["measurements"], options.heads + 1 + options.filters + 1
    print(
        f"{used} of {total} blocks measured ({total / used:.1f} times fewer) in {table.origin['seconds']:.0f} s; "
        f"stated error {table.origin['error']:.1%}"
    )

    generator = np.random.default_rng(options.seed)
    counts = np.arange(1, options.filters + 1)
    if options.check:
        counts = np.sort(generator.choice(counts, min(options.check, len(counts)), replace=False))
    begin = time.perf_counter()
    with torch.inference_mode(), steady_allocator():
        bench = Bench(thin_model(config, "sdpa", torch.float32), options.batch_size, options.tokens)
        half_heads, _ = bench.half
        times = bench.measure(
            [(half_heads, int(count)) for count in counts],
            options.tolerance,
            tqdm(desc="check", unit="block", disable=None),
        )
    seconds = time.perf_counter() - begin
    measured = np.array([times[half_heads, int(count)].median_ms for count in counts])
    # A layer with half of the heads and this number of filters, as a multiple of one with half of both.
    predicted = table.attention_ms[half_heads] + np.array(table.ffn_ms)
    predicted = predicted[counts] / predicted[bench.half[1]]
    errors = np.abs(predicted / measured - 1)
    print(
        f"against {len(counts)} numbers of filters measured in {seconds:.0f} s: median error "
        f"{np.median(errors):.2%}, 9 in 10 below {np.quantile(errors, 0.9):.2%}"
    )

    layers = torch.randn(options.layers, 1).mul(0.7).exp()
    importance = (
        torch.randn(options.layers, options.heads).exp() * layers * options.filters / options.heads,
        torch.randn(options.layers, options.filters).exp() * layers,
    )
    batch, rows = full_batch(options.batch_size, options.tokens), []
    print(
        f"\n{'keep ratio':<12}{'solver':<12}{'predicted ms':>13}{'measured ms':>13}{'kept, pred.':>13}"
        f"{'kept, meas.':>13}{'off by':>9}{'importance':>12}"
    )
    for keep_ratio in options.ratios:
        try:
            masks = {
                solver: search_latency(*importance, table, keep_ratio, solver=solver)
                for solver in ("exact", "piecewise")
            }
        except InputError as error:
            print(f"{keep_ratio:<12}{error}")
            continue
        models = {"dense": encoder.model} | {solver: slice_model(encoder, mask) for solver, mask in masks.items()}
        measured_ms = {
            name: latency.median_ms for name, latency in measure_latency(models, batch, repeats=options.rounds).items()
        }
        for solver, mask in masks.items():
            kept = measured_ms[solver] / measured_ms["dense"]
            worth = (
                sum(
                    float((part * value).sum() / value.sum())
                    for part, value in zip((mask.heads, mask.filters), importance, strict=True)
                )
                / 2
            )
            rows.append((keep_ratio, solver, table.kept(mask), kept))
            print(
                f"{keep_ratio:<12}{solver:<12}{table.of_masks(mask):>13.2f}{measured_ms[solver]:>13.2f}"
                f"{table.kept(mask):>13.4f}{kept:>13.4f}{table.kept(mask) / kept - 1:>9.1%}{worth:>12.4f}"
            )
    if rows:
        print(f"dense: predicted {table.dense_ms(options.layers):.2f} ms, measured {measured_ms['dense']:.2f} ms")
    return {"fewer": total / used, "errors": errors, "rows": rows}


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
    main()
