#!/usr/bin/env bash
# The lab itself, as the first process of its namespaces: images.sh becomes it, with the settings in LAB_*.
set -euo pipefail
# shellcheck source=/dev/null
for part in say image network guests cluster paths append results; do . "$LAB/lib/$part.sh"; done

if [ "$LAB_SIZE" = small ]; then storage=(sto1) chunks=(chunk1 chunk2); else storage=(sto1 sto2) chunks=(chunk1 chunk2 chunk3); fi
guests=("${storage[@]}" "${chunks[@]}")

# LAB_STAY=1: after a failure the lab is kept for a look at it, until it is ended with Ctrl-C.
stay_or_end() {
  [ -n "${LAB_STAY:-}" ] || exit 1
  say "failed; the lab stays up"
  sleep infinity
}

image_qemu
for guest in "${guests[@]}"; do image_guest "$guest"; done
image_install
say "starting ${guests[*]}"
network_up
cluster_master
for guest in "${guests[@]}"; do guest_disks "$guest"; guest_start "$guest"; done
for guest in "${guests[@]}"; do guest_wait "$guest"; done
say "the guests are up; Ansible makes their arrays, targets, sessions and volumes"
provision first || stay_or_end
if [ -z "${LAB_ONCE:-}" ]; then
  say "Ansible again: nothing may change"
  provision second || stay_or_end
  result_idempotence
fi
cluster_mount
say "mounted"
"$LAB_PROGRAMS/rfs" volumes | tee -a "$LAB_LOGS/lab.log"

tests=("$@")
if [ ${#tests[@]} = 0 ]; then mapfile -t tests < <(grep -lE "^# Fits: .*\b$LAB_SIZE\b" "$LAB"/tests/*.sh | xargs -n 1 basename -s .sh); fi
for name in "${tests[@]}"; do
  case $name in none) break ;; stay) say "up; end it with Ctrl-C"; sleep infinity ;; esac
  run_test "$name"
done
result_table || stay_or_end
