#!/usr/bin/env bash
# Make the picture in the README from a report. Usage:
# docs/screenshot.sh reports/published/torch.nn.functional/index.html
set -euo pipefail

page=$(realpath "$1")
picture=$(realpath "$(dirname "$0")")/report.png
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT

chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run \
    --disable-background-networking --disable-component-update --disable-sync --hide-scrollbars \
    --user-data-dir="$profile" --window-size=1280,1000 --screenshot="$picture" "file://$page" 2>/dev/null
