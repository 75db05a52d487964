#!/usr/bin/env bash
# Runs the native code under the compiler's sanitizers. Usage: sanitize.sh PYTHON [ROUNDS]
#   1. gt_stress (tests/native) watched for data races, then for wild memory and undefined behaviour;
#   2. the Python tests of the extension, built to watch for the latter. The interpreter itself is not
#      built to be watched for races, so gt_stress stands for its threads.
# PYTHON's environment has gt-infer[test]. Stops at the first finding.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "$1")
rounds=${2:-5}
work=build/sanitize
memory=address,undefined,float-cast-overflow
PATH=$(dirname "$python"):$PATH # cmake, ninja
export TSAN_OPTIONS=halt_on_error=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export ASAN_OPTIONS=detect_stack_use_after_return=1

# build FOLDER SANITIZERS TARGET [OPTION...]
build() {
  cmake -S . -B "$1" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DGT_SANITIZE="$2" -DGT_WERROR=ON \
      "${@:4}" >/dev/null
  cmake --build "$1" --target "$3"
}

for sanitizers in thread "$memory"; do
  echo "== gt_stress: $sanitizers"
  folder=$work/${sanitizers%%,*}
  build "$folder" "$sanitizers" gt_stress -DGT_BUILD_PYTHON=OFF -DGT_BUILD_TESTS=ON
  "$folder/gt_stress" "$rounds"
done

echo "== extension: $memory"
site=$PWD/$work/site # a copy of the package with the watched extension in it
rm -rf "$site"
mkdir -p "$site"
cp -r gt_infer "$site/"
rm -f "$site"/gt_infer/*.so
build "$work/extension" "$memory" _cpu -DPython_EXECUTABLE="$python" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" \
    -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$site/gt_infer"
# The interpreter is not built with the sanitizer: its library, and the C++ one whose exceptions it
# watches, have to be loaded first. What Python keeps until it exits is not a leak. Findings go to
# the standard error that pytest must not swallow.
ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=0 \
LD_PRELOAD="$(c++ -print-file-name=libasan.so) $(c++ -print-file-name=libstdc++.so.6)" \
    "$python" -m pytest -o pythonpath="$site ." -p no:cacheprovider --capture=sys \
    tests/unit/test_cpu_engine.py tests/unit/test_splatter.py tests/unit/test_extreme_avatars.py \
    tests/unit/test_logmel.py tests/unit/test_threads.py \
    tests/stream/test_windows.py tests/stream/test_session.py
echo "sanitize: nothing found"
