"""The parts of a sweep's page, with what is not there said in words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from discovr_ray.report.curves import Chart
from discovr_ray.report.section import Section, Table
from discovr_ray.report.sweep_best import BestConfig
from discovr_ray.report.sweep_charts import history, importance_bars, learning_curves, pareto, shown, slices
from discovr_ray.report.sweep_importance import INTERVAL, MIN_TRIALS, RESAMPLES, importances
from discovr_ray.report.sweep_surfaces import contour, parallel_coordinates
from discovr_ray.report.sweep_trials import (
    OUTCOMES,
    WORDS,
    Comparison,
    SweepResults,
    SweepTrial,
    fair_comparison,
    pareto_front,
)

MAX_PAIRED_FIELDS = 4  # six pairs
CHOICE = (
    "Trials that were stopped early are not in the choice: their values are those of fewer steps. Each trial was "
    "trained once, with one seed, so a part of the lead of the best is luck."
)


def outcome(sweep: SweepResults, best: Sequence[BestConfig]) -> Section:
    """What came out: the best configuration, or the Pareto front, and how to train it."""
    front = pareto_front(sweep)
    if not front:
        return Section("best", "Best configuration", [_why_none(sweep)])
    alone = len(sweep.objectives) == 1
    names = ", ".join(f"{goal.name} {value:.4g}" for goal, value in zip(sweep.objectives, front[0].values, strict=True))
    if alone:
        text = f"Trial {front[0].number} is the best of {_count(len(sweep.of('finished')), 'finished trial')}: {names}."
    else:
        text = (
            f"{_count(len(front), 'trial')} of {len(sweep.of('finished'))} finished ones that no other beats in one "
            "objective without losing in another: the Pareto front. Which of them is best is for you to say."
        )
    missing = [trial.number for trial in front if trial.number not in {item.trial.number for item in best}]
    paragraphs = [text, CHOICE]
    if missing:
        paragraphs.append(f"No config.yaml is left of {_named(missing)}, so there is no file to train.")
    if best:
        paragraphs.append("This trains it in full, to the end of its schedules:" if alone else "To train one in full:")
    title = "Best configuration" if alone else "Pareto front"
    commands = [item.command for item in best]
    charts = (
        []
        if alone
        else [Chart("pareto", "Objectives against each other", "The front is joined.", pareto(sweep), wide=True)]
    )
    return Section("best", title, paragraphs, tables=[_front_table(sweep, front)], charts=charts, commands=commands)


def _why_none(sweep: SweepResults) -> str:
    counts = [f"{len(found)} {WORDS[kind]}" for kind in OUTCOMES if (found := sweep.of(kind))]
    so_far = f"so far {', '.join(counts)}" if counts else "no trial has begun"
    return f"No trial has finished with a value yet ({so_far}), so there is nothing to choose from."


def _front_table(sweep: SweepResults, front: Sequence[SweepTrial]) -> Table:
    names = [field.name for field in sweep.fields]
    head = ["Trial", *(goal.name for goal in sweep.objectives), *names]
    rows = [[str(trial.number), *(f"{value:.4g}" for value in trial.values), *_cells(trial, names)] for trial in front]
    return Table(head, rows)


def progress(sweep: SweepResults) -> Section:
    """Values in the order of the trials, and how each trial learnt."""
    keys = [goal.name for goal in sweep.objectives]
    logged = [
        key for key in dict.fromkeys([*keys, "loss"]) if any(key in item for t in sweep.trials for item in t.records)
    ]
    charts = [
        Chart(f"history-{place}", f"History: {goal.name}", "In the order of the trials.", history(sweep, place))
        for place, goal in enumerate(sweep.objectives)
        if sweep.valued
    ]
    charts += [
        Chart(
            f"learning-{key}",
            f"Learning curves: {key}",
            "Stopped and failed trials are faded.",
            learning_curves(sweep, key),
        )
        for key in logged
    ]
    paragraphs = [] if charts else ["No trial has logged a step or has a value yet."]
    if len(sweep.rungs) > 1:
        steps = ", ".join(f"{rung:,}" for rung in sweep.rungs)
        paragraphs.insert(0, f"Trials are compared after these optimiser steps: {steps}. The last is a whole trial.")
    return Section("progress", "Progress", paragraphs, charts=charts)


def importance(sweep: SweepResults) -> Section:
    """Of as many trials as can be compared fairly and, if those did not train in full, of those that did."""
    whole = [trial for trial in sweep.of("finished", "diverged") if trial.values]
    charts = []
    for place, goal in enumerate(sweep.objectives):
        groups = [fair_comparison(sweep, place)]
        if len(whole) < len(sweep.valued):
            groups.append(Comparison("all whole trials", whole))
        for number, (words, trials) in enumerate(groups):
            found = importances(sweep, trials, place)
            if found:
                slug, note = f"importance-{place}-{number}", f"{words.capitalize()} ({len(trials)})."
                charts.append(Chart(slug, goal.name, note, importance_bars(found)))
    if not charts:
        reason = (
            f"There are {len(sweep.valued)} trials with a value; below {MIN_TRIALS} importances would say nothing."
            if len(sweep.valued) < MIN_TRIALS
            else "All values are the same, or no field was varied in all of these trials."
        )
        return Section("importance", "What mattered", [reason])
    low, high = INTERVAL
    paragraphs = [
        "Share of the variance of the values that goes with each field alone (fANOVA on a forest of trees), scaled to "
        f"a sum of 1. The line is the {high - low:.0f} % interval over {RESAMPLES} bootstrap samples of the trials; "
        "long lines that overlap say that there are too few trials to rank the fields.",
    ]
    conditional = [f.name for f in sweep.fields if any(f.name not in trial.params for trial in sweep.valued)]
    if conditional:
        paragraphs.append(f"Left out, as not every trial has them: {', '.join(conditional)}.")
    return Section("importance", "What mattered", paragraphs, charts=charts)


def relations(sweep: SweepResults) -> Section:
    """Parallel coordinates and slices."""
    complete = [trial for trial in sweep.valued if all(field.name in trial.params for field in sweep.fields)]
    if not sweep.valued or not sweep.fields:
        return Section("fields", "Fields and values", ["No trial has a value yet."])
    charts = []
    for place, goal in enumerate(sweep.objectives):
        if complete:
            note = "A line for each trial; the bluer, the better. Orange: the best. Pale: not trained in full."
            figure = parallel_coordinates(sweep, place)
            charts.append(Chart(f"parallel-{place}", f"All fields at once: {goal.name}", note, figure, wide=True))
        charts += [
            Chart(
                f"slice-{place}-{field.name}",
                f"{goal.name} over {field.name}",
                "Every trial; ringed: the best.",
                slices(sweep, field, place),
            )
            for field in sweep.fields
        ]
    return Section("fields", "Fields and values", charts=charts)


def pairs(sweep: SweepResults) -> Section:
    """Contours for each two fields, of the first fields where there are many."""
    fields = sweep.fields[:MAX_PAIRED_FIELDS]
    charts = []
    for place, goal in enumerate(sweep.objectives):
        compared = fair_comparison(sweep, place)
        for across, up in combinations(fields, 2):
            figure = contour(sweep, compared.trials, across, up, place)
            if figure:
                note = f"{compared.words.capitalize()}; orange: the best in the end."
                title = f"{goal.name}: {across.name}, {up.name}"
                slug = f"contour-{place}-{across.name}-{up.name}"
                charts.append(Chart(slug, title, note, figure))
    wanted = len(sweep.objectives) * len(list(combinations(fields, 2)))
    paragraphs = ["Between the trials values are interpolated; where there are no trials around, nothing is drawn."]
    if len(charts) < wanted:
        paragraphs.append(
            f"{wanted - len(charts)} of {wanted} pairs are not drawn: fewer than three trials, or all on one line."
        )
    if len(sweep.fields) > MAX_PAIRED_FIELDS:
        left = ", ".join(field.name for field in sweep.fields[MAX_PAIRED_FIELDS:])
        paragraphs.append(f"Pairs of the first {MAX_PAIRED_FIELDS} fields; without {left}.")
    if not wanted:
        paragraphs = ["Fewer than two fields were varied, so there are no pairs."]
    return Section("pairs", "Two fields at a time", paragraphs, charts=charts)


def all_trials(sweep: SweepResults) -> Section:
    if not sweep.trials:
        return Section("trials", "Trials", ["No trial has begun."])
    names = [field.name for field in sweep.fields]
    head = ["Trial", "State", *(goal.name for goal in sweep.objectives), *names, "Steps", "Time", "Why it ended"]
    rows = []
    for trial in sweep.trials:
        values = [f"{value:.4g}" for value in trial.values] or [""] * len(sweep.objectives)
        took = "" if trial.seconds is None else _duration(trial.seconds)
        steps = f"{trial.steps:,}"
        rows.append([str(trial.number), WORDS[trial.outcome], *values, *_cells(trial, names), steps, took, trial.why])
    numbers = frozenset({0, *range(2, len(head) - 1)})
    return Section("trials", "Trials", tables=[Table(head, rows, numbers)])


def _cells(trial: SweepTrial, names: Sequence[str]) -> list[str]:
    return [shown(trial.params[name]) if name in trial.params else "–" for name in names]


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def _named(numbers: Sequence[int]) -> str:
    return f"trial{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
