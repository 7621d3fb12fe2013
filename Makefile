# make run    from a fresh clone to a trained, personalized model and its report
# make test   the whole test suite
# make test-extras  what the suite leaves out: browsers, shells, loggers, Flower, network namespaces, whole tutorials
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

.PHONY: run demo test test-extras wheels lint docs sanitize campaign compilers clang mingw cross bench bench-quick bench-simulation gpu-check gpu-bundle clean

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
lint test test-extras: export FLOW_WERROR := 1

test: $(VENV)/installed
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

# Needs Chromium, zsh, fish, npm, iproute2, shellcheck and the rights of root; .ci/run installs them on Debian
EXTRAS := browser or shells or loggers or namespaces or long

test-extras: $(VENV)/loggers $(VENV)-flower/installed
	npm install --prefix build/axe --no-save --no-audit --no-fund --ignore-scripts axe-core@4
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "($(EXTRAS)) and not slow"
	$(VENV)-flower/bin/python -m pytest -m "flower and not slow" tests/deploy

$(VENV)/loggers: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[tensorboard,mlflow,wandb,trackio]'
	touch $@

# Flower pins older versions of what others need new, so it has an environment of its own; what it has not comes from .venv
$(VENV)-flower/installed: $(VENV)/installed
	$(BIN)/python -m venv $(VENV)-flower
	$(VENV)-flower/bin/python -m pip install --quiet 'flwr==1.41.*'
	$(BIN)/python -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' \
		> $$($(VENV)-flower/bin/python -c 'import site; print(site.getsitepackages()[0])')/zz_rest.pth
	touch $@

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation as a site in build/site, warnings as errors and every link followed; `python3 -m http.server -d build/site` shows it
docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/python -m scripts.site.build

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

# What other compilers make of csrc: their warnings as errors, and what they build is run as far as this machine can. See
# docs/compilers.md. apt-get install clang libomp-dev g++-mingw-w64-x86-64 wine64 g++-aarch64-linux-gnu qemu-user unzip
ALONE := -DFLOW_PYTHON=OFF -DFLOW_WERROR=ON -DCMAKE_BUILD_TYPE=Release
ALONE_THREADS := -std=gnu++17 -O2 -Wall -Wextra -Werror tests/kernels/threads_alone.cpp csrc/cpu/common/threads.cpp

compilers: clang mingw cross

# The whole extension with clang, with OpenMP and without, and the kernel tests on both
clang: $(VENV)/installed
	PYTHON=$(BIN)/python scripts/clang.sh

# The kernels without Python for Windows, and the thread pool; run by wine where there is one
mingw:
	cmake -S . -B build/mingw -G Ninja $(ALONE) -DFLOW_OPENMP=0 -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/scripts/mingw-w64.cmake
	cmake --build build/mingw
	x86_64-w64-mingw32-g++-posix $(ALONE_THREADS) -static -o build/mingw/threads_alone.exe
	if command -v wine; then wine build/mingw/kernels_alone.exe && \
		wine build/mingw/threads_alone.exe exact all_come asleep nested many callers; \
	else echo "compiled only: wine is not installed"; fi

# On a processor that is not x86, emulated: the kernels with OpenMP and without, and a wheel for Linux on aarch64
cross: $(VENV)/installed
	cmake -S . -B build/cross/alone -G Ninja $(ALONE) -DFLOW_OPENMP=1 -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/scripts/aarch64.cmake
	cmake --build build/cross/alone
	qemu-aarch64 -L /usr/aarch64-linux-gnu build/cross/alone/kernels_alone
	cmake -S . -B build/cross/alone -DFLOW_OPENMP=0
	cmake --build build/cross/alone
	qemu-aarch64 -L /usr/aarch64-linux-gnu build/cross/alone/kernels_alone
	aarch64-linux-gnu-g++ $(ALONE_THREADS) -pthread -o build/cross/threads_alone
	qemu-aarch64 -L /usr/aarch64-linux-gnu build/cross/threads_alone exact all_come asleep nested callers
	PYTHON=$(BIN)/python scripts/cross.sh

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
	rm -rf $(VENV) $(VENV)-flower build $(KERNELS)/build flow_kernels/*.so *.egg-info
