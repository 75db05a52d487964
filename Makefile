# Two commands do everything on a fresh Debian or Ubuntu with Python 3.10 or newer:
#   make demo   builds, and renders demo.mp4: the built-in head speaks
#   make test   builds, and runs every check that CI runs
VENV ?= .venv
export PYTHON ?= python3
BIN := $(VENV)/bin
# setuptools would warn at length that an editable install is one.
INSTALL := PYTHONWARNINGS=ignore $(BIN)/pip install --quiet
SOURCES := $(shell find csrc -type f) CMakeLists.txt setup.py pyproject.toml

.PHONY: demo test bench lint format demo-avatar wheel sanitize cuda-all cuda-report gpu-check clean

demo: $(VENV)/runtime.stamp
	$(BIN)/gt-render demo examples/hello.wav -o demo.mp4

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Ratios of the parts against their peers, kept in benchmarks/results. gt-bench is the whole.
bench: $(VENV)/bench.stamp
	$(BIN)/python -m pytest benchmarks/suites -o python_files='bench_*.py' \
	    -o python_functions='bench_*' --benchmark-columns=median,iqr --keep benchmarks/results
	$(BIN)/python -m gt_bench.history benchmarks/results

format: $(VENV)/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The avatar inside the package, from a checkpoint: make demo-avatar CHECKPOINT=... DATASET=...
demo-avatar: $(VENV)/test.stamp
	$(BIN)/gt-export $(CHECKPOINT) --dataset $(DATASET) --storage fp16 --name demo \
	    -o gt_infer/assets/demo.safetensors --verify

# dist/: the sdist and a manylinux wheel for PYTHON, tried in empty environments. DEMO=0: a wheel
# without the demo avatar.
wheel:
	scripts/setup.sh $(VENV)
	scripts/wheel.sh $(PYTHON)

# The native code watched for data races, wild memory and undefined behaviour.
sanitize: $(VENV)/test.stamp
	scripts/sanitize.sh $(BIN)/python

# On a machine with an NVIDIA GPU, nvcc and the packages that docs/gpu.md names; no virtual environment
# and no network. Results: benchmarks/results/<gpu>-<date>.json.
gpu-check:
	$(PYTHON) scripts/gpu_check.py

# The CUDA part for every architecture, PTX for the last: compiled without a warning, and linked. Needs
# nvcc, no GPU. cuda-report also writes what the kernels use into docs/performance-gpu.md.
CUDA_ARCHITECTURES ?= 80 86 89 90 120
cuda-all: $(VENV)/test.stamp
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python scripts/cuda_report.py $(CUDA_ARCHITECTURES)

cuda-report: $(VENV)/test.stamp
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python scripts/cuda_report.py $(CUDA_ARCHITECTURES) \
	    --write docs/performance-gpu.md

# A virtual environment with what running needs: no torch.
$(VENV)/runtime.stamp: $(SOURCES)
	scripts/setup.sh $(VENV)
	$(INSTALL) --editable .
	touch $@

# The same with what tests need. Warnings of the C++ compiler are errors here.
$(VENV)/test.stamp: $(SOURCES)
	scripts/setup.sh $(VENV)
	$(INSTALL) torch==2.13.0
	GT_CMAKE_ARGS=-DGT_WERROR=ON $(INSTALL) --editable '.[export,test]'
	touch $@ $(VENV)/runtime.stamp

$(VENV)/bench.stamp: $(VENV)/test.stamp
	$(INSTALL) --editable '.[bench,export]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info gt_infer/*.so demo.mp4
