#!/usr/bin/env bash
# A shell, or a command, inside a running lab: enter.sh [COMMAND...]; a guest's shell: enter.sh GUEST [COMMAND...].
set -euo pipefail
cache=${LAB_CACHE:-/var/tmp/rfs-lab}
outside=$(cat "$cache/pid")
inside=$(pgrep -P "$outside" | head -1)
into=(nsenter --target "$inside" --net --mount --pid)
number=
case ${1:-} in sto[0-9]) number=${1#sto} ;; chunk[0-9]) number=$((100 + ${1#chunk})) ;; esac
[ -n "$number" ] || exec "${into[@]}" "${@:-bash}"
shift
exec "${into[@]}" ssh -F none -i "$cache/ssh/key" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "root@10.3.0.$number" "$@"
