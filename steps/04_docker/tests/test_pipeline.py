"""The pipeline in containers does what it does without them."""

from load import DRAWING, Load, audit


def test_a_drawing_is_recognized_and_its_result_is_in_postgresql(stack):
    answer = stack.post(**DRAWING).json()
    assert (answer["prediction"], answer["stored"]) == ([3], "queued")
    with Load(stack, clients=4) as load:
        load.wait_for(100)
    found = audit(stack, load.answers)
    assert (found.failed, found.lost, found.doubled) == (0, 0, 0)
    assert found.acknowledged == found.answered >= 100
    assert stack.sql(f"SELECT prediction FROM results WHERE id = '{answer['id']}'") == [["3"]]
