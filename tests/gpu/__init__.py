"""Tests that need an NVIDIA GPU; `make gpu-check` runs them. Elsewhere they are skipped."""
