"""Mutated files of every kind that gt_infer and gt_export open. `harness` runs a case, `targets`
knows the kinds, `mutations` the damage; `scripts/fuzz.py` runs them by the hundred thousand."""
