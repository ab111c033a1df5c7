"""The best span over all windows of each context, or an empty answer, and the score of what is answered."""

COLUMNS = ("question", "context")
EXAMPLE = ("Who pruned it?", "It was pruned by the gardener.")
OUTPUTS = {"answer": "string", "score": "double"}


def answer(served, rows):
    config = served.config
    answers, scores, owners = served.inputs.best_answers(served, rows)
    threshold = getattr(config, "null_score_diff_threshold", 0.0)
    for row in range(len(rows)):
        none = min(float(scores[window][:, 0].sum()) for window, owner in enumerate(owners) if owner == row)
        if none - answers[row][1] > threshold:
            answers[row] = ("", none)
    texts, best = zip(*answers)
    return {"answer": texts, "score": best}
