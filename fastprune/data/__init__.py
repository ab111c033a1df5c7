"""Tables, GLUE tasks and SQuAD, encoded for a model: reading, checking, sampling, batching."""

from fastprune.data.encoding import encode
from fastprune.data.splits import Split, collate, draw_sample, hold_out, make_batches, order_rows
from fastprune.data.tables import read_table
from fastprune.data.tasks import Task, glue_task, load_glue

__all__ = [
    "Split",
    "Task",
    "collate",
    "draw_sample",
    "encode",
    "glue_task",
    "hold_out",
    "load_glue",
    "make_batches",
    "order_rows",
    "read_table",
]
