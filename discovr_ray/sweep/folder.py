"""Names in a sweep's folder and in its Optuna study. The engine writes them, the report reads them.

<storage_path>/<name>/
    sweep.yaml          the resolved sweep; a password of its storage stands as ***
    sweep.db            the Optuna study, unless `storage` is the URL of another database
    trials/00003/       run folder of trial 3, as of any pretraining
    report.html  best.yaml
"""

from __future__ import annotations

from discovr_ray.data import storage

SWEEP_FILE = "sweep.yaml"
DATABASE_FILE = "sweep.db"
TRIALS_FOLDER = "trials"
REPORT_FILE = "report.html"
BEST_FILE = "best.yaml"

# of the study
OBJECTIVES = "objectives"  # user attribute: names of the figures that are maximised, in the order of a trial's values
RUNGS = "rungs"  # user attribute: optimiser steps at which trials are compared; the last one is a whole trial
FINGERPRINT = "fingerprint"  # user attribute: part of the sweep -> hash; see study.fingerprints
# of a trial, whose parameters are named section.field
WHY = "why"  # user attribute: how it ended, in words
STOPPED_EARLY = "ASHA"  # WHY begins with it when others were better at a rung
STEPS = "steps"  # user attribute: optimiser steps that it was trained for
SECONDS = "seconds"  # user attribute: time that it took, all tries together


def run_name(number: int) -> str:
    """Of trial `number`: its folder in TRIALS_FOLDER."""
    return f"{number:05d}"


def trial_folder(folder: str, number: int) -> str:
    """Run folder of trial `number` of the sweep in `folder`."""
    return storage.join(folder, TRIALS_FOLDER, run_name(number))


def database_url(folder: str, database: str) -> str:
    """Of the study: `database`, or the sweep's own file where that is ""."""
    return database or f"sqlite:///{storage.join(folder, DATABASE_FILE)}"
