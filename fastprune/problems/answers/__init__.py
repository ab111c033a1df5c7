"""How each problem's model answers where it is served: copied beside the model, and run without fastprune.

A file has ``COLUMNS``, the columns that are read (empty: one text, or the pair ``text`` and ``text_pair``);
``EXAMPLE``, a row of them; ``OUTPUTS``, the columns of the answers with their types; and ``answer(served, rows)``,
these columns for some rows of texts. ``served`` is :class:`fastprune.releases.pyfunc_model.PrunedModel`: its ``config``
and ``tokenizer``, ``encode(rows)``, and ``run(encoded)``, whose outputs are numpy arrays. A file needs numpy alone.

It may have ``CELL``, the type of the columns in MLflow's signature (``string`` by default); ``reader(folder)``, what a
model's folder has in the place of a tokenizer; ``cell(inputs, value)``, what ``answer`` gets of a cell (``ValueError``
says in words why a cell is not taken); and ``PACKAGES``, more of those that it runs with.
"""
