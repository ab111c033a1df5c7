"""What a budget is a fraction of: MACs, or milliseconds by a look-up table."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastprune.errors import InputError
from fastprune.importance.selection import Importance
from fastprune.latency.lut import LatencyTable
from fastprune.latency.search import check_latency, search_latency, smallest_latency
from fastprune.model.architectures import Encoder
from fastprune.model.masks import Masks
from fastprune.search.mac_search import check_keep_ratio, search_macs
from fastprune.search.macs import MacModel
from fastprune.search.portable import filters_within_latency, filters_within_macs, search_portable
from fastprune.settings import Budget, Layout, Solver


@dataclass(frozen=True)
class Cost:
    """The cost model that a search works under.

    Attributes
    ----------
    macs : MacModel
    table : LatencyTable, optional
        With it the budget is latency; otherwise MACs.
    solver : {"exact", "piecewise"}
        See :func:`fastprune.latency.search.search_latency`.
    layout : {"free", "portable"}
        Which models are searched among, see :class:`fastprune.settings.Method`.
    """

    macs: MacModel
    table: LatencyTable | None = None
    solver: Solver = "exact"
    layout: Layout = "free"

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        seq_len: float,
        table: LatencyTable | None = None,
        solver: Solver = "exact",
        layout: Layout = "free",
    ) -> Cost:
        """Raises InputError for a table of another shape."""
        if table is not None:
            table.check_shape(encoder)
        return cls(MacModel.of(encoder, seq_len), table, solver, layout)

    def settle(self, budget: Budget) -> float:
        """The keep ratio to search at: the given one, or that of a budget in milliseconds.

        Raises
        ------
        InputError
            No model that keeps anything is within the budget, or the dense one is.
        """
        keep_ratio = budget.keep_ratio
        if budget.latency_ms is not None:
            if self.table is None:
                raise InputError("latency_ms needs a look-up table: make one with `fastprune profile`")
            dense = self.table.dense_ms(self.macs.num_layers)
            if budget.latency_ms >= dense:
                raise InputError(
                    f"latency_ms is {budget.latency_ms:.4g}, and the dense model is predicted to take no more "
                    f"than {dense:.4g} ms on {self.table.device}: there is nothing to prune"
                )
            keep_ratio = budget.latency_ms / dense
        if keep_ratio is None:
            raise InputError("max_accuracy_drop settles no keep ratio before the search for it")
        check_keep_ratio(keep_ratio)
        if self.layout == "portable":
            if keep_ratio < self.smallest:
                raise self._too_small(keep_ratio)
        elif self.table is not None:
            check_latency(self.table, self.macs.num_layers, keep_ratio)
        return keep_ratio

    @property
    def smallest(self) -> float:
        """No keep ratio below can be met."""
        layers, macs = self.macs.num_layers, self.macs
        if self.table is None:
            layer = macs.num_heads * (macs.per_head - macs.spared[0]) + macs.per_filter
            return layer / macs.total if self.layout == "portable" else 0.0
        least = smallest_latency(self.table, layers)
        if self.layout == "portable":
            least = self.table.overhead_ms + self.table.attention_ms[-1] + min(self.table.ffn_ms[1:])
        return least / self.table.dense_ms(layers)

    def search(self, importance: Importance, keep_ratio: float) -> Masks:
        """The best masks within ``keep_ratio``, by importance."""
        if self.layout == "portable":
            return self._search_portable(importance, keep_ratio)
        if self.table is None:
            return search_macs(importance.heads, importance.filters, self.macs, keep_ratio)
        return search_latency(importance.heads, importance.filters, self.table, keep_ratio, solver=self.solver)

    def _search_portable(self, importance: Importance, keep_ratio: float) -> Masks:
        check_keep_ratio(keep_ratio)
        macs, layers = self.macs, self.macs.num_layers
        if self.table is None:
            within = filters_within_macs(macs, keep_ratio * macs.total)
        else:
            within = filters_within_latency(self.table, layers, keep_ratio * self.table.dense_ms(layers))
        masks = search_portable(importance.heads, importance.filters, within, macs.places)
        if masks is None:
            raise self._too_small(keep_ratio)
        return masks

    def _too_small(self, keep_ratio: float) -> InputError:
        smallest = math.ceil(1e4 * self.smallest) / 1e4
        return InputError(
            f"keep_ratio {keep_ratio:.4g} cannot be met in layout portable: the smallest model, of one layer with all "
            f"heads and a filter, keeps {smallest:g}; give a greater budget, or use layout free"
        )

    def kept(self, masks: Masks) -> dict[str, float]:
        """Fractions of the dense model's cost that masks keep, by name."""
        kept = {"macs_kept": self.macs.kept(masks)}
        if self.table is not None:
            run = masks.of_kept_layers() if self.layout == "portable" else masks  # an empty layer takes some time
            kept["latency_kept"] = self.table.of_masks(run) / self.table.dense_ms(self.macs.num_layers)
        return kept

    @property
    def record(self) -> dict:
        """For a manifest."""
        if self.table is None:
            return {"constraint": "macs", "layout": self.layout}
        return {"constraint": "latency", "solver": self.solver, "layout": self.layout, "lut": self.table.key}
