"""What a chaos run has shown: figures for people and for machines."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass
from typing import Any

from bookkeeping import (
    Audit,
    Recovery,
    Saves,
    audit,
    goodput,
    lineage,
    new_steps,
    preserved,
    recoveries,
    save_counts,
    step_time_s,
    wasted_steps,
)
from conductor import Played
from fault_plan import RESTARTING
from history import Leg

TERMS = ("loss", "loss_vid", "loss_img", "loss_scd")
# of a start, in their order; each lasts from the end of the one before
PHASES = {
    "process_started": "failure noticed, new processes begun",
    "entered": "Python, Ray, torch and the package imported, process group made",
    "built": "manifest read, model and engine built",
    "restored": "checkpoint restored",
    "start": "folder of the run tidied up",
    "first clips": "stream opened, first clips decoded",
    "first step": "first step",
}


@dataclass(frozen=True)
class ChaosReport:
    goodput: float  # at this run's own pace: what starts, waits and steps in vain leave over
    goodput_at_calm_pace: float  # the calm run decodes far ahead and then has all CPUs for its steps
    wall_s: float  # from the start of the job to its end
    preserved_steps: int
    wasted_steps: int  # done, and then done again
    calm_step_s: float  # median
    chaos_step_s: float  # median, of the run under faults
    calm_goodput: float  # of the calm run, which has to start as well
    starts: int  # of a worker group
    saves: Saves
    audit: Audit
    same_encoder: bool  # as the calm run's, bit for bit
    world_sizes: list[int]  # of the legs that count, in order
    largest_loss_difference: float  # of a logged step from the calm run's, relative
    final_loss: float
    calm_final_loss: float
    recoveries: dict[str, list[Recovery]]  # by kind of fault
    start_phases_s: dict[str, float]  # medians over all restarts, from the fault on

    def problems(self) -> list[str]:
        """What must never be, whatever the machine's speed."""
        found = [f"{name}: {values[:5]}" for name, values in self.audit._asdict().items() if values]
        if len(set(self.world_sizes)) == 1 and not self.same_encoder:
            found.append("the encoder is not that of the calm run, though the number of workers never changed")
        if len(set(self.world_sizes)) == 1 and self.largest_loss_difference:
            found.append(f"losses differ from the calm run's by up to {self.largest_loss_difference:.1e}")
        return found

    def to_dict(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        values["saves"], values["audit"] = self.saves._asdict(), self.audit._asdict()
        values["recoveries"] = {kind: [item._asdict() for item in items] for kind, items in self.recoveries.items()}
        return values


def make_report(chaos: Played, calm: Played, clip_ids: set[str], steps_per_epoch: int) -> ChaosReport:
    stretches = lineage(chaos.legs, chaos.end_step)
    steps = preserved(stretches)
    calm_steps = preserved(lineage(calm.legs, calm.end_step))
    calm_step_s, chaos_step_s = step_time_s(calm.legs), step_time_s(chaos.legs)
    wall_s = chaos.ended - chaos.started
    found: dict[str, list[Recovery]] = {}
    struck = [strike.at for strike in chaos.strikes]
    answers = recoveries(struck, chaos.ended, new_steps(chaos.legs), chaos_step_s)
    for strike, recovery in zip(chaos.strikes, answers, strict=True):
        found.setdefault(str(strike.fault.kind), []).append(recovery)
    return ChaosReport(
        goodput=goodput(len(steps), chaos_step_s, wall_s),
        goodput_at_calm_pace=goodput(len(steps), calm_step_s, wall_s),
        wall_s=wall_s,
        preserved_steps=len(steps),
        wasted_steps=wasted_steps(chaos.legs, stretches),
        calm_step_s=calm_step_s,
        chaos_step_s=chaos_step_s,
        calm_goodput=goodput(len(calm_steps), calm_step_s, calm.ended - calm.started),
        starts=len(chaos.legs),
        saves=save_counts(chaos.legs),
        audit=audit(steps, calm_steps, chaos.end_step, clip_ids, steps_per_epoch),
        same_encoder=chaos.encoder == calm.encoder,
        world_sizes=[stretch.leg.world_size for stretch in stretches],
        largest_loss_difference=_loss_difference(chaos.records, calm.records),
        final_loss=chaos.records[-1]["loss"],
        calm_final_loss=calm.records[-1]["loss"],
        recoveries=found,
        start_phases_s=_phases(chaos),
    )


def _loss_difference(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> float:
    """Largest, relative, of the steps that both have logged."""
    expected = {record["step"]: record for record in other}
    pairs = [(record, expected[record["step"]]) for record in one if record["step"] in expected]
    return max(abs(found[term] / wanted[term] - 1) for found, wanted in pairs for term in TERMS)


def _phases(chaos: Played) -> dict[str, float]:
    lengths: dict[str, list[float]] = {}
    for strike in chaos.strikes:
        leg = _next_leg(chaos.legs, strike.at) if strike.fault.kind in RESTARTING else None
        before = strike.at
        for name, text in PHASES.items() if leg else ():
            if name not in leg.phases:  # struck again meanwhile
                break
            lengths.setdefault(text, []).append(leg.phases[name] - before)
            before = leg.phases[name]
    return {text: statistics.median(values) for text, values in lengths.items()}


def _next_leg(legs: list[Leg], at: float) -> Leg | None:
    return next((leg for leg in legs if leg.phases.get("process_started", 0.0) > at), None)


def as_text(report: ChaosReport) -> str:
    """A table for docs/reliability.md."""
    audit_ = report.audit
    loss = f"{report.final_loss:.4f} and {report.calm_final_loss:.4f} in calm"
    same = "bit for bit that of the calm run" if report.same_encoder else "not that of the calm run"
    rows = [
        ("goodput", f"{report.goodput:.2f} ({report.calm_goodput:.2f} in calm)"),
        ("the same at the calm run's pace", f"{report.goodput_at_calm_pace:.2f}"),
        ("time in all", f"{report.wall_s:.0f} s"),
        ("steps that count", f"{report.preserved_steps}"),
        ("a step", f"{report.chaos_step_s:.2f} s, {report.calm_step_s:.2f} s in calm (medians)"),
        ("steps done in vain", f"{report.wasted_steps}"),
        ("starts of the workers", f"{report.starts}"),
        ("saves", ", ".join(f"{value} {name}" for name, value in report.saves._asdict().items())),
        ("samples doubled, missing, changed", ", ".join(str(len(values)) for values in audit_)),
        ("last loss", f"{loss}; largest difference {report.largest_loss_difference:.1e}"),
        ("encoder", same),
    ]
    lines = ["| what | measured |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    lines += [
        "",
        "| fault | times | longest wait for a new step: median, largest | mean cost |",
        "|---|---|---|---|",
    ]
    for kind, items in sorted(report.recoveries.items()):
        waits = [item.longest_wait_s for item in items]
        cost = statistics.mean(item.cost_s for item in items)
        lines.append(f"| {kind} | {len(items)} | {statistics.median(waits):.1f}, {max(waits):.1f} s | {cost:.1f} s |")
    lines += ["", "| a restart's seconds | median |", "|---|---|"]
    lines += [f"| {text} | {seconds:.1f} |" for text, seconds in report.start_phases_s.items()]
    return "\n".join(lines)
