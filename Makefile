# make demo   softmax on made-up data, IIF on the same weights, IIF trained, compared (10 minutes on 2 cores after the install)
# make test   the tests; SLOW=1 adds the slow ones, ARGS="-k tail" goes to pytest
# make lint types clean

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
SLOW ?=
ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
IIFDET := $(BIN)/python -m iifdet
RUNS := runs/train
MARKS := $(if $(filter-out 0,$(SLOW)),-m "",)

# Bytecode is kept, whatever the environment says: tests and loaders start hundreds of processes, and one that compiles
# torch's source again takes twice as long to start.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint types install clean
.DEFAULT_GOAL := test

install: $(STAMP)

# Nothing is installed again until the dependencies change; bytecode is made of what is imported, not of all 11,000 files.
# lvis and timm are what the tests compare with; they come alone, because lvis asks for opencv-python, which overwrites the
# headless one, and timm for clients of a model hub. All else that they use is there.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt --no-deps lvis timm
	touch $@

demo: $(STAMP)
	$(IIFDET) train model=yolov3-nano data=demo adjust=none name=demo-softmax exist_ok=true
	$(IIFDET) val weights=$(RUNS)/demo-softmax/weights/last.pt adjust=iif name=demo-iif-after exist_ok=true
	$(IIFDET) train model=yolov3-nano data=demo adjust=iif name=demo-iif exist_ok=true
	$(IIFDET) compare $(RUNS)/demo-softmax runs/val/demo-iif-after $(RUNS)/demo-iif
	@echo 'pictures: $(RUNS)/demo-softmax and runs/val/demo-iif-after (start with tail.png and val_batch0_pred.jpg)'

# One torch thread a worker (tests/conftest.py): JOBS workers keep JOBS cores busy, more would get in each other's way.
test: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(MARKS) $(ARGS)

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(STAMP)
	$(BIN)/python -m mypy

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
