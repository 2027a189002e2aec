"""Run files -> one HTML page that needs nothing else: style, script, data and pictures are inside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from plotly.offline import get_plotlyjs

from discovr_ray.report import curves, tables
from discovr_ray.report.clips import HEAT, ClipPicture, colour_of
from discovr_ray.report.health import Finding, findings, last

if TYPE_CHECKING:  # it brings torch, which a page does not need
    from discovr_ray.report.run_files import RunFiles

MAX_SWATCHES = 8
MARKS = {"good": "good", "watch": "watch", "bad": "bad sign"}
_DRAW = """
for (const source of document.querySelectorAll('script.figure')) {
  const figure = JSON.parse(source.textContent);
  Plotly.newPlot(source.dataset.target, figure.data, figure.layout,
                 {responsive: true, displaylogo: false, displayModeBar: false});
}
"""


def page(run: RunFiles, clips: list[ClipPicture], written_at: str) -> str:
    """The whole report; `written_at` is shown in the footer."""
    sections = [
        ("health", "What to look at", _health(findings(run))),
        ("clips", "What the model sees", _clips(run, clips)),
        *_learnt(run),
        ("losses", "Losses", _charts(run, curves.LOSSES)),
        ("collapse", "Signs of collapse", _charts(run, curves.COLLAPSE)),
        ("optimisation", "Optimisation", _charts(run, curves.OPTIMISATION)),
        ("throughput", "Throughput", _charts(run, curves.THROUGHPUT)),
        ("checkpoints", "Checkpoints", tables.checkpoints(run)),
        ("quarantine", "Clips left out", tables.quarantine(run)),
        ("config", "Configuration", tables.configuration(run)),
    ]
    footer = f"Written {escape(written_at)} from the files in <code>{escape(run.uri)}</code>."
    return document(f"{run.name} – DISCOVR pretraining", _header(run), sections, footer)


def document(title: str, header: str, sections: list[tuple[str, str, str]], footer: str) -> str:
    """A page around (slug, title, content) of its sections; everything but the page's own title is HTML."""
    style = files("discovr_ray.report").joinpath("page.css").read_text()
    links = "".join(f'<a href="#{slug}">{name}</a>' for slug, name, _ in sections)
    body = "".join(f'<section id="{slug}"><h2>{name}</h2>{content}</section>' for slug, name, content in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        f"<header><div>{header}<nav>{links}</nav></div></header><main>{body}</main><footer>{footer}</footer>"
        f"<script>{get_plotlyjs()}</script><script>{_DRAW}</script></body></html>"
    )


def _header(run: RunFiles) -> str:
    total, done = run.total_steps, run.steps_done
    finished = total is not None and done >= total
    status = "finished" if finished else ("in progress or stopped" if done else "no step recorded yet")
    steps = f"{done:,} of {total:,} optimiser steps" if total else f"{done:,} optimiser steps"
    share = 100 * min(1.0, done / total) if total else 0
    facts = [(title, text) for title, text in _facts(run) if text]
    items = "".join(f"<div><dt>{title}</dt><dd>{escape(text)}</dd></div>" for title, text in facts)
    return (
        f'<h1>{escape(run.name)} <span class="badge{" done" if finished else ""}">{status}</span></h1>'
        f'<p class="lead">DISCOVR pretraining, {steps}</p>'
        f'<div class="bar" title="{share:.0f} %"><div style="width:{share:.1f}%"></div></div>'
        f'<dl class="facts">{items}</dl>'
    )


def _facts(run: RunFiles) -> list[tuple[str, str]]:
    def shown(name: str, form: str) -> str:
        value = last(run, name)
        return "" if value is None else format(value, form)

    model, data = run.config.get("model", {}), run.config.get("data", {})
    window = f"{data['num_frames']} x {data['image_size']}²" if {"num_frames", "image_size"} <= data.keys() else ""
    return [
        ("Loss", shown("loss", ".3f")),
        ("Feature spread", shown("feature_std", ".3f")),
        ("RankMe", shown("rank_me", ".1f")),
        ("Prototypes in use", shown("prototype_perplexity", ".1f")),
        ("Epochs", shown("epoch", ".1f")),
        ("Clips per second", shown("clips_per_s", ".1f")),
        ("Training clips", "" if run.num_clips is None else f"{run.num_clips:,}"),
        ("Model (width)", f"{model.get('size', '')} ({model['width']})" if model.get("width") else ""),
        ("Frames x pixels", window),
    ]


def _health(found: list[Finding]) -> str:
    if not found:
        return tables.note("Nothing was logged yet: the first figures come after run.log_every_steps steps.")
    worst = {
        "bad": "There are bad signs; read these first.",
        "watch": "Nothing is clearly wrong; points to watch:",
    }
    return f'<p class="lead">{worst.get(found[0].level, "All signs are good.")}</p>{finding_cards(found)}'


def finding_cards(found: list[Finding]) -> str:
    cards = "".join(
        f'<div class="finding {item.level}"><span class="mark">{MARKS[item.level]}</span>'
        f'<div class="top"><h3>{escape(item.title)}</h3><span class="value">{escape(item.value)}</span></div>'
        f'<p>{escape(item.sentence)}</p><p class="note">{escape(item.scale)}</p></div>'
        for item in found
    )
    return f'<div class="findings">{cards}</div>'


def _charts(run: RunFiles, panels: tuple[curves.Panel, ...]) -> str:
    if not run.metrics:
        return tables.note("Nothing was logged yet.")
    return '<div class="charts">' + "".join(_chart(run, panel) for panel in panels) + "</div>"


def _chart(run: RunFiles, panel: curves.Panel) -> str:
    return chart(panel.slug, panel.title, panel.note, curves.figure(run, panel))


def chart(slug: str, title: str, note: str, figure: curves.Figure, wide: bool = False) -> str:
    """A figure in its frame, or in one over the whole page; title and note are HTML."""
    content = json.dumps(figure).replace("<", "\\u003c")  # keeps "</script>" out of the text
    return (
        f'<div class="chart{" wide" * wide}"><h3>{title}</h3><p class="note">{note}</p>'
        f'<div class="plot" id="plot-{slug}"></div>'
        f'<script type="application/json" class="figure" data-target="plot-{slug}">{content}</script></div>'
    )


def _learnt(run: RunFiles) -> list[tuple[str, str, str]]:
    """Of a run with the kNN probe alone."""
    if not any(panel.curves[0].key in record for panel in curves.LEARNT for record in run.metrics):
        return []
    return [("learnt", "What it has learnt so far", _charts(run, curves.LEARNT))]


def charts(items: Sequence[curves.Chart]) -> str:
    drawn = "".join(chart(item.slug, escape(item.title), escape(item.note), item.figure, item.wide) for item in items)
    return f'<div class="charts">{drawn}</div>'


def _clips(run: RunFiles, clips: list[ClipPicture]) -> str:
    if run.samples is None or not clips:
        return tables.note("No sample clips yet: they are stored with the last checkpoint of the run.")
    heat = ", ".join(f"rgb({red:.0f},{green:.0f},{blue:.0f})" for red, green, blue in HEAT)
    cards = "".join(_clip(clip) for clip in clips)
    return (
        f'<p class="lead">Training clips at step {run.samples.step:,}. Attention: where the video teacher\'s summary '
        "token looks; look for walls, valves and cavity rather than the rim of the sector. Prototypes: patches of one "
        "colour belong to one semantic cluster; look for colours that stay with a structure as it moves.</p>"
        f'<p class="note">Attention, low<span class="heat" style="background:linear-gradient(90deg,{heat})"></span>'
        f"high, against the highest of the clip. Below each clip: prototypes and their shares of its patches.</p>"
        f'<div class="clips">{cards}</div>'
    )


def _clip(clip: ClipPicture) -> str:
    swatches = "".join(
        f'<span><i style="background:rgb{colour_of(prototype)}"></i>{prototype}: {share:.0%}</span>'
        for prototype, share in clip.shares[:MAX_SWATCHES]
    )
    more = len(clip.shares) - MAX_SWATCHES
    rest = f"<span>and {more} more</span>" if more > 0 else ""
    return (
        f'<div class="clip"><h3>{escape(clip.clip_id)}</h3>'
        '<div class="captions"><span>frame</span><span>attention</span><span>prototypes</span></div>'
        f'<img src="{clip.data_uri}" width="{clip.width}" height="{clip.height}" '
        f'alt="{escape(clip.clip_id)}: frame, attention, prototypes">'
        f'<div class="swatches">{swatches}{rest}</div></div>'
    )
