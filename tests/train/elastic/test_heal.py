"""A member that comes late has all the others have: what the guard saw and goes back to, the average, the best weights."""


def test_a_newcomer_has_the_whole_state_of_a_run_without_faults(stage, fault_free):
    """It comes after the copy and before the spikes, and ends the run alone: what is published is its own.

    So the losses that a spike is judged by, the copy gone back to, the average and the best weights must be those of the other.
    """
    settings = {"steps": 70, "task": "spiky", "keeps": True}
    free = fault_free(**settings)
    assert [line["step"] for line in free.lines if line["skipped"]] == [50, 51, 52, 53]
    assert free.lines[53]["back"] == 30
    run = stage(**settings, gate=43, pause_s=0.03).open(2)
    first, second = run.join(), run.join()
    run.until_step(35)
    run.kill(second)
    newcomer = run.join()
    run.until(lambda: (run.folder / f"ready-{newcomer}").exists())
    run.until_step(44)
    (run.folder / "go").touch()
    run.until(lambda: any(line["step"] > 43 and line["members"] == 2 for line in run.lines()))
    run.kill(first)
    run.ends_as(free, tolerance=40 * 1e-5)  # spikes are so many times as high
    lines = run.lines()
    assert lines[53]["back"] == 30 and lines[-1]["members"] == 1, run.log()
