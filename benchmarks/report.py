"""What a run of gt-bench finds, as plain data: the one definition of its JSON.

Times are milliseconds, memory is megabytes (1e6 bytes). docs/benchmarking.md describes every field;
a test compares it with this file.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "SCHEMA",
    "AvatarFacts",
    "Case",
    "CaseResult",
    "Fidelity",
    "FirstFrame",
    "Latency",
    "Machine",
    "Peer",
    "Ratio",
    "Report",
    "SessionTrial",
    "Sessions",
    "Unavailable",
]

SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Where it ran. `load_before` and `load_after` are the system's one-minute load averages.
    `core_wait`: while frame latency was measured, the share of their time that the threads of this
    process were ready to run and had no core. None where the system does not tell."""

    cpu: str
    cores: int
    instruction_sets: list[str]
    memory_mb: float | None
    gpus: list[str]
    platform: str
    python: str
    gt_infer: str
    compiler: str
    commit: str | None
    load_before: float | None
    load_after: float | None = None
    core_wait: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AvatarFacts:
    """Which head. `origin`: workload, demo or file."""

    name: str
    origin: str
    sha256: str
    gaussians: int
    layers: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One way to run. `avatar` is the head's name; a synthetic one says so."""

    engine: str
    isa: str | None
    threads: int
    precision: str
    width: int
    height: int
    avatar: str
    gaussians: int
    layers: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Times of single frames, back to back. `missed`: how many took longer than 40 ms."""

    p50: float
    p90: float
    p99: float
    max: float
    fps: float
    frames: int
    missed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseResult:
    """`clock`: sound (chunk in) or window (features in, for avatars without a sound front-end).
    `stages`: medians. `round_ms`: the median frame of each interleaved round. `changed`: share of
    frames that differ from the one before; `mean_change`: by how much, of 255."""

    case: Case
    clock: str
    latency: Latency
    stages: dict[str, float]
    round_ms: list[float]
    frame_ms: list[float]
    changed: float
    mean_change: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstFrame:
    """A fresh process, medians of `runs`: from its start, and from `Renderer()`, to the first
    picture; then its memory after `frames` frames, at its peak, and how much the second half of
    the frames added."""

    case: Case
    runs: int
    process_ms: float
    renderer_ms: float
    frames: int
    resident_mb: float
    peak_mb: float
    growth_mb: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionTrial:
    """So many streams at 25 FPS at once; a late frame came more than 40 ms after its sound."""

    sessions: int
    frames: int
    late: int
    p50: float
    p99: float
    max: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Sessions:
    """`sustained`: the most streams without a late frame; `is_limit`: more were not tried."""

    case: Case
    what: str
    sustained: int
    is_limit: bool
    trials: list[SessionTrial]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fidelity:
    """Pictures of precision "fast" against "fp32"; PSNR is None when all are identical."""

    case: Case
    frames: int
    identical: int
    mean_psnr_db: float | None
    worst_psnr_db: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """Of paired times: median, 10th and 90th percentile."""

    median: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """Another implementation on the same weights, inputs and threads in the same run. `stage`:
    networks, networks in a frame, splatting or frame. Times are per frame; `ratio` is its time over
    ours. `error` is its largest difference from our output, in the units that `error_of` names."""

    name: str
    version: str
    stage: str
    batch: int
    threads: int
    ours_ms: float
    peer_ms: float
    ratio: Ratio
    error: float
    error_of: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Unavailable:
    """Something that could have been measured and was not."""

    what: str
    reason: str


@dataclass(kw_only=True, slots=True)
class Report:
    """One run; filled as it goes, so that an interrupted one is a report too."""

    created: str
    command: str
    machine: Machine
    avatar: AvatarFacts
    schema: int = SCHEMA
    complete: bool = False
    seconds: float = 0.0
    cases: list[CaseResult] = field(default_factory=list)
    first_frame: list[FirstFrame] = field(default_factory=list)
    sessions: list[Sessions] = field(default_factory=list)
    fidelity: list[Fidelity] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)
    unavailable: list[Unavailable] = field(default_factory=list)
