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

# Attack, detect, evaluate and report on the embedded texts and encoder.
demo: setup
    {{ harness }} attack run --dataset embedded --victim embedded --recipe pwws --split test --limit 120 --seed 0 --out runs/demo/attack
    {{ harness }} attack show runs/demo/attack --examples 3
    {{ harness }} detect fit --victim embedded --dataset embedded --limit 2000 --detector rde --out runs/demo/rde
    printf '%s\n' 'a warm and funny film' 'a tepid and peculiar flick' | {{ harness }} detect score runs/demo/rde - --out -
    {{ harness }} eval detect --attacks runs/demo/attack --detector rde rde-empirical mle msp --train-limit 2000 --scenario s2 --seeds 0,1,2 --out runs/demo/eval --leaderboard runs/demo/leaderboard
    {{ harness }} report runs/demo/eval

# Train a tiny ViT on scans of digits, plain and self-distilled, and read every layer of both.
demo-ssl: setup
    {{ harness }} ssl demo --out runs/demo-ssl

# Run the default test suite, a file a process, on two processes; arguments go to pytest.
test *arguments: setup
    {{ python }} -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder {{ arguments }}

# Run the tests that take minutes.
test-slow: setup
    {{ python }} -m pytest -m slow

# Install Debian's Chromium, which the tests of pages open; without it they skip.
browser:
    [ -x /usr/bin/chromium ] || $([ "$(id -u)" = 0 ] || echo sudo) apt-get install --yes --quiet --no-install-recommends chromium

# Install olah, a read-only hub, in an environment of its own: its client is newer than ours. Without it its test skips.
olah:
    [ -x .venv-olah/bin/pip ] || python3 -m venv .venv-olah
    .venv-olah/bin/pip install --quiet --disable-pip-version-check olah==0.5.4

# Check style and types.
lint: setup
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy

# Mend style.
format: setup
    .venv/bin/ruff check --fix .
    .venv/bin/ruff format .

# Check the committed leaderboard as a pull request with new rows is checked (CONTRIBUTING.md).
check-leaderboard: setup
    {{ harness }} leaderboard verify
    {{ harness }} leaderboard build --check

# Measure the detectors' speed as ratios against peers, in one run.
bench: setup
    {{ python }} benchmarks/rde_fit.py

# Measure what each detector adds to a forward and takes to fit, then cost and AUC of all in one table; half an hour.
bench-detect *arguments: setup
    {{ python }} benchmarks/detector_cost.py {{ arguments }}

# Compare RDE in finished evaluations (run folders of `eval detect`) with the same detector put together from scikit-learn.
rde-composition +cells: setup
    {{ python }} benchmarks/rde_composition.py {{ cells }}

# What confidence as a further signal would bring to palimpsest, and take, in finished cells of the offline grid.
palimpsest-confidence +cells: setup
    {{ python }} benchmarks/palimpsest_confidence.py {{ cells }}

# Run the offline grid of docs/detectors.md: victims, attacks, all detectors (hours; resumes). `texts` has a folder a dataset.
offline-grid texts artifacts *arguments: setup
    {{ harness }} eval detect --suite offline --data {{ texts }} --artifacts {{ artifacts }} --out runs/offline \
        --leaderboard leaderboards/ {{ arguments }}

# Tune on another attack, ask another victim, and attack the detectors too: docs/cross-checks.md (half an hour).
cross-checks texts: setup
    #!/usr/bin/env bash
    set -euo pipefail
    out=runs/cross-checks
    pwws=$out/attacks/sst2-pwws-untargeted-minilm_lora_sst2 typos=$out/attacks/sst2-deepwordbug-untargeted-minilm_lora_sst2
    fitted="--train-limit 4000 --validation-fraction 0.3 --seeds 0"
    {{ harness }} attack restore attacks/sets/offline --dataset {{ texts }}/sst2 --out $out/attacks
    {{ harness }} eval detect --attacks $pwws --detector msp rde fgws palimpsest wdr $fitted --out $out/tuned-on-itself
    {{ harness }} eval detect --attacks $pwws --detector msp rde fgws palimpsest wdr $fitted --tune-attacks $typos --out $out/tuned-on-typos
    {{ harness }} eval detect --attacks $pwws --detector msp rde fgws palimpsest $fitted --victim minilm-lora-imdb --other-victim --out $out/other-victim
    evading="--dataset {{ texts }}/sst2 --victim minilm-lora-sst2 --recipe deepwordbug --split test --limit 100 --max-length 128 --threads 1"
    {{ harness }} attack run $evading --out $out/evading-nothing
    for detector in rde palimpsest; do
        {{ harness }} detect fit --victim minilm-lora-sst2 --dataset {{ texts }}/sst2 --limit 4000 --detector $detector \
            --max-length 128 --out $out/$detector
        {{ harness }} attack run $evading --evade $out/$detector --out $out/evading-$detector
    done
    {{ harness }} attack stats $out/evading-nothing $out/evading-rde
    {{ harness }} attack stats $out/evading-rde $out/evading-palimpsest

# Attack the same texts with TextAttack and with this, recipe by recipe; `--artifacts DIR` has what they need.
bench-attack *arguments: setup
    {{ python }} benchmarks/attack_speed.py {{ arguments }}

# Make the stand-ins that `bench-attack` and the recipes' variants need.
stand-ins: setup
    {{ harness }} fetch minilm counterfitted-glove nltk-tagger minilm-masked-lm

# Measure training steps, k-NN and layer reading, against the bare model, lightly and faiss.
bench-ssl: setup
    .venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[bench]"
    {{ python }} benchmarks/ssl_speed.py
    {{ python }} benchmarks/knn_speed.py
    {{ python }} benchmarks/layer_reading.py

# Train and read the encoders of docs/layers.md: two objectives, plain and self-distilled, three seeds (hours; resumes).
cifar-grid cifar tiny_imagenet: setup
    #!/usr/bin/env bash
    set -euo pipefail
    for seed in 0 1 2; do for objective in mocov3 simclr; do for way in baseline sd; do
        run=runs/cifar-grid/$objective-$way-$seed
        {{ harness }} ssl train --objective $objective $([ $way = sd ] && echo --self-distill) --seed $seed \
            --data {{ cifar }} --limit 10000 --epochs 4 --batch-size 64 --preset tiny --learning-rate 5e-3 --momentum 0.98 \
            --arch vit_tiny_patch16_224 --image-size 32 --patch-size 4 --depth 12 --width 64 --heads 2 \
            --precision bf16 --out $run
        {{ harness }} eval ssl --encoder $run --data {{ cifar }} --transfer {{ tiny_imagenet }} --train-limit 10000 \
            --poolings cls,cls-last4 --leaderboard leaderboards/ --out $run-layers
    done; done; done
    {{ harness }} ssl compare leaderboards/ --protocol knn-20

# Make the shipped word resources again from an NLTK data folder.
resources nltk_data: setup
    {{ python }} attacks/make_resources.py --nltk-data {{ nltk_data }}
