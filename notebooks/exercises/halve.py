"""Answer a batch in which some rows are bad, with few calls of predict."""

notebook = "02_fastapi"
minutes = 15
hints = [
    "Try all rows first: if no row is bad, that is all. What can you say about the rows when it fails?",
    "Which part of a failed batch holds the bad row? Try one half, then the other, by the same function.",
    "A function that calls itself needs an end: a batch of one row that fails is the bad row.",
]
MOST = 20


def stub(predict, rows):
    """Return the answer of each row; in the place of a bad row, the error."""
    return predict(rows)


def solution(predict, rows):
    """Halve a failed batch: of 64 rows, six halvings find the one that fails. A half without it takes one call.

    That is 13 calls instead of 64. If every row is bad it costs twice as many calls as rows, which is rare enough.
    """
    try:
        return list(predict(rows))
    except Exception as error:
        if len(rows) == 1:
            return [error]
        half = len(rows) // 2
        return halve(predict, rows[:half]) + halve(predict, rows[half:])


halve = solution  # by this name it calls itself in a notebook


def one_by_one(predict, rows):
    answers = []
    for row in rows:
        try:
            answers += predict([row])
        except Exception as error:
            answers.append(error)
    return answers


def one_by_one_if_it_fails(predict, rows):
    try:
        return predict(rows)
    except Exception:
        return one_by_one(predict, rows)


def all_fail(predict, rows):
    try:
        return predict(rows)
    except Exception as error:
        return [error] * len(rows)


def left_out(predict, rows):
    try:
        return predict(rows)
    except Exception:
        half = len(rows) // 2
        return left_out(predict, rows[:half]) + left_out(predict, rows[half:]) if len(rows) > 1 else []


wrong = [
    (one_by_one, "no bad row took"),
    (one_by_one_if_it_fails, "one bad row took"),
    (all_fail, "the error of another"),
    (left_out, "63 answers"),
]


def check(halve):
    answers, calls = run(halve, 64, bad=())
    if answers != list(range(0, 640, 10)):
        return f"64 good rows got these answers: {str(answers)[:60]}."
    if calls > 1:
        return f"64 rows and no bad row took {calls} calls: one is enough."
    for bad in ((0,), (37,), (63,), (5, 6), range(64)):
        answers, calls = run(halve, 64, bad)
        if len(answers) != 64:
            return f"64 rows, {len(bad)} of them bad, got {len(answers)} answers: clients would get those of others."
        for row, answer in enumerate(answers):
            failed = isinstance(answer, Exception)
            if row in bad and not failed:
                return f"row {row} is bad, but its answer is {answer!r}."
            if row not in bad and failed:
                return f"row {row} is good, but got the error of another."
            if not failed and answer != 10 * row:
                return f"row {row} got {answer!r}, which is the answer of another row."
        if len(bad) == 1 and calls > MOST:
            return f"64 rows with one bad row took {calls} calls: at most {MOST} are enough."
    answers, calls = run(halve, 1, bad=(0,))
    return "" if isinstance(answers[0], Exception) else "one bad row alone has to give its error."


def run(halve, count, bad):
    """Return the answers to so many rows, and how many calls they took."""
    calls = []

    def predict(rows):
        calls.append(len(rows))
        if not rows or len(calls) > 500:
            raise RuntimeError("predict was called without rows, or without end")
        if found := set(rows) & set(bad):
            raise ValueError(f"bad rows: {len(found)}")
        return [10 * row for row in rows]

    return list(halve(predict, list(range(count)))), len(calls)
