"""gt_bench: how fast gt_infer is on a machine, measured as its user feels it.

`gt-bench` (cli.py) is the tool, docs/benchmarking.md says what is inside the clock and why the
numbers can be trusted. `suites/` are pytest-benchmark suites for people who work on gt_infer.
"""
