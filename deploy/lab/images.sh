#!/usr/bin/env bash
# What the lab needs from elsewhere, while there is a network: the emulator and the root of the guests, kept in LAB_CACHE. Then the lab
# itself, in a network of its own. Started by lab.sh, with the settings in LAB_*.
set -euo pipefail
# shellcheck source=/dev/null
for part in image say; do . "$LAB/lib/$part.sh"; done

say "images"
image_qemu
image_base
exec unshare --net bash "$LAB/inside.sh" "$@"
