"""The page of a sweep, made from a real study and real runs: what it draws, chooses, and says when there is little."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import plotly.graph_objects
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from page_reader import CHROMIUM, Page, drawn_page, screenshot
from trained_trials import METRIC, MOMENTUM, RUNGS, WEIGHT, K, make_sweep

from discovr_ray.config import load_config
from discovr_ray.errors import SweepError
from discovr_ray.report.sweep_best import full_run
from discovr_ray.report.sweep_importance import importances
from discovr_ray.report.sweep_report import write_sweep_report
from discovr_ray.report.sweep_surfaces import contour
from discovr_ray.report.sweep_trials import (
    Field,
    Objective,
    SweepResults,
    SweepTrial,
    fair_comparison,
    outcome_of,
    pareto_front,
    space_of,
    values_of,
)
from discovr_ray.sweep.folder import database_url, trial_folder

FINISHED, STOPPED = [0, 3, 6, 8, 9], [1, 4, 7, 10]  # 2 failed, 5 diverged, 11 is running


@pytest.fixture(scope="module")
def sweep_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sweep(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def page(sweep_folder: Path) -> Page:
    return Page(write_sweep_report(str(sweep_folder)))


def study_of(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="three", storage=database_url(str(folder), ""))


def test_the_page_tells_the_sweep(page: Page) -> None:
    assert "three" in page.text
    for kind, count in (("Finished", 5), ("Stopped early", 4), ("Diverged", 1), ("Failed", 1), ("Running", 1)):
        assert f"{kind}\n{count}\n" in page.text
    assert "failed: NonFiniteError: loss is nan <b>" in page.text
    assert "ASHA: at step 20, 3 of 4 others were better" in page.text
    assert not any(tag == "b" for tag, _ in page.tags), "text of the study is escaped"
    for tag, values in page.tags:
        for name in ("src", "href"):
            target = values.get(name)
            assert not target or target.startswith(("data:", "#")), (tag, target)


def test_the_figures_hold_the_trials(page: Page, sweep_folder: Path) -> None:
    for figure in page.figures.values():
        plotly.graph_objects.Figure(figure)  # refuses unknown properties and values
        assert figure["data"]
        assert all(trace["x"] and len(trace["x"]) == len(trace["y"]) for trace in figure["data"] if "z" not in trace)
    trials = study_of(sweep_folder).trials
    finished, stopped, diverged, best = page.figures["history-0"]["data"]
    assert finished["x"] == FINISHED
    assert finished["y"] == [trials[number].value for number in FINISHED]
    assert stopped["x"] == STOPPED
    assert (diverged["x"], diverged["y"]) == ([5], [0.0])
    assert best["y"][-1] == max(finished["y"])
    curves = page.figures[f"learning-{METRIC}"]["data"]
    assert len(curves) == 12
    assert {
        trace["opacity"] < 1 for trace in curves if trace["legendgroup"] in ("stopped early", "failed", "diverged")
    } == {True}
    assert {trace["opacity"] for trace in curves if trace["legendgroup"] in ("finished", "best")} == {1.0}
    assert sorted(trace["x"][-1] for trace in curves) == [20] * 4 + [30, 40] + [60] * 6
    assert sum(trace["showlegend"] for trace in curves) == 6, "one of each kind"
    assert len(page.figures["parallel-0"]["data"]) == 10
    for name in (K, MOMENTUM, WEIGHT):
        sliced = page.figures[f"slice-0-{name}"]["data"]
        assert sum(len(trace["x"]) for trace in sliced) == 10
    assert page.figures[f"slice-0-{WEIGHT}"]["data"][-1]["x"][0] == pytest.approx(math.log10(trials[0].params[WEIGHT]))
    assert page.figures[f"slice-0-{K}"]["layout"]["xaxis"]["ticktext"] == ["32", "64", "128"]
    assert sum(name.startswith("contour-0-") for name in page.figures) == 3


def test_the_table_has_every_trial_and_why_it_ended(page: Page) -> None:
    table = page.source[page.source.index('id="trials"') :]
    assert table.count("<tr>") == 13
    assert table.count("<td>stopped early</td>") == 4
    assert "0:01:07" in table, "65 seconds and its number"


def test_the_best_configuration_is_ready_to_run(page: Page, sweep_folder: Path) -> None:
    trials = study_of(sweep_folder).trials
    number = max(FINISHED, key=lambda place: trials[place].value or 0)
    best = load_config(sweep_folder / "best.yaml")
    own = load_config(Path(trial_folder(str(sweep_folder), number)) / "config.yaml")
    assert best.loss.w_scd == pytest.approx(trials[number].params[WEIGHT])
    assert (own.schedule.max_steps, best.schedule.max_steps) == (RUNGS[-1], 0), "trained in full"
    assert (best.run.name, best.run.storage_path) == ("three-best", str(sweep_folder.parent))
    assert {**best.to_dict(), "run": {}, "schedule": {}} == {**own.to_dict(), "run": {}, "schedule": {}}
    shared = {"data": {"max_decode_cpus": 0.5, "decode_cpus": 0.5}}
    assert full_run(shared, made([]), "best")["data"]["max_decode_cpus"] == 0, "the sweep's limit of one trial of many"
    assert f"Trial {number} is the best of 5 finished trials" in page.text
    (command,) = [line for line in page.text.splitlines() if line.startswith("python jobs/pretrain.py")]
    assert command == f"python jobs/pretrain.py --config {sweep_folder / 'best.yaml'}"


def test_importances_stand_with_their_intervals(page: Page) -> None:
    bars = {name: figure["data"][0] for name, figure in page.figures.items() if name.startswith("importance-")}
    assert list(bars) == ["importance-0-0", "importance-0-1"]
    assert "All trials after 20 steps (10)." in page.text
    assert "All whole trials (6)." in page.text
    for bar in bars.values():
        assert sorted(bar["y"]) == sorted([K, MOMENTUM, WEIGHT])
        assert sum(bar["x"]) == pytest.approx(1.0)
        assert max(bar["error_x"]["array"]) > 0


# ---- made in memory, by hand


def made(trials: list[SweepTrial], maximise: tuple[bool, ...] = (True,), rungs: tuple[int, ...] = ()) -> SweepResults:
    space: dict[str, Any] = {"a": FloatDistribution(0.0, 1.0), "b": FloatDistribution(0.01, 100.0, log=True)}
    goals = tuple(Objective(f"goal{place}", more) for place, more in enumerate(maximise))
    fields = (Field("a", False, ()), Field("b", True, ()))
    return SweepResults("made", "/made", rungs, goals, fields, space, trials)


def trial(number: int, *values: float, outcome: Any = "finished", **more: Any) -> SweepTrial:
    params = more.pop("params", {"a": 0.5, "b": 1.0})
    return SweepTrial(number, outcome, params, values, more.pop("rungs", {}), "", 10, 1.0, [])


def test_a_stopped_trial_is_never_the_best() -> None:
    sweep = made(
        [trial(0, 0.5), trial(1, 0.9, outcome="stopped"), trial(2, 0.7), trial(3, 0.7), trial(4, outcome="failed")]
    )
    assert [best.number for best in pareto_front(sweep)] == [2]
    assert [best.number for best in pareto_front(sweep._replace(objectives=(Objective("loss", False),)))] == [0]
    assert pareto_front(made([trial(1, 0.9, outcome="stopped")])) == []


def test_the_pareto_front_is_what_nobody_beats() -> None:
    values = [(0.9, 1.0), (0.8, 2.0), (0.7, 1.5), (0.5, 3.0), (0.9, 0.5)]
    front = pareto_front(made([trial(number, *pair) for number, pair in enumerate(values)], (True, True)))
    assert [best.number for best in front] == [0, 1, 3]
    front = pareto_front(made([trial(number, *pair) for number, pair in enumerate(values)], (True, False)))
    assert [best.number for best in front] == [4]


def test_stopped_trials_are_compared_at_the_first_rung() -> None:
    trials = [
        trial(0, 0.9, rungs={10: 0.2, 30: 0.7}),
        trial(1, 0.4, outcome="stopped", rungs={10: 0.4}),
        trial(2, 0.0, outcome="diverged"),
        trial(3, outcome="failed", rungs={10: 0.3}),
    ]
    compared = fair_comparison(made(trials, rungs=(10, 30, 90)), 0)
    assert compared.words == "all trials after 10 steps"
    assert [one.values for one in compared.trials] == [(0.2,), (0.4,), (0.0,)]
    elsewhere = fair_comparison(made(trials, rungs=(20, 30)), 0)
    assert "each after its own steps" in elsewhere.words
    assert [one.values for one in elsewhere.trials] == [(0.9,), (0.4,), (0.0,)]
    assert fair_comparison(made(trials[:1]), 0).words == "all whole trials"


def test_the_field_that_decides_is_told_from_the_one_that_does_not() -> None:
    draws = np.random.default_rng(5).random((24, 2))
    trials = [
        trial(number, float(exponent), params={"a": float(a), "b": float(100 ** (2 * exponent - 1))})
        for number, (a, exponent) in enumerate(draws)
    ]
    first, second = importances(made(trials), trials, 0)
    assert (first.field, second.field) == ("b", "a")
    assert first.share > 0.9  # the value is the logarithm of b alone
    assert second.high < first.low
    assert importances(made(trials), trials[:5], 0) == [], "too few"
    assert importances(made(trials), [one._replace(values=(1.0,)) for one in trials], 0) == [], "nothing to explain"


def test_a_contour_is_exact_for_a_plane_and_empty_outside_of_the_trials() -> None:
    corners = [(0.0, 0.01), (1.0, 0.01), (0.0, 100.0)]
    trials = [trial(n, 3 * a + math.log10(b), params={"a": a, "b": b}) for n, (a, b) in enumerate(corners)]
    sweep = made(trials)
    figure = contour(sweep, trials, *sweep.fields, 0)
    assert figure is not None
    filled, marks = figure["data"]
    assert filled["z"][10][20] == pytest.approx(3 * filled["x"][20] + filled["y"][10], abs=1e-5)  # rounded to 6 digits
    assert filled["z"][-1][-1] is None
    assert marks["y"] == pytest.approx([-2, -2, 2])
    on_a_line = [trial(n, n, params={"a": n / 4, "b": 10.0**n}) for n in range(3)]
    assert contour(made(on_a_line), on_a_line, *sweep.fields, 0) is None


def test_states_and_values_as_optuna_keeps_them() -> None:
    place = {"params": {"k": 3}, "distributions": {"k": IntDistribution(1, 4)}}
    complete = create_trial(value=0.5, **place)
    assert (outcome_of(complete, 60, 60), outcome_of(complete, 40, 60)) == ("finished", "diverged")
    pruned = create_trial(state=TrialState.PRUNED, intermediate_values={10: 0.2, 30: 0.3}, **place)
    assert (outcome_of(pruned, 30, 60), values_of(pruned)) == ("stopped", (0.3,))
    assert values_of(create_trial(value=math.inf, **place)) == ()
    assert outcome_of(create_trial(state=TrialState.WAITING), 0, 60) == "waiting"
    wider = create_trial(value=0.1, params={"k": 9}, distributions={"k": IntDistribution(1, 16)})
    assert space_of([complete, wider]) == {"k": IntDistribution(1, 16)}


# ---- little, nothing, and what is no sweep


def test_several_objectives_get_a_front_and_a_file_for_each_trial_on_it(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, 5, (METRIC, "clips_per_s"))
    (folder / "best-99.yaml").write_text("of a trial that was on an earlier front\n")
    page = Page(write_sweep_report(str(folder)))
    assert "Which of them is best is for you to say" in page.text
    front = page.figures["pareto"]["data"][-1]
    files = sorted(path.name for path in folder.glob("best*.yaml"))
    assert files == [f"best-{number.strip()}.yaml" for number in front["text"]]
    assert {load_config(folder / name).run.name for name in files} == {f"three-{name[:-5]}" for name in files}
    assert {"history-0", "history-1", f"slice-1-{K}"} <= page.figures.keys()


def test_a_young_sweep_says_what_is_missing(tmp_path: Path) -> None:
    empty = Page(write_sweep_report(str(make_sweep(tmp_path / "empty", 0))))
    assert "No trial has finished with a value yet (no trial has begun)" in empty.text
    assert empty.figures == {}
    folder = make_sweep(tmp_path / "young", 2)
    young = Page(write_sweep_report(str(folder)))
    assert "There are 2 trials with a value; below 6 importances would say nothing" in young.text
    assert "3 of 3 pairs are not drawn" in young.text
    (Path(trial_folder(str(folder), 0)) / "config.yaml").unlink()
    (folder / "best.yaml").unlink()
    assert "No config.yaml is left of trial 0" in Page(write_sweep_report(str(folder))).text
    assert not (folder / "best.yaml").exists()


def test_what_is_no_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"no sweep: it has no sweep\.yaml"):
        write_sweep_report(str(tmp_path))
    (tmp_path / "sweep.yaml").write_text("- 1")
    with pytest.raises(SweepError, match="must hold the fields"):
        write_sweep_report(str(tmp_path))
    (tmp_path / "sweep.yaml").write_text("name: other")
    with pytest.raises(SweepError, match=r"has no sweep\.db"):
        write_sweep_report(str(tmp_path))
    optuna.create_study(storage=database_url(str(tmp_path), ""), study_name="three")
    with pytest.raises(SweepError, match="has no study 'other'"):
        write_sweep_report(str(tmp_path))
    (tmp_path / "sweep.db").write_bytes(b"no database" * 100)
    with pytest.raises(SweepError, match="cannot be used"):
        write_sweep_report(str(tmp_path))
    (tmp_path / "sweep.yaml").write_text("{name: other, storage: 'postgresql://me:***@127.0.0.1:1/study'}")
    with pytest.raises(SweepError, match="needs its password"):
        write_sweep_report(str(tmp_path))
    with pytest.raises(SweepError) as refused:
        write_sweep_report(str(tmp_path), "postgresql://me:hidden@127.0.0.1:1/study")
    assert "127.0.0.1:1/study" in str(refused.value)
    assert "hidden" not in str(refused.value)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on PATH")
def test_a_browser_draws_every_figure_of_the_sweep(page: Page, sweep_folder: Path, tmp_path: Path) -> None:
    uri = str(sweep_folder / "report.html")
    drawn = drawn_page(uri, tmp_path)
    assert drawn.count('class="scatterlayer') == 10
    assert drawn.count('class="barlayer') == 2
    assert len(page.figures) == 12
    assert drawn.count('class="contourlines') == 3
    pixels = screenshot(uri, tmp_path, 5000)
    for colour in ((31, 95, 168), (200, 80, 30)):  # finished trials, and the best
        assert (np.abs(pixels - colour).max(axis=-1) < 30).sum() > 1000, colour
