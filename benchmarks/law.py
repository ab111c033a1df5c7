"""The law of memory and time: what a compression takes by the default, computed from shapes alone."""

from __future__ import annotations

from dataclasses import dataclass

from fastprune.importance.curvature import EXAMPLES
from fastprune.importance.surgeon import STEPS
from fastprune.tuning.layerwise import TOKENS_PER_INPUT

GIB, BYTES, BATCH = 1 << 30, 4, 32


@dataclass(frozen=True)
class Shape:
    """Of a model and of a sample; ``kept`` is the part of heads and filters that stays.

    With ``every_token`` the task head reads every token, as in question answering: as many are then walked over as
    determine the widest map.
    """

    name: str
    layers: int
    hidden: int
    filters: int
    samples: int
    tokens: int
    kept: float = 0.5
    every_token: bool = False

    @property
    def walked(self) -> float:
        """Tokens of the sample that reconstruction walks over."""
        whole, widest = self.samples * self.tokens, max(self.hidden, self.kept * self.filters)
        return min(whole, TOKENS_PER_INPUT * widest) if self.every_token else whole

    @property
    def copy(self) -> float:
        """Bytes of their hidden states."""
        return self.walked * self.hidden * BYTES

    @property
    def reconstruction_bytes(self) -> float:
        """Two copies, a block's units beside them, and matrices of the kept filters and of the stream."""
        units = max(self.kept, self.kept * self.filters / self.hidden)
        squares = max(self.kept * self.filters, self.hidden) ** 2
        return (2 + units) * self.copy + 6 * 8 * squares

    @property
    def least_bytes(self) -> float:
        """With states and units on disk: the matrices and a batch."""
        squares = max(self.kept * self.filters, self.hidden) ** 2
        return 6 * 8 * squares + BATCH * self.tokens * (4 * self.hidden + 2 * self.filters) * BYTES

    @property
    def curvature_bytes(self) -> float:
        """Factors, and the graph of a batch; it is run in parts where that does not fit."""
        factors = 8 * (self.layers * (3 * self.hidden**2 + self.filters**2) + 2 * self.filters**2)
        graph = self.layers * self.tokens * (8 * self.hidden + 2 * self.filters) * BYTES
        return factors + BATCH * graph

    @property
    def forward(self) -> float:
        """Operations of a layer on one token."""
        return 2 * (4 * self.hidden**2 + 2 * self.hidden * self.filters) + 4 * self.tokens * self.hidden

    @property
    def curvature_operations(self) -> float:
        """A pass forward, one back to the activations, and upper triangles of the second moments."""
        a_token = 2 * self.forward + 3 * self.hidden**2 + self.filters**2
        return min(self.samples, EXAMPLES) * self.tokens * self.layers * a_token

    @property
    def removal_operations(self) -> float:
        """A step subtracts a product of rank ``filters / STEPS`` from what is left, which shrinks."""
        columns = sum(self.filters * (1 - step / STEPS) for step in range(STEPS)) * self.filters
        return self.layers * 2 * (self.filters / STEPS) * columns + self.layers * 2 * self.filters**3

    @property
    def reconstruction_operations(self) -> float:
        """Both models once, and each system's moments, output projections on all tokens, others on enough."""
        heads, filters = self.kept * self.hidden, self.kept * self.filters
        enough = min(1.0, 2 * TOKENS_PER_INPUT * self.hidden / self.walked)
        writes = heads**2 + filters**2 + 2 * (heads + filters) * self.hidden
        reads = 2 * enough * 3 * self.hidden**2  # ahead of attention and of the FFN: gram, and cross to the stream
        return self.walked * self.layers * ((1 + self.kept) * self.forward + writes + reads)


SHAPES = (
    Shape("MiniLM-L6", 6, 384, 1536, 2048, 53, 0.4),
    Shape("MiniLM-L6", 6, 384, 1536, 2048, 128),
    Shape("BERT-base", 12, 768, 3072, 2048, 64),
    Shape("BERT-base", 12, 768, 3072, 2048, 128),
    Shape("BERT-base", 12, 768, 3072, 2048, 384, every_token=True),
    Shape("BERT-base, default sample", 12, 768, 3072, 512, 384, every_token=True),
    Shape("BERT-large", 24, 1024, 4096, 2048, 128),
    Shape("BERT-large, default sample", 24, 1024, 4096, 512, 384, every_token=True),
)


def main() -> None:
    print("| shape | samples x tokens | copy | reconstruction | least | curvature | operations | removal | walk |")
    print("|---|---|---|---|---|---|---|---|---|")
    for one in SHAPES:
        sizes = (one.copy, one.reconstruction_bytes, one.least_bytes, one.curvature_bytes)
        work = (one.curvature_operations, one.removal_operations, one.reconstruction_operations)
        cells = [f"{size / GIB:.2f} GiB" for size in sizes] + [f"{count / 1e12:.2f} T" for count in work]
        print(f"| {one.name} | {one.samples:,} x {one.tokens} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
