#!/usr/bin/env bash
# On a machine with a CUDA device: build, run the tests that need one, look for memory errors, measure; within 8 minutes.
#
#   bench/device.sh        leaves bench/results/<the device's name>.json; then bench/report.py puts it in the documentation
#
# Needs nvcc and, for the first python3 on the PATH, torch with CUDA, pytest, hypothesis and the package's dependencies.
# Nothing is installed: the package is built into a folder of its own, beside the torch that is there. Where
# scikit-build-core and pybind11 are there too, nothing is fetched either.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

step "what is here"
for tool in nvidia-smi nvcc; do
  command -v "$tool" > /dev/null || { echo "bench/device.sh needs a CUDA device and its compiler; there is no $tool"; exit 1; }
done
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
nvcc --version | tail -n 2
python3 -c 'import torch; print("torch", torch.__version__, torch.cuda.get_device_name())'

step "build, with warnings as errors"
options=(--no-deps --target "$scratch/site" -Ccmake.define.MFA_CUDA=ON -Ccmake.define.MFA_WERROR=ON
  -Ccmake.define.CMAKE_CUDA_ARCHITECTURES=native)
if python3 -c 'import scikit_build_core, pybind11' 2>/dev/null; then options+=(--no-build-isolation); fi
PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip install -q "${options[@]}" .
export PYTHONPATH=$scratch/site
python3 -c 'import mfa_fast; mfa_fast.show_config()'

status=0
# A step that fails or takes too long is said to have, at the end too, and the others are done all the same.
attempt() {
  local name=$1 seconds=$(($2 < 475 - SECONDS ? $2 : 475 - SECONDS))
  shift 2
  step "$name"
  if [ "$seconds" -gt 0 ] && timeout "$seconds" "$@"; then return; fi
  echo "FAILED, or not done within $seconds s: $name" | tee -a "$scratch/failed"
  status=1
}

attempt "tests on the device" 150 python3 -m pytest -q -p no:cacheprovider tests/gpu -k "cuda and not emulated"
attempt "figures" 200 python3 bench/device.py --json auto
sanitizer=$(command -v compute-sanitizer || echo "$(dirname "$(command -v nvcc)")/compute-sanitizer")
attempt "memory errors, on a few small tests" 150 "$sanitizer" --tool memcheck --error-exitcode 1 --log-file \
  "$scratch/sanitizer" python3 -m pytest -q -p no:cacheprovider \
  tests/gpu/test_kernels.py tests/gpu/test_screening_kernels.py \
  -k "cuda and not emulated and (test_types_of_samples or test_rows_may or test_statistics_of_known or test_reconstruct)"
if [ -f "$scratch/sanitizer" ]; then tail -n 3 "$scratch/sanitizer"; fi

step "done"
if [ -f "$scratch/failed" ]; then cat "$scratch/failed"; fi
exit "$status"
