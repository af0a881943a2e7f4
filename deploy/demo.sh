#!/usr/bin/env bash
# Shows that it works: starts a cluster of real processes, copies a real tree in, compares it, kills a chunkserver with
# SIGKILL, and compares again. The cluster stays; `make demo-down` ends and removes it.
#
#   demo.sh BIN_DIR CLUSTER_DIR
set -euo pipefail
bin=$(cd "$1" && pwd)
dir=$2
tree=$(cd "$(dirname "$0")/.." && pwd)

say() { printf '\n== %s\n' "$*"; }
compare() { diff -r --no-dereference -x target -x .git "$tree" "$dir/mnt/tree" && echo "identical: $(find "$dir/mnt/tree" -type f | wc -l) files"; }

# Where the master is; starts what is down.
master() { "$bin/rfs" --json quickstart --dir "$dir" | sed -n 's/.*"master": "\(.*\)".*/\1/p'; }

say "A master, three chunkservers and a mount"
"$bin/rfs" quickstart --dir "$dir"

say "Copying this repository in, and comparing"
rm -rf "$dir/mnt/tree"
mkdir "$dir/mnt/tree"
tar -C "$tree" --exclude=./target --exclude=./.git -cf - . | tar -C "$dir/mnt/tree" -xf -
sync -f "$dir/mnt/tree"
compare

say "Killing chunkserver1 with SIGKILL, and comparing again from what is left"
master=$(master)
kill -9 "$(cat "$dir/run/chunkserver1.pid")"
# What the kernel has cached would prove nothing.
[ ! -w /proc/sys/vm/drop_caches ] || echo 3 > /proc/sys/vm/drop_caches
compare
# It says what is missing, with an exit status of its own: that is as it should be here.
"$bin/rfs" status --files 3 --master "$master" || true

say "Starting it again, and waiting until everything has its copies"
"$bin/rfs" quickstart --dir "$dir" >/dev/null
"$bin/rfs" status --wait 2m --master "$master"

say "It goes on running"
"$bin/rfs" quickstart --dir "$dir"
[ "$dir" = /var/tmp/rfs-demo ] && echo "Remove it with: make demo-down" || echo "Remove it with: make demo-down DEMO=$dir"
