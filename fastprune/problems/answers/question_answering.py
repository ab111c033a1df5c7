"""The best span over all windows of each context, by the rule of the evaluation, and its score."""

COLUMNS = ("question", "context")
EXAMPLE = ("Who pruned it?", "It was pruned by the gardener.")
OUTPUTS = {"answer": "string", "score": "double"}


def answer(served, rows):
    answers, _, _ = served.inputs.best_answers(served, rows)
    texts, best = zip(*answers)
    return {"answer": texts, "score": best}
