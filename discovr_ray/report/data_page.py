"""Facts and samples of a data set -> one HTML page. It names clips; patients, addresses and files are not in it."""

from __future__ import annotations

from html import escape

from discovr_ray.report import tables
from discovr_ray.report.clips import animate
from discovr_ray.report.data_charts import count_charts, figure_charts
from discovr_ray.report.data_facts import DataFacts
from discovr_ray.report.data_samples import FRAME_MS, NEAR, Looked, Picture
from discovr_ray.report.health import Finding
from discovr_ray.report.page import charts, document, finding_cards

MAX_ROWS = 100
LEADS = {"bad": "There is something to repair before training.", "watch": "Points to look at:", "good": "All is well."}


def data_page(facts: DataFacts, looked: Looked, found: list[Finding], identity: str, written_at: str) -> str:
    """The whole page; `identity` says which manifest it is about."""
    sections = [
        ("health", "What to look at", f'<p class="lead">{LEADS[found[0].level]}</p>{finding_cards(found)}'),
        ("clips", "Sample clips", _clips(looked.pictures)),
        ("counts", "How many", charts(count_charts(facts)) + _splits(facts) + _texts(facts)),
        ("figures", "How long, how fast, how large", charts(figure_charts(facts)) + _sizes(facts)),
        ("pairs", "Near-duplicates", _pairs(facts, looked)),
        ("broken", "Clips that cannot be opened", _broken(looked)),
        ("rejected", "Rejected files", _rejected(facts)),
    ]
    footer = f"Written {escape(written_at)} from {escape(identity)}."
    return document("Data set – DISCOVR", _header(facts), sections, footer)


def _header(facts: DataFacts) -> str:
    items = [
        ("Clips", f"{facts.num_clips:,}"),
        ("Patients", f"{facts.num_patients:,}"),
        ("Hours of video", f"{facts.hours:,.2f}"),
        ("GiB", f"{facts.num_bytes / 2**30:,.2f}"),
        ("Views", f"{len(facts.views):,}"),
    ]
    cells = "".join(f"<div><dt>{title}</dt><dd>{text}</dd></div>" for title, text in items)
    return f'<h1>Data set</h1><p class="lead">What training will see</p><dl class="facts">{cells}</dl>'


def _clips(pictures: list[Picture]) -> str:
    if not pictures:
        return tables.note("No clip could be shown.")
    cards = "".join(
        f'<div class="clip"><h3>{escape(item.clip_id)}</h3><p class="note">{escape(item.caption)}</p>'
        f'<img src="{animate(item.frames, FRAME_MS)}" width="{item.frames.shape[2]}" height="{item.frames.shape[1]}" '
        f'alt="{escape(item.clip_id)}"></div>'
        for item in pictures
    )
    lead = "As the model sees them, at the heart's own speed: cut to the picture's region, black outside of the sector."
    return f'<p class="lead">{lead}</p><div class="clips small">{cards}</div>'


def _splits(facts: DataFacts) -> str:
    rows = [[escape(split), f"{count:,}", f"{facts.patients.get(split, 0):,}"] for split, count in facts.splits.items()]
    return tables.table(["Split", "Clips", "Patients"], rows, numbers={1, 2})


def _texts(facts: DataFacts) -> str:
    rows = [[escape(label), f"{count:,}"] for label, count in sorted(facts.texts.items())]
    return tables.table(["Label with many texts", "Different values"], rows, numbers={1}) if rows else ""


def _sizes(facts: DataFacts) -> str:
    rows = [[escape(size), f"{count:,}"] for size, count in facts.sizes.items()]
    return tables.table(["Most frequent sizes (height x width)", "Clips"], rows, numbers={1})


def _pairs(facts: DataFacts, looked: Looked) -> str:
    opened = (
        f"{looked.num_clips:,} of {facts.num_clips:,} clips were opened and compared, four frames of each. Found are "
        "copies that were re-encoded, resized, brightened, or shortened by a few frames; cropped ones are not. "
        "Equal files are searched among all rows, see above."
    )
    if not looked.pairs:
        return tables.note(opened) + tables.note("No two of them look alike.")
    rows = [
        [
            *(escape(f"{clip} ({split})") for clip, split in zip(pair.clips, pair.splits, strict=True)),
            f"{pair.distance:.2f}",
        ]
        for pair in looked.pairs[:MAX_ROWS]
    ]
    head = ["Clip", "Clip", f"Distance (at most {NEAR:g})"]
    return tables.note(opened) + tables.table(head, rows, numbers={2}) + _more(len(looked.pairs))


def _broken(looked: Looked) -> str:
    if not looked.broken:
        return tables.note("None of those that were opened.")
    rows = [[f"<code>{escape(item.clip_id)}</code>", escape(item.reason)] for item in looked.broken[:MAX_ROWS]]
    return tables.table(["Clip", "Reason"], rows, numbers=set()) + _more(len(looked.broken))


def _rejected(facts: DataFacts) -> str:
    if facts.rejected is None:
        return tables.note("There is no rejected.parquet beside the manifest.")
    if not facts.rejected:
        return tables.note("No file was rejected.")
    rows = [[escape(reason), f"{count:,}"] for reason, count in list(facts.rejected.items())[:MAX_ROWS]]
    legend = tables.note("# stands for a number, … for what a reason quotes; rejected.parquet has them in full.")
    return legend + tables.table(["Reason", "Files"], rows, numbers={1}) + _more(len(facts.rejected))


def _more(count: int) -> str:
    return tables.note(f"and {count - MAX_ROWS} more") if count > MAX_ROWS else ""
