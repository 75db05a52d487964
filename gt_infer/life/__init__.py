"""What keeps a face alive when the app says nothing: idle motion, blinking, rest in silence, and
poses kept where the avatar looks right. Each is off by not asking for it."""

from __future__ import annotations

from .blink import Blinks
from .motion import IdleMotion
from .pose_range import PoseRange
from .silence import GatedFrontend

__all__ = ["Blinks", "GatedFrontend", "IdleMotion", "PoseRange"]
