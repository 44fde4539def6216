#!/bin/sh
# What to run on a machine with a real GPU, in about eight minutes: correctness first, then times. Build before:
#
#   cargo build --release --bin diffmoe
#   cargo nextest archive --release --archive-file tests.tar.zst     # where the machine has no compiler
#   sh benches/real_gpu.sh RESULTS
#
# Writes JSON of `diffmoe bench` into the folder RESULTS. DIFFMOE names the program (target/release/diffmoe).
set -eu
out=${1:?"name a folder for the results"}
diffmoe=${DIFFMOE:-target/release/diffmoe}
mkdir -p "$out"

# 1. Every kernel against f64, the whole model against PyTorch, and joined branches against two passes.
export DIFFMOE_KERNELS=gpu
if [ -f tests.tar.zst ]; then
    cargo-nextest nextest run --archive-file tests.tar.zst -E 'test(kernels::) | binary(gpu)'
else
    cargo nextest run --release -E 'test(kernels::) | binary(gpu)'
fi
for case in diffmoe_flow diffmoe_swiglu_shared; do
    "$diffmoe" verify --backend gpu "tests/fixtures/$case"
done

# 2. Single kernels: what a dispatch costs, products in every format and tile, ragged experts, attention.
"$diffmoe" bench --micro --json "$out/micro.json"

# 3. Times of a guided step and of its kernels, with both branches in one pass and in two.
measure() { # name, model, batch, steps
    for branches in together apart; do
        "$diffmoe" bench --backend gpu --model "$2" --batch "$3" --steps "$4" --branches "$branches" \
            --json "$out/$1-$3-$branches.json"
    done
}
for batch in 1 4 16; do
    measure emoji emoji "$batch" 50
done
for preset in S-E16 L-E8; do
    file="$out/$preset.safetensors"
    "$diffmoe" make-random "$preset" --out "$file"
    for batch in 1 4; do
        measure "$preset" "$file" "$batch" 10
    done
    rm "$file"
done
