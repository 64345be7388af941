# Everything runs in the environment of this checkout; `setup` makes it and is quick the second time.
set shell := ["bash", "-euo", "pipefail", "-c"]

python := ".venv/bin/python"
harness := ".venv/bin/harness"

# List the recipes.
default:
    @{{ just_executable() }} --list

# Install this checkout with everything, under the tested constraints.
setup:
    #!/usr/bin/env bash
    set -euo pipefail
    [ -x {{ python }} ] || python3 -m venv .venv
    stamp=.venv/.installed-$({ pwd; cat pyproject.toml constraints.txt; } | sha256sum | cut -c1-16)
    [ -e "$stamp" ] && exit 0
    echo "installing into .venv (some minutes the first time) ..."
    .venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[all]"
    rm -f .venv/.installed-*
    touch "$stamp"

# Attack, detect and evaluate on the embedded texts and encoder.
demo: setup
    {{ harness }} attack run --dataset embedded --victim embedded --recipe pwws --split test --limit 120 --seed 0 --out runs/demo/attack
    {{ harness }} attack show runs/demo/attack --examples 3
    {{ harness }} detect fit --victim embedded --dataset embedded --limit 2000 --detector rde --out runs/demo/rde
    printf '%s\n' 'a warm and funny film' 'a tepid and peculiar flick' | {{ harness }} detect score runs/demo/rde - --out -
    {{ harness }} eval detect --attacks runs/demo/attack --detector rde rde-empirical mle msp --train-limit 2000 --scenario s2 --seeds 0,1,2 --out runs/demo/eval --leaderboard runs/demo/leaderboard

# Run the default test suite; arguments go to pytest.
test *arguments: setup
    {{ python }} -m pytest -m "not slow" {{ arguments }}

# Run the tests that take minutes.
test-slow: setup
    {{ python }} -m pytest -m slow

# Check style and types.
lint: setup
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy

# Mend style.
format: setup
    .venv/bin/ruff check --fix .
    .venv/bin/ruff format .

# Measure speed as ratios against peers, in one run.
bench: setup
    {{ python }} benchmarks/attack_speed.py
    {{ python }} benchmarks/rde_fit.py

# Measure training steps, k-NN and layer reading, against the bare model, lightly and faiss.
bench-ssl: setup
    .venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[bench]"
    {{ python }} benchmarks/ssl_speed.py
    {{ python }} benchmarks/knn_speed.py
    {{ python }} benchmarks/layer_reading.py

# Make the shipped word resources again from an NLTK data folder.
resources nltk_data: setup
    {{ python }} attacks/make_resources.py --nltk-data {{ nltk_data }}
