#!/usr/bin/env bash
# Captions example pictures with the embedded model and shows the result. Safe to run again.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

pictures=quickstart/pictures
out=quickstart/captions
rm -rf quickstart
.venv/bin/python scripts/draw_shapes.py "$pictures" --count 32 --seed 2026
echo
.venv/bin/python -m caption.run "$pictures" --output "$out" --model shapes
.venv/bin/python -m caption.report "$out"
echo
.venv/bin/python - "$out/captions.jsonl" <<'PYTHON'
import json, sys

with open(sys.argv[1], encoding="utf-8") as file:
    for line in list(file)[:5]:
        row = json.loads(line)
        print(f"{row['image']}: {row['caption']}")
PYTHON
echo
echo "Look at the pictures with their captions in $out/report.html; the captions stand in $out/captions.jsonl."
echo "Then caption your own: .venv/bin/python -m caption.run PICTURES --output OUT --model MODEL"
