"""How far an avatar's lips are apart, by the definition of the dataset `anna`: three pairs of lip
landmarks, each carried by the mean of the eight nearest canonical Gaussians."""

from __future__ import annotations

import dataclasses

import numpy as np

from gt_infer import Avatar

UPPER_INNER, UPPER_OUTER = (61, 62, 63), (50, 51, 52)
LOWER_INNER, LOWER_OUTER = (67, 66, 65), (58, 57, 56)
NEIGHBOURS = 8


class Lips:
    """The Gaussians that stand for the lips.

    Args:
        means: [N, 3] canonical.
        neutral: [68, 3] landmarks of the neutral face, head space.
    """

    def __init__(self, means: np.ndarray, neutral: np.ndarray) -> None:
        def nearest(a: int, b: int) -> np.ndarray:
            point = (neutral[a] + neutral[b]) / 2
            return np.argsort(np.linalg.norm(means - point, axis=1))[:NEIGHBOURS]

        self.upper = [nearest(a, b) for a, b in zip(UPPER_INNER, UPPER_OUTER, strict=True)]
        self.lower = [nearest(a, b) for a, b in zip(LOWER_INNER, LOWER_OUTER, strict=True)]

    def aperture(self, means: np.ndarray) -> float:
        """Mean distance of the three pairs, head units, of deformed means [N, 3]."""
        pairs = zip(self.upper, self.lower, strict=True)
        return float(
            np.mean([np.linalg.norm(means[u].mean(0) - means[v].mean(0)) for u, v in pairs])
        )


def lips_alone(avatar: Avatar, neutral: np.ndarray) -> tuple[Avatar, Lips]:
    """The avatar with no Gaussians but those of its lips, which move as before: each by itself."""
    lips = Lips(avatar.gaussians.means, neutral)
    kept = np.unique(np.concatenate([*lips.upper, *lips.lower]))
    fields = dataclasses.fields(avatar.gaussians)
    arrays = {field.name: getattr(avatar.gaussians, field.name)[kept].copy() for field in fields}
    alone = dataclasses.replace(
        avatar, gaussians=dataclasses.replace(avatar.gaussians, **arrays), sha256=""
    )
    lips.upper = [np.searchsorted(kept, group) for group in lips.upper]
    lips.lower = [np.searchsorted(kept, group) for group in lips.lower]
    return alone, lips


def scaled(curve: np.ndarray) -> np.ndarray:
    """A curve's 5th and 95th percentile become 0 and 1."""
    low, high = np.percentile(curve, (5, 95))
    return np.asarray((curve - low) / (high - low))
