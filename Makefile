# make run    from a fresh clone to a trained, personalized model and its report
# make test   the whole test suite
# make demo   20 rounds of a small model and their report in runs/demo: under a minute once the set-up is done
# make wheels the wheels of both distributions, tried where no compiler is
# make bench, bench-simulation  the layer, and federated rounds, against what else computes them; further down what is slow
# All set up what they need in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KERNELS := packaging/flow-kernels
SOURCES := pyproject.toml setup.py $(KERNELS)/pyproject.toml $(KERNELS)/setup.py CMakeLists.txt $(wildcard csrc/*.h csrc/*.cpp csrc/cpu/*/* csrc/cuda/*)
RUN := runs/shakespeare
DEMO := runs/demo

.PHONY: run demo test wheels lint sanitize campaign cross bench bench-quick bench-simulation gpu-check gpu-bundle clean

# Goes on with a run that was stopped, and draws the report of one that is done: $(call trained,FOLDER,OPTIONS)
trained = @if [ -d $(1) ] && [ ! -f $(1)/report.html ]; then $(BIN)/flow run --resume $(1); \
	elif [ -d $(1) ]; then $(BIN)/flow report $(1); \
	else $(BIN)/flow run --folder $(1) $(2); fi

run: $(VENV)/ready
	$(call trained,$(RUN))

# A look, and no result: fewer rounds, a smaller model, and a tenth of the clients scored
demo: $(VENV)/ready
	$(call trained,$(DEMO),--rounds 20 --hidden-size 64 --final-clients 60)

# What these two build, they build with warnings as errors; `make run` and `pip install` do not
lint test: export FLOW_WERROR := 1

test: $(VENV)/installed
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The extension built with ASan and UBSan, then with TSan, and the kernel tests on both: GCC on Linux, about 20 minutes
sanitize: $(VENV)/installed
	$(BIN)/python -m pip install --quiet 'setuptools>=77'
	PYTHON=$(BIN)/python scripts/sanitize.sh

# Kills, damaged and forged files, odd options and bytes, full disks and signals, tried at length; one table of what came of it.
# About an hour on two cores, of which MINUTES are for bytes chosen by coverage; exit 1 where there is a fault. Linux
MINUTES ?= 10

campaign: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[campaign]'
	$(BIN)/python -m pytest -q -m slow tests/faults
	$(BIN)/python tests/faults/campaign.py --minutes $(MINUTES)

# The kernels on a processor that is not x86, emulated: apt-get install g++-aarch64-linux-gnu qemu-user
CROSS := aarch64-linux-gnu

cross:
	mkdir -p build/cross
	$(CROSS)-g++ -std=gnu++17 -O2 -ffp-contract=fast -fno-math-errno -Wall -Wextra -Werror -Wno-psabi -fopenmp \
		-DFLOW_ISA=baseline tests/kernels/kernels_alone.cpp csrc/cpu/routed_gru/dispatch.cpp csrc/cpu/routed_gru/isa.cpp \
		-o build/cross/kernels_alone
	qemu-$(firstword $(subst -, ,$(CROSS))) -L /usr/$(CROSS) build/cross/kernels_alone

# The GPU kernels compiled ahead of time, no GPU needed: registers, spills, shared memory, tensor cores; nvcc comes as wheels
CUDA_WHEELS := nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 \
	nvidia-cuda-cccl==13.0.85 nvidia-cuda-cuobjdump==13.2.51 nvidia-cuda-nvdisasm==13.2.51

gpu-check: $(VENV)/installed
	$(BIN)/python -m pip install --quiet $(CUDA_WHEELS)
	$(BIN)/python -m pytest -q -m "slow and not nvcc" tests/gpu
	cu=$$($(BIN)/python -c 'import nvidia.cu13 as n; print(list(n.__path__)[0])') && \
		LIBRARY_PATH=$$cu/lib PATH=$$cu/bin:$$PATH CUDACXX=$$cu/bin/nvcc $(BIN)/python -m pytest -q -m nvcc tests/gpu

# What benchmarks/gpu.sh would build for minutes on a rented machine, built here for its Python, such as PYTHON=3.12; needs nvcc
gpu-bundle: $(VENV)/installed
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python -m benchmarks.gpu.bundle $(PYTHON)

# benchmarks/README.md says what is measured; 14 minutes on two cores that have nothing else to do, the quick one a few
BENCH := $(BIN)/python -m pytest benchmarks/layer --benchmark-enable --benchmark-quiet
BENCH_OUT ?= benchmarks/results
BENCH_IMAGES ?= $(BENCH_OUT)

bench: $(VENV)/jax
	$(BENCH) --out $(BENCH_OUT) --images $(BENCH_IMAGES)

bench-quick: $(VENV)/jax
	$(BENCH) --quick --out $(BENCH_OUT)/quick

# Whole federated rounds against what else runs them; about 75 minutes, and 4 more the first time, for 300,000
# clients on disk and for the environments of the frameworks it is compared with, 3 GB in build/rivals
bench-simulation: $(VENV)/jax
	$(BIN)/python -m benchmarks.simulation --rivals --out $(BENCH_OUT) --images $(BENCH_IMAGES)

$(VENV)/jax: $(VENV)/installed
	$(BIN)/python -m pip install --quiet jax==0.10.2 || echo "no JAX for this machine: the table will say so"
	touch $@

# What `make run` needs. torch first and by its exact version
$(VENV)/ready: $(SOURCES)
	test -x $(BIN)/python || $(if $(filter 3.%,$(PYTHON)),python3,$(PYTHON)) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable $(KERNELS)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# And what everything else does
$(VENV)/installed: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	touch $@

# Both distributions through their sdists to wheels, and an environment that has those wheels and no compiler
wheels:
	PYTHON=$(PYTHON) scripts/wheels.sh

clean:
	rm -rf $(VENV) build $(KERNELS)/build flow_kernels/*.so *.egg-info
