"""A score, before any sigmoid."""

COLUMNS = ()
EXAMPLE = ()
OUTPUTS = {"score": "double"}


def answer(served, rows):
    return {"score": served.run(served.encode(rows)).logits[:, 0].astype(float)}
