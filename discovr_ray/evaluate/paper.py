"""What the paper reports (Mishra et al., NeurIPS 2025, arXiv 2506.11777), and what it leaves open about how.

Numbers are in the units of our metrics: F1, balanced accuracy and Dice as shares of 1, errors in percent of ejection
fraction.
"""

from __future__ import annotations

from typing import NamedTuple


class Reported(NamedTuple):
    probe: str  # as in evaluate.probes, or the task's name
    metric: str
    data_set: str
    value: float
    about: str = ""


REPORTED = (
    Reported("knn", "macro_f1", "EchoNet-Dynamic", 0.6145),
    Reported("knn", "balanced_accuracy", "EchoNet-Dynamic", 0.6320),
    Reported("knn", "macro_f1", "RVENet", 0.5388),
    Reported("knn", "macro_f1", "EchoPediatric-LVH", 0.5463),
    Reported("knn", "macro_f1", "FetalEcho-1", 0.6179),
    Reported("knn", "macro_f1", "FetalEcho-2", 0.5669),
    Reported("linear", "macro_f1", "EchoNet-Dynamic", 0.7763),
    Reported("linear", "macro_f1", "FetalEcho-2", 0.6359),
    Reported("linear", "macro_f1", "RVENet", 0.6265),
    Reported("ridge", "mae", "EchoNet-Dynamic", 7.79, "linear probe"),
    Reported("fine_tuning", "mae", "EchoNet-Dynamic", 6.32, "last three blocks tuned"),
    Reported("segmentation", "dice", "CAMUS", 0.844, "frozen encoder, linear head"),
    Reported("knn", "macro_f1", "EchoNet-Dynamic", 0.4823, "without semantic cluster distillation"),
    Reported("knn", "macro_f1", "EchoNet-Dynamic", 0.5752, "ViT-S"),
    Reported("knn", "macro_f1", "EchoNet-Dynamic", 0.5298, "50 % masks"),
    Reported("knn", "macro_f1", "EchoNet-Dynamic", 0.5568, "16 frames"),
)
MAIN_DATA_SET = "EchoNet-Dynamic"


class Choice(NamedTuple):
    """A detail of the protocol that the paper leaves open, and what is done here."""

    question: str
    here: str


OPEN = (
    Choice(
        "Which videos are normal, and which label is asked",
        "a label of the manifest, or a threshold on a number, named on the command line; shown at the top of this page",
    ),
    Choice(
        "Bank and queries of kNN",
        "training split against test split; the reference code takes both from one list of files, three clips a video",
    ),
    Choice(
        "Number of neighbours and temperature of kNN",
        "settings, fixed before the test split is looked at: by default 20 neighbours and temperature 0.07, the "
        "values of Wu et al. (CVPR 2018) and of DINO's evaluation; neither is tuned",
    ),
    Choice(
        "Clips of a video",
        "several temporal clips, evenly spread, their features averaged: one row, one vote a video",
    ),
    Choice(
        "Regularisation of the linear probe",
        "L2 logistic regression on standardised features, C from 1e-5 to 1e3 by macro F1 on the validation split, "
        "classes weighted alike",
    ),
    Choice(
        "Threshold of anomaly detection",
        "the one with the best macro F1 on the validation split; AUROC and average precision need none",
    ),
    Choice("Head of the ejection fraction", "ridge, alpha by MAE on the validation split; and a small MLP beside it"),
    Choice(
        "Segmentation: head, loss, size of the frames and which frames",
        "one linear layer with a bias for each place, scores enlarged (bilinear) to the encoder's frame, "
        "cross-entropy; the clip around each outlined frame, and of it the tubelet with the frame; weight decay and "
        "steps by Dice on the validation split",
    ),
    Choice(
        "Intervals",
        "the paper gives none; here 95 % percentile bootstrap over test patients, seeded, same draws for all",
    ),
    Choice("Averaging of F1", "macro: the mean over classes, whatever their size"),
)


def reported(probe: str, metric: str) -> Reported | None:
    """The paper's main number for a probe, on its main data set."""
    of_probe = (item for item in REPORTED if (item.probe, item.metric, item.data_set) == (probe, metric, MAIN_DATA_SET))
    return next(of_probe, None)
