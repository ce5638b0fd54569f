#!/usr/bin/env bash
# Runs the kernels' tests under memory checkers and says which of them ran:
#   AddressSanitizer  every instruction set of the processor; the tile loads and stores of AMX only where it is emulated
#   Miri              plain Rust, the smallest grids; undefined behaviour of any kind
#   Valgrind          AVX2 and plain Rust in uninstrumented code; reads of uninitialised memory too
# Each is skipped where it is not installed; ends with 1 if one finds something or if none could run.
# usage: scripts/check_memory.sh [asan] [miri] [valgrind]     (default: all three)
# shellcheck disable=SC2329 # the checkers are called by their names
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

tests=(--test ops_smallest --test ops --test amx_emulation)
host=$(rustc -vV | sed -n 's/^host: //p')
wanted=${*:-asan miri valgrind}
summary=()
ran=0
failed=0

# conclude NAME STATUS WHAT
conclude() {
    ran=$((ran + 1))
    if [ "$2" -eq 0 ]; then
        summary+=("ran      $1: $3, nothing found")
    else
        failed=1
        summary+=("FAILED   $1: $3")
    fi
}

# The sanitizer is a compiler option that is not stable yet; its run-time library comes with stable toolchains too.
asan() {
    if ! compgen -G "$(rustc --print target-libdir)/librustc*_rt.asan.a" >/dev/null; then
        summary+=("skipped  AddressSanitizer: this toolchain has no run-time library of it")
        return
    fi
    # Rust's own standard library is not instrumented; what its functions are given is. Signals are left to the tests,
    # some of which expect a child to end by one.
    RUSTC_BOOTSTRAP=1 RUSTFLAGS='-Zsanitizer=address' ASAN_OPTIONS='detect_stack_use_after_return=1:handle_segv=0:handle_sigill=0' \
        cargo test --release --locked --target "$host" --target-dir target/asan --lib "${tests[@]}"
    conclude AddressSanitizer $? "--lib ${tests[*]}"
}

miri() {
    if ! cargo +nightly miri --version >/dev/null 2>&1; then
        summary+=("skipped  Miri: not installed (rustup component add miri rust-src --toolchain nightly)")
        return
    fi
    # Worker threads never end, and their queues turn integers into pointers.
    MIRIFLAGS='-Zmiri-disable-isolation -Zmiri-ignore-leaks -Zmiri-permissive-provenance -Zmiri-tree-borrows' RAYON_NUM_THREADS=2 \
        cargo +nightly miri test --locked --target-dir target/miri --test ops_smallest
    conclude Miri $? '--test ops_smallest'
}

valgrind_() {
    if ! command -v valgrind >/dev/null; then
        summary+=("skipped  Valgrind: not installed")
        return
    fi
    # It does not know AVX-512 and tells programs that the processor has none; only its memory checks of ours count.
    local program file status=0
    for program in ops_smallest ops; do
        file=$(cargo test --release --locked --no-run --test "$program" 2>&1 | sed -n 's/.*(\(target.*\))/\1/p')
        RAYON_NUM_THREADS=2 valgrind --quiet --error-exitcode=1 --leak-check=no "$file" || status=1
    done
    conclude Valgrind $status '--test ops_smallest --test ops'
}

for checker in $wanted; do
    printf '\n== %s\n' "$checker"
    case $checker in
        asan | miri) "$checker" ;;
        valgrind) valgrind_ ;;
        *)
            echo "check_memory.sh: no checker is called $checker" >&2
            exit 2
            ;;
    esac
done

printf '\n== memory checks\n'
printf '%s\n' "${summary[@]}"
if [ "$ran" -eq 0 ]; then
    echo 'NOTHING WAS CHECKED'
    exit 1
fi
exit "$failed"
