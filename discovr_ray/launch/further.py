"""What an evaluation asks beside its probes, suite by suite."""

from __future__ import annotations

from discovr_ray.evaluate.fine_tuning import check_blocks
from discovr_ray.evaluate.outlines import read_labelled
from discovr_ray.launch import attentive, fine_tuning, robustness, segmentation_page
from discovr_ray.launch.evaluate import Further, Prepared
from discovr_ray.launch.segment import check_outlined


def further_for(prepared: Prepared) -> list[Further]:
    """Everything of the suite; what can be refused before a video is opened is refused here.

    Errors:
        EvaluationError, ManifestError, StorageError: outlines that cannot be used.
        ConfigError: more blocks are to be tuned than the encoder has.
    """
    if prepared.settings.suite == "quick":
        return []
    labelled = read_labelled(prepared.manifest, prepared.clips)
    if not isinstance(labelled, str):
        check_outlined(prepared.clips, labelled)
    check_blocks(prepared.embeddings["encoder"].encoder, prepared.settings.finetune_blocks)
    tuning = [Further(fine_tuning.NAME, fine_tuning.run_fine_tuning)] if prepared.settings.finetune_blocks else []
    return [
        *tuning,
        Further(attentive.NAME, attentive.run_attentive),
        Further(segmentation_page.NAME, segmentation_page.run_segmentation),
        Further(robustness.NAME, robustness.run_robustness),
    ]
