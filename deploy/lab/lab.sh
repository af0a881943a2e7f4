#!/usr/bin/env bash
# The storage network in emulated guests: storage machines with software RAID and iSCSI targets, chunk machines with two
# paths to each volume, provisioned by deploy/ansible; master and client run beside them, on this machine.
#
#   lab.sh small [TEST...]   sto1, chunk1, chunk2
#   lab.sh full  [TEST...]   sto1, sto2, chunk1, chunk2, chunk3
#
# TEST is a file of tests/ without its .sh; without one, every test that fits. "none": only provision. "stay": provision and
# wait until the lab is ended with Ctrl-C (deploy/lab/enter.sh shows the way in).
#
# Everything runs in namespaces of its own (network, processes, mounts): no interface, process or mount of this machine is
# touched, and when this script ends, by itself, by Ctrl-C, or killed outright, the kernel takes them all away.
#
# Settings (environment):
#   LAB_CACHE      images, kept between runs                          [/var/tmp/rfs-lab]
#   LAB_LOGS       consoles, logs of daemons, results, kept           [LAB_CACHE/logs/DATE]
#   LAB_PROGRAMS   folder with mfs-master, chunkserver, rfs, mount-rfs [target/release]
#   LAB_MIRROR     Debian mirror for the image        [that of this machine, else deb.debian.org]
#   LAB_ACCEL      tcg or kvm                                         [tcg]
#   LAB_CHAP=1     let initiators log in with CHAP
#   LAB_STAY=1     keep the lab up after a failure, until Ctrl-C
set -euo pipefail
lab=$(cd "$(dirname "$0")" && pwd)
size=${1:-}
case $size in small | full) shift ;; *) sed -n '2,24s/^# \{0,1\}//p' "$0" >&2; exit 2 ;; esac
[ "$(id -u)" = 0 ] || { echo "The lab makes namespaces and mounts images: run it as root." >&2; exit 1; }

export LAB=$lab LAB_SIZE=$size LAB_DEPLOY=${lab%/lab}
export LAB_CACHE=${LAB_CACHE:-/var/tmp/rfs-lab} LAB_ACCEL=${LAB_ACCEL:-tcg}
export LAB_PROGRAMS=${LAB_PROGRAMS:-$(cd "$lab/../.." && pwd)/target/release}
export LAB_LOGS=${LAB_LOGS:-$LAB_CACHE/logs/$(date +%Y-%m-%d-%H%M%S)-$size}
for program in mfs-master chunkserver rfs mount-rfs; do
  [ -x "$LAB_PROGRAMS/$program" ] || { echo "$LAB_PROGRAMS/$program is missing: make build, or name the folder with LAB_PROGRAMS." >&2; exit 1; }
done
"$lab/../prerequisites.sh" lab

mkdir -p "$LAB_CACHE" "$LAB_LOGS"
exec 9>"$LAB_CACHE/lock"
flock -n 9 || { echo "Another lab uses $LAB_CACHE: wait for it, or name another folder with LAB_CACHE." >&2; exit 1; }
rm -rf "$LAB_CACHE"/run.* # of a lab that was killed; the lock says that none runs
LAB_RUN=$(mktemp -d "$LAB_CACHE/run.XXXXXX")
export LAB_RUN
child=
clean() {
  trap - EXIT INT TERM HUP
  # Without its parent the first process of the namespace is killed, and with it everything in there.
  [ -z "$child" ] || { kill -KILL "$child" 2>/dev/null || true; wait "$child" 2>/dev/null || true; }
  cp -f "$LAB_RUN"/*.log "$LAB_LOGS/" 2>/dev/null || true
  # The guests let go of their images a moment later.
  for _ in 1 2 3 4 5; do rm -rf "$LAB_RUN" 2>/dev/null && break; sleep 1; done
  echo "Consoles and logs: $LAB_LOGS"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --mount-proc \
  nice -n "${LAB_NICE:-10}" bash "$lab/images.sh" "$@" 9>&- &
child=$!
echo "$child" >"$LAB_CACHE/pid"
status=0
wait "$child" || status=$?
child=
exit "$status"
