"""What is wrong, or may be, with a data set, in plain words."""

from __future__ import annotations

from discovr_ray.report.data_facts import NONE, DataFacts, Overlap
from discovr_ray.report.data_samples import NEAR, Looked
from discovr_ray.report.health import Finding, Level

MANY = 0.1  # share of clips from which on something deserves a look
SPLITS = ("TRAIN", "VAL", "TEST")
MAX_NAMED = 5


def findings(facts: DataFacts, looked: Looked) -> list[Finding]:
    """Worst first."""
    found = [
        _patients(facts),
        _contents(facts),
        _repeated(facts),
        _near(facts, looked),
        _broken(looked),
        _splits(facts),
        *_classes(facts),
        _short(facts),
        *_rejected(facts),
    ]
    order: list[Level] = ["bad", "watch", "good"]
    return sorted(found, key=lambda finding: order.index(finding.level))


def _examples(overlap: Overlap) -> str:
    shown = "; ".join(", ".join(group) for group in overlap.examples)
    return f" {'All' if overlap.groups <= len(overlap.examples) else 'Some'} of them: {shown}." if shown else ""


def _patients(facts: DataFacts) -> Finding:
    title, scale = "Patients in several splits", "all rows, by patient_id"
    overlap = facts.patients_in_splits
    if overlap.groups:
        text = "The model is tested on hearts that it was trained on, so its figures say too much; split by patient."
        return Finding("bad", title, f"{overlap.groups:,}", scale, text + _examples(overlap))
    if not facts.num_patients:
        return Finding("watch", title, "unknown", scale, "The manifest names no patient, so nobody can tell.")
    text = "Every patient is in one split."
    if facts.num_patients == facts.num_clips:
        text += " Every clip counts as a patient of its own, though: make sure that this is so."
    return Finding("good", title, "0", scale, text)


def _contents(facts: DataFacts) -> Finding:
    title, scale = "Equal files in several splits", "all rows, by SHA-256"
    overlap = facts.contents_in_splits
    if overlap.groups:
        text = "The same recording is in several splits."
        return Finding("bad", title, f"{overlap.groups:,}", scale, text + _examples(overlap))
    return Finding("good", title, "0", scale, "No file is in two splits.")


def _repeated(facts: DataFacts) -> Finding:
    title, scale = "Equal files", "all rows, by SHA-256"
    overlap = facts.equal_contents
    if overlap.groups:
        text = (
            f"{overlap.clips:,} clips have only {overlap.groups:,} different contents, so these count more than others."
        )
        return Finding("watch", title, f"{overlap.clips:,}", scale, text + _examples(overlap))
    return Finding("good", title, "0", scale, "Every file is there once.")


def _near(facts: DataFacts, looked: Looked) -> Finding:
    title = "Near-duplicates"
    scale = f"among {looked.num_clips:,} of {facts.num_clips:,} clips, chosen by hash; distance at most {NEAR:g}"
    across = [pair for pair in looked.pairs if len(set(pair.splits)) > 1 and NONE not in pair.splits]
    value = f"{len(looked.pairs):,}"
    if not looked.num_clips:
        return Finding("watch", title, "not searched", scale, "No clip was opened.")
    if across:
        first = across[0]
        shown = ", ".join(f"{clip} ({split})" for clip, split in zip(first.clips, first.splits, strict=True))
        text = f"{len(across):,} pair(s) of clips that look alike are in different splits, such as {shown}."
        return Finding("bad", title, value, scale, text)
    if looked.pairs:
        text = "Pairs of clips look alike within a split; see the table below whether they are copies of one recording."
        return Finding("watch", title, value, scale, text)
    text = "No two clips that were opened look alike."
    if looked.num_clips < facts.num_clips:
        return Finding("watch", title, "0 in a sample", scale, f"{text} The others were not compared (--sample).")
    return Finding("good", title, value, scale, text)


def _broken(looked: Looked) -> Finding:
    title, value = "Clips that cannot be opened", f"{len(looked.broken):,}"
    scale = f"of {looked.num_clips:,} clips, and those that are shown"
    if looked.broken:
        text = "Files have changed or are gone since the manifest was made; see the list below."
        return Finding("bad", title, value, scale, text)
    return Finding("good", title, value, scale, "Every clip that was opened is what the manifest says.")


def _splits(facts: DataFacts) -> Finding:
    title, scale = "Splits", "all rows"
    value = ", ".join(f"{split} {count:,}" for split, count in facts.splits.items())
    empty = [split for split in SPLITS if not facts.splits.get(split)]
    if len(empty) == len(SPLITS):
        return Finding("watch", title, value, scale, "No clip has a split; data.split must be empty to use them.")
    if empty:
        return Finding("watch", title, value, scale, f"No clip is in {' or '.join(empty)}.")
    without = facts.splits.get(NONE, 0)
    if without:
        return Finding("watch", title, value, scale, f"{without:,} clips are in no split, so nothing uses them.")
    return Finding("good", title, value, scale, "Each split has clips.")


def _classes(facts: DataFacts) -> list[Finding]:
    """One finding per label whose values are not in every split that has clips."""
    splits = [split for split in SPLITS if facts.splits.get(split)]
    found = []
    for label, values in facts.classes.items():
        lacking = [
            f"{value} in {' and '.join(missing)}"
            for value, counts in values.items()
            if (missing := [split for split in splits if not counts.get(split)])
        ]
        if lacking and len(values) > 1:
            more = f" and {len(lacking) - MAX_NAMED} more" if len(lacking) > MAX_NAMED else ""
            text = f"There is no clip with {'; '.join(lacking[:MAX_NAMED])}{more}."
            found.append(Finding("watch", f"Classes of {label}", f"{len(lacking)} empty", "all rows", text))
    return found


def _short(facts: DataFacts) -> Finding:
    share = facts.short_clips / max(facts.num_clips, 1)
    title, value, scale = "Short clips", f"{share:.0%}", "share of clips on which a window does not fit, all rows"
    window = f"the window of {facts.window_frames} frames at its stride"
    if share >= MANY:
        text = f"{facts.short_clips:,} clips are shorter than {window}: data.short_clip decides what happens to them."
        return Finding("watch", title, value, scale, text)
    return Finding("good", title, value, scale, f"{facts.short_clips:,} clips are shorter than {window}.")


def _rejected(facts: DataFacts) -> list[Finding]:
    if facts.rejected is None:
        return []
    count = sum(facts.rejected.values())
    share = count / max(count + facts.num_clips, 1)
    level: Level = "watch" if share >= MANY else "good"
    text = f"Ingest left out {count:,} of {count + facts.num_clips:,} files; the reasons are below."
    return [Finding(level, "Rejected files", f"{share:.0%}", "share of the files that ingest saw", text)]
