#!/usr/bin/env bash
# Makes an environment, installs, prunes a trained model, verifies and times the result.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
source "$root/scripts/env.sh" "$work/env" ""
model="$root/models/digits_resnet.onnx"
run="$work/env/bin/onnxprune"

echo "== what can be removed =="
"$run" inspect "$model"
echo "== prune to half of the MACs, chosen and repaired on 256 inputs without labels =="
"$run" prune "$model" -o "$work/pruned.onnx" --target macs=0.5 --align 4 --plan "$work/plan.json" \
    --calib "$root/models/digits_calib.npz"
echo "== check it as somebody who does not trust us =="
"$run" verify "$work/pruned.onnx" --original "$model" --plan "$work/plan.json"
echo "== time it =="
"$run" bench "$model" "$work/pruned.onnx"
echo "== accuracy on held-out digits, before and after =="
"$work/env/bin/python" "$root/scripts/accuracy.py" "$model" "$work/pruned.onnx"
