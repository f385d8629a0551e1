#!/usr/bin/env bash
# Rebuild what `model=tiny feedback=arithmetic` ships: teach a random tiny Llama sums as a careless teacher works them,
# and collect thumbs on its own answers. Five to seven minutes of one core. Run from the top of the checkout:
#     bash scripts/build_tiny.sh build
set -euo pipefail
out=${1:?the folder to build into}
export OMP_NUM_THREADS=1  # the weights repeat bit for bit only with the same number of threads

kto-lab train model=tiny model.weights=random feedback=worked_sums loss=sft trainer=cpu run_dir="$out/run" \
    optimization.batch_size=64 optimization.learning_rate=2e-3 optimization.epochs=5 \
    optimization.keep_prompts_together=false optimization.micro_batch_tokens=16384 optimization.checkpoint_every=1000 \
    evaluation=quick evaluation.max_new_tokens=4 evaluation.prompts=500
cp "$out/run/policy/config.json" "$out/run/policy/model.safetensors" kto_lab/models/tiny_arithmetic/

kto-lab feedback collect model=tiny trainer=cpu prompts=arithmetic prompts.prompts=1500 \
    sampling.worked_samples=0 sampling.temperature=1 sampling.max_new_tokens=4 sampling.block=1500 \
    output="$out/arithmetic.parquet"
cp "$out/arithmetic.parquet" kto_lab/feedback/data/
