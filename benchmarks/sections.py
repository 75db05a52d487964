"""What a report says, section by section."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gt_infer.cli.common import printable

from .machine import is_quiet
from .report import Case, CaseResult, Fidelity, Machine, Peer, Report, Sessions
from .stream import STAGES
from .table import Section

__all__ = ["PUBLISHED", "case_label", "describe_case", "number", "sections_of"]

# GaussianTalker (Cho et al., ACM Multimedia 2024): frames per second by attention layers, 512x512,
# on one GPU of 24 GB, in batches of 128.
PUBLISHED = {2: ("GaussianTalker", 98), 1: ("GaussianTalker*", 121)}
_PUBLISHED_SIZE = (512, 512)

_CLOCKS = {
    "sound": "one 40 ms chunk of sound in, one uint8 picture out",
    "window": "one window of precomputed features in, one uint8 picture out",
}
_ORIGINS = {
    "workload": "the frozen workload",
    "demo": "the built-in demo: the frozen workload is part of the repository alone",
    "file": "your file",
}
# Fields of a case that a row names when they differ between rows.
_LABELS = {
    "isa": "{}",
    "threads": "{}t",
    "precision": "{}",
    "size": "{}",
    "gaussians": "N={}",
    "layers": "L={}",
}


def sections_of(report: Report) -> list[Section]:
    """Everything the report has, in the order of reading."""
    sections = [_head(report)]
    if report.cases:
        sections += [_latency(report.cases), _stages(report.cases)]
    facts = list(_facts(report))
    if facts:
        sections.append(Section(rows=facts))
    if report.peers:
        sections.append(_peers(report.peers))
    if report.cases:
        sections.append(_published(report))
    return [_printable(section) for section in sections]


def number(value: float) -> str:
    """Three significant digits or whole; never an exponent."""
    if value == 0:
        return "0"
    for limit, digits in ((0.0995, 3), (9.95, 2), (99.5, 1)):
        if abs(value) < limit:
            return f"{value:.{digits}f}"
    return f"{value:,.0f}"


def describe_case(case: Case) -> str:
    """In full."""
    isa = f" {case.isa}" if case.isa else ""
    return (
        f"{case.engine}{isa}, {case.threads} thread(s), {case.precision}, "
        f"{case.width}x{case.height}, {case.gaussians:,} Gaussians, {case.layers} layer(s)"
    )


def case_label(case: Case, among: Sequence[Case]) -> str:
    """The engine, and what else tells a case from the others."""
    parts = [case.engine]
    for name, form in _LABELS.items():
        if len({_field(other, name) for other in among}) > 1:
            parts.append(form.format(_field(case, name)))
    return " ".join(parts)


def _field(case: Case, name: str) -> object:
    return f"{case.width}x{case.height}" if name == "size" else getattr(case, name)


def _head(report: Report) -> Section:
    machine, avatar = report.machine, report.avatar
    rows = [
        ("gt-bench", f"gt_infer {machine.gt_infer}{_commit(machine)}, {report.created}"),
        ("machine", _machine(machine)),
        (
            "avatar",
            f"{avatar.name}: {avatar.gaussians:,} Gaussians, {avatar.layers} layer(s), sha256 "
            f"{avatar.sha256[:16]} ({_ORIGINS[avatar.origin]})",
        ),
    ]
    if not is_quiet(machine):
        rows.append(
            (
                "NOTE",
                f"the machine was busy ({_busyness(machine)}): times are too long, and runtimes "
                "that spin suffer most. Measure again when it is quiet.",
            )
        )
    if not report.complete:
        rows.append(("NOTE", "interrupted: this is what was measured so far"))
    return Section(rows=rows)


def _commit(machine: Machine) -> str:
    return f" ({machine.commit})" if machine.commit else ""


def _machine(machine: Machine) -> str:
    gpus = ", ".join(machine.gpus) or "no GPU"
    load = "" if machine.load_before is None else f", load {machine.load_before:.2f}"
    return (
        f"{machine.cpu}, {machine.cores} usable core(s), {', '.join(machine.instruction_sets)}; "
        f"{gpus}{load}"
    )


def _busyness(machine: Machine) -> str:
    if machine.core_wait is None:
        return f"load {machine.load_before:.2f} on {machine.cores} cores"
    return f"{machine.core_wait:.0%} of the threads' time went into waiting for a core"


def _latency(results: Sequence[CaseResult]) -> Section:
    cases = [result.case for result in results]
    rows = []
    for result in results:
        latency = result.latency
        times = (latency.p50, latency.p90, latency.p99, latency.max, latency.fps)
        missed = f"{latency.missed}/{latency.frames}"
        rows.append([case_label(result.case, cases), *map(number, times), missed])
    clocks = sorted({result.clock for result in results})
    return Section(
        title="Frame latency, ms, batch 1, back to back",
        header=("", "p50", "p90", "p99", "max", "FPS", "over 40 ms"),
        rows=rows,
        notes=[
            f"{describe_case(cases[0])}" + ("; rows say what differs" if len(cases) > 1 else ""),
            f"clock: {'; '.join(_CLOCKS[clock] for clock in clocks)}",
            *(
                f"WARNING: {case_label(result.case, cases)}: {1 - result.changed:.0%} of the "
                "pictures were the same as the one before"
                for result in results
                if result.changed < 1
            ),
        ],
    )


def _stages(results: Sequence[CaseResult]) -> Section:
    cases = [result.case for result in results]
    on_gpu = any(result.stages.get("gpu") for result in results)
    names = [name for name in STAGES if name != "gpu" or on_gpu]
    return Section(
        title="Stages, ms, medians",
        header=("", *names),
        rows=[
            [case_label(r.case, cases), *(number(r.stages.get(name, 0.0)) for name in names)]
            for r in results
        ],
        notes=[
            "deform: networks and projection. sort: depth order and tile lists. splat: blending "
            "and 8-bit output. "
            + ("gpu: all of these there, and the copy back. " if on_gpu else "")
            + "python: the call around them."
        ],
    )


def _facts(report: Report) -> Iterable[tuple[str, str]]:
    for result in report.first_frame:
        of = result.case.engine
        yield (
            "first frame",
            f"{of}: {number(result.process_ms)} ms from process start, "
            f"{number(result.renderer_ms)} ms from Renderer() (median of {result.runs})",
        )
        yield (
            "memory",
            f"{of}: {number(result.resident_mb)} MB after {result.frames} frames, peak "
            f"{number(result.peak_mb)} MB, {number(result.growth_mb)} MB more in the second half",
        )
    for found in report.sessions:
        yield "sessions", _sessions(found)
    if report.sessions:
        yield "pipelined", "this version has no pipelined mode"
    for pictures in report.fidelity:
        yield "fast/fp32", f"{pictures.case.engine}: {_fidelity(pictures)}"
    for first in report.cases[:1]:
        yield (
            "pictures",
            f"{first.changed:.0%} differ from the frame before, by "
            f"{number(first.mean_change)} of 255 on average",
        )
    for missing in report.unavailable:
        yield "not here", f"{missing.what}: {missing.reason}"


def _sessions(found: Sessions) -> str:
    more = " or more (no more were tried)" if found.is_limit else ""
    text = f"{found.case.engine}: {found.sustained}{more} at 25 FPS without a late frame"
    above = [trial for trial in found.trials if trial.late]
    if above and not found.is_limit:
        worst = min(above, key=lambda trial: trial.sessions)
        text += f"; with {worst.sessions} a frame came after {number(worst.max)} ms"
    return f"{text} ({found.what})"


def _fidelity(found: Fidelity) -> str:
    if found.mean_psnr_db is None or found.worst_psnr_db is None:
        return f"identical pictures, {found.frames} frames"
    same = f", {found.identical} identical" if found.identical else ""
    return (
        f"mean PSNR {found.mean_psnr_db:.1f} dB, worst {found.worst_psnr_db:.1f} dB, "
        f"{found.frames} frames{same}"
    )


def _peers(peers: Sequence[Peer]) -> Section:
    rows = [
        [
            f"{peer.stage}: {peer.name}" + (f" x{peer.batch}" if peer.batch > 1 else ""),
            number(peer.peer_ms),
            number(peer.ours_ms),
            f"{number(peer.ratio.median)}x",
            f"{number(peer.ratio.low)}-{number(peer.ratio.high)}",
            f"{peer.error:.2g} {peer.error_of}",
        ]
        for peer in peers
    ]
    return Section(
        title=f"Peers: same weights, inputs and {peers[0].threads} thread(s), in turn with ours",
        header=("", "ms", "ours", "ratio", "p10-p90", "differs by"),
        rows=rows,
        notes=["ms per frame; xB: in batches of B. Ratio: median of paired times, theirs / ours."],
    )


def _published(report: Report) -> Section:
    rows, shown = [], []
    for layers, (name, published) in PUBLISHED.items():
        ours = [
            result
            for result in report.cases
            if result.case.layers == layers
            and result.case.gaussians == report.avatar.gaussians
            and (result.case.width, result.case.height) == _PUBLISHED_SIZE
        ]
        best = max(ours, key=lambda result: result.latency.fps, default=None)
        shown += [describe_case(best.case)] if best is not None else []
        rows.append(
            [
                f"{name}, {layers} layer(s)" + _note(best),
                str(published),
                "-" if best is None else number(best.latency.fps),
            ]
        )
    notes = [
        "published: one 24 GB GPU, batch 128. here: "
        f"{report.machine.cpu}, batch 1, sound to picture"
        + "".join(f"; {case}" for case in shown)
        + "."
    ]
    if len(shown) < len(PUBLISHED):
        notes.append("--layers 1,2 --size 512 measures both.")
    return Section(
        title="The paper's FPS column, 512x512",
        header=("", "published", "here"),
        rows=rows,
        notes=notes,
    )


def _note(result: CaseResult | None) -> str:
    if result is None:
        return ""
    return " (synthetic)" if result.case.avatar.startswith("synthetic") else ""


def _printable(section: Section) -> Section:
    return Section(
        title=section.title,
        header=section.header,
        rows=[[printable(cell) for cell in row] for row in section.rows],
        notes=[printable(note) for note in section.notes],
    )
