#!/usr/bin/env bash
# LoRA on a Llama of one billion random weights, with hybrid and with PEFT; a recipe and the parity
# tests on the graphics card. `cargo xtask bench-gpu` lays this file out with all that it starts.
#
#   ./run.sh [FOLDER]     figures and logs go to FOLDER, ./out when it is left out
#
# The machine needs an NVIDIA driver, libnvrtc and the CUDA headers; for the peer a Python with torch,
# transformers and peft (PYTHON names it); for Vulkan libvulkan.so.1. What is not there is left out.
# LIMIT is the number of seconds for all of it (540). PARTS says what is done ("bench tests more"), DEVICE
# on what beside Vulkan (cuda, or tch-cuda with LD_LIBRARY_PATH naming libtorch's libraries), PEER_DEVICE
# on what the peer runs (cuda). SIZES and SHAPE make the base and the batch. PEAK_BFLOAT16 and
# PEAK_TENSORFLOAT32 are what the card can do in TFLOP/s (those of an H100 without sparsity).
set -uo pipefail
cd "$(dirname "$0")"
out="${1:-out}"
mkdir -p "$out"
out="$(cd "$out" && pwd)"
: >"$out/steps.txt"
: >"$out/probes.log"
work="$(mktemp -d)"
python="${PYTHON:-python3}"
limit="${LIMIT:-540}"
sizes="${SIZES:-}"
shape="${SHAPE:---rows 8 --seq 512 --warmups 5 --steps 20}"
device="${DEVICE:-cuda}"
parts=" ${PARTS:-bench tests more} "
trap 'rm -rf "$work"' EXIT

left() {
    echo $((limit - SECONDS))
}

# step NAME SECONDS COMMAND...: output to NAME.json, messages to NAME.log, memory to NAME.memory.
step() {
    local name=$1 allowed=$2 begin=$SECONDS watcher="" rc
    shift 2
    [ "$(left)" -lt "$allowed" ] && allowed=$(left)
    if [ "$allowed" -lt 10 ]; then
        echo "$name: no time left" | tee -a "$out/steps.txt"
        return 1
    fi
    if [ -n "${WATCH:-}" ] && command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -lms 200 \
            >"$out/$name.memory" 2>/dev/null &
        watcher=$!
        sleep 0.5
    fi
    timeout -k 5 "$allowed" "$@" >"$out/$name.json" 2>"$out/$name.log"
    rc=$?
    [ -n "$watcher" ] && kill "$watcher" 2>/dev/null
    echo "$name: status $rc after $((SECONDS - begin)) s (of $allowed)" | tee -a "$out/steps.txt"
    return "$rc"
}

# The folders of a CUDA toolkit, of the wheels that PyTorch brings, and of the driver.
toolkits() {
    local wheels
    [ -n "${CUDA_PATH:-}" ] && echo "$CUDA_PATH"
    command -v nvcc >/dev/null && dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")"
    ls -d /usr/local/cuda /usr/local/cuda-* /opt/cuda 2>/dev/null
    wheels="$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' 2>/dev/null)"
    ls -d "$wheels"/nvidia/cu1[0-9] "$wheels"/nvidia/cuda_runtime 2>/dev/null
}

libraries() {
    local root=$1 wheels
    wheels="$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' 2>/dev/null)"
    ls -d "$root"/lib64 "$root"/lib "$root"/targets/x86_64-linux/lib "$wheels"/nvidia/*/lib \
        /usr/local/nvidia/lib64 2>/dev/null | paste -sd:
}

# A first step on a tiny model, with the first toolkit that can do it.
probe() {
    local root
    while read -r root; do
        [ -e "$root/include/cuda_runtime.h" ] || continue
        export CUDA_PATH="$root"
        export LD_LIBRARY_PATH="$(libraries "$root")${driver:+:$driver}"
        echo "probe with $root, $LD_LIBRARY_PATH" >>"$out/steps.txt"
        step "probe" 60 ./lora_gpu --model fixtures/models/llama_tied/model --device cuda \
            --rows 2 --seq 8 --warmups 1 --steps 1 && return 0
        cat "$out/probe.log" >>"$out/probes.log"
    done < <(toolkits | awk '!seen[$0]++')
    return 1
}

driver="${LD_LIBRARY_PATH:-}"
icd=/usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json
[ -z "${VK_DRIVER_FILES:-}" ] && [ -e "$icd" ] && export VK_DRIVER_FILES="$icd"
{
    date -u +%Y-%m-%dT%H:%M:%SZ
    uname -sr
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv
    command -v nvcc && nvcc --version
} >"$out/machine.txt" 2>&1

part() {
    [[ $parts == *" $1 "* ]]
}

if part bench || part more; then
    # shellcheck disable=SC2086
    step write 150 "$python" lora_gpu.py write "$work/base" $sizes &
fi
if [ "$device" = cuda ] && ! probe; then
    echo "CUDA is not usable here: Vulkan takes its place" | tee -a "$out/steps.txt"
    device=wgpu
fi
wait

peer() {
    local name=$1
    shift
    # shellcheck disable=SC2086
    WATCH=1 step "$name" 100 "$python" lora_gpu.py train "$work/base" $shape "$@"
}
own() {
    local name=$1 allowed=$2
    shift 2
    # What was measured to choose kernels serves the next step, too.
    # shellcheck disable=SC2086
    CUBECL_ENVIRONMENT=steps WATCH=1 step "$name" "$allowed" ./lora_gpu --model "$work/base" $shape \
        --limit $((allowed - 40)) "$@"
}

peer_device="${PEER_DEVICE:-cuda}"
# Without a network the peer would wait for the hub, of which it needs nothing.
export HF_HUB_OFFLINE=1
half=(--dtype bfloat16 --peak "${PEAK_BFLOAT16:-989}")
whole=(--dtype float32 --peak "${PEAK_TENSORFLOAT32:-494}")
if part bench; then
    peer peft-bfloat16 --device "$peer_device" "${half[@]}"
    own hybrid-bfloat16 240 --device "$device" "${half[@]}" ||
        own hybrid-bfloat16-2-rows 150 --device "$device" "${half[@]}" --rows 2
    own hybrid-float32 200 --device "$device" "${whole[@]}" ||
        own hybrid-float32-2-rows 150 --device "$device" "${whole[@]}" --rows 2
    peer peft-float32 --device "$peer_device" "${whole[@]}"
fi

# Programs that run at the same time keep what they compile apart.
recipe() {
    CUBECL_ENVIRONMENT="recipe-$1" step "recipe-$1" 150 ./hybrid train recipes/t5_from_scratch.toml --device "$1" \
        --set stages.0.epochs=4 --set stages.0.evaluate_every=2 --out "$work/recipe-$1"
    cp "$work/recipe-$1/report.json" "$out/recipe-$1.report.json" 2>/dev/null
}
# parity NAME DEVICE TOLERANCE TESTS...
parity() {
    local name=$1 on=$2 tolerance=$3
    shift 3
    HYBRID_FIXTURES="$PWD/fixtures" HYBRID_PROGRAM="$PWD/hybrid" HYBRID_DEVICE="$on" \
        HYBRID_TOLERANCE="$tolerance" CUBECL_ENVIRONMENT="$name" step "parity-$name" 150 \
        ./tests --test-threads 6 "$@"
}
if part tests; then
    models=(parity_models parity_bfloat16)
    methods=(backends:: parity_adapters parity_training)
    for on in $(printf '%s\n' flex wgpu "$device" | sort -u); do recipe "$on" & done
    parity "$device-models" "$device" 0 "${models[@]}" &
    parity "$device-methods" "$device" 0 "${methods[@]}" &
    [ "$device" != wgpu ] && parity wgpu wgpu 0 parity_models::encoders backends:: train::eval &
    wait
    # TensorFloat-32 is not as near as the fixtures ask for.
    if grep -q "parity-$device-.*status [1-9]" "$out/steps.txt"; then
        parity "$device-models-wide" "$device" 0.02 "${models[@]}" &
        parity "$device-methods-wide" "$device" 0.02 "${methods[@]}" &
        wait
    fi
fi

if part more; then
    [ "$device" != wgpu ] && own hybrid-wgpu-float32 150 --device wgpu "${whole[@]}"
    peer peft-bfloat16-all --device "$peer_device" "${half[@]}" --targets all-linear
    own hybrid-bfloat16-all 150 --device "$device" "${half[@]}" --targets all-linear
fi

{
    cat "$out/machine.txt" "$out/steps.txt"
    cd "$out" || exit
    grep '^test result' parity-*.json /dev/null
    grep -m 1 '"value"' recipe-*.report.json /dev/null
    cd - >/dev/null || exit
    "$python" lora_gpu.py table "$out"/peft-*.json "$out"/hybrid-*.json --out "$out/figures.json"
} 2>&1 | tee "$out/summary.txt"
