# Every command a person types. The lines inside are plain: without `just`, paste them.

python := env("PYTHON", "python3")
bin := ".venv/bin"

# List the recipes
default:
    @just --list --unsorted

# Run the main job: 1,000 puzzles through Ray and our engine with the packaged checkpoint
demo *args: (_venv "engine")
    {{bin}}/dgbatch submit jobs/demo.yaml {{args}}

# Run the tests in two processes and report coverage; takes what pytest takes: just test -k commit -n 0
test *args: (_venv "dev")
    {{bin}}/python -m pytest -n 2 --dist loadfile --cov --cov-report=term --cov-fail-under=90 {{args}}

# Tests that take minutes: the demo checkpoint against transformers over 500 puzzles, bars of its training
test-slow *args: (_venv "dev,evaluate")
    {{bin}}/python -m pytest -m slow --timeout=1800 {{args}}

# Tests that kill processes, cut links and fill disks, for about ten minutes; the seed of random faults is printed
test-faults *args: (_venv "dev,stores") _azurite
    {{bin}}/python -m pytest -m faults --timeout=600 {{args}}

# What kernels must do on a GPU, in under 8 minutes; takes the machine's own Python and installs nothing
test-gpu *args:
    {{python}} -m pytest -c tests/gpu/pytest.ini tests/gpu {{args}}

# Style and types
lint: (_venv "dev")
    {{bin}}/ruff check .
    {{bin}}/ruff format --check .
    {{bin}}/mypy

# Rewrite the code in our style
format: (_venv "dev")
    {{bin}}/ruff check --fix .
    {{bin}}/ruff format .

# Rewrite golden files and generated docs, then show what changed
golden: (_venv "dev")
    {{bin}}/python -m pytest --update-golden -m "not slow and not gpu and not faults" -k golden
    git diff --stat tests docs

# Rewrite the pages that are generated from the code, docs/job.md, docs/cli.md and docs/metrics.md, and the dashboards' JSON
docs: (_venv "dev")
    {{bin}}/python docs/generate.py
    {{bin}}/python -m dashboards.generate

# Prometheus on http://127.0.0.1:9090 watches your jobs until Ctrl-C; `just demo` in another terminal is one
monitor: (_venv "engine")
    @command -v prometheus >/dev/null || { echo "Prometheus is not there. Debian has it: apt-get install prometheus"; exit 1; }
    {{bin}}/dgbatch dashboards export runs/monitoring --force
    prometheus --config.file=runs/monitoring/prometheus.yaml --storage.tsdb.path=runs/monitoring/data --web.listen-address=127.0.0.1:9090 --log.level=warn

# Solved share of the demo checkpoint per task, on fresh puzzles
evaluate *args: (_venv "dev,evaluate")
    {{bin}}/python -m dgbatch.demo.train --evaluate {{args}}

# Our engine against transformers, one token a pass and lockstep batches; takes what `dgbatch bench engine` takes
bench *args: (_venv "engine,bench")
    {{bin}}/dgbatch bench roofline --measure
    {{bin}}/dgbatch bench engine {{args}}

# Kernels against their limits, and the real shape's step against its floor and transformers; dry: --device cpu --tiny
bench-gpu *args: (_venv "engine,kernels,bench")
    {{bin}}/dgbatch bench kernels {{args}}
    {{bin}}/dgbatch bench engine --model random-26b {{args}}

# Our runner without a model, and Ray Data; takes what `dgbatch bench runner` takes
bench-runner *args: (_venv "bench")
    {{bin}}/dgbatch bench runner {{args}}

# Remove the environment and everything runs left behind
clean:
    rm -rf .venv runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* htmlcov

# The one emulator of a store that comes by npm; without npm its tests skip themselves
_azurite:
    @[ -x .venv/npm/node_modules/.bin/azurite-blob ] || ! command -v npm >/dev/null || npm install --silent --no-fund --no-audit --prefix .venv/npm azurite@3

# Our own virtual environment, made anew when pyproject.toml changed
_venv extras:
    #!/usr/bin/env bash
    set -euo pipefail
    stamp=".venv/ready-{{replace(extras, ",", "-")}}"
    if [ ! -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
        [ -x {{bin}}/python ] || {{python}} -m venv .venv
        echo "Installing dgbatch[{{extras}}] into .venv (a few minutes the first time) ..."
        {{bin}}/python -m pip install --quiet --disable-pip-version-check -e '.[{{extras}}]'
        touch "$stamp"
    fi
