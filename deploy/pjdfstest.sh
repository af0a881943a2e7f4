#!/usr/bin/env bash
# Runs the pjdfstest suite (crates.io) on a folder, with every feature that Linux has.
#
#   pjdfstest.sh FOLDER [FILTER...]     all cases, or those with FILTER in their name
#   pjdfstest.sh --install              only installs the suite, if it is missing
#
# Prints the suite's own lines, then one line "left out: CASE" for each case that was skipped. Fails if any case fails.
# Needs root. Installs the suite into RFS_TOOLS_DIR (~/.cache/rfs-tools) unless it is in PATH.
set -euo pipefail

version=0.2.2
tools=${RFS_TOOLS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/rfs-tools}

suite=$(command -v pjdfstest || echo "$tools/bin/pjdfstest")
if [ ! -x "$suite" ]; then
  echo "Installing pjdfstest $version from crates.io"
  CARGO_INCREMENTAL=0 cargo install --locked --quiet --root "$tools" --version "$version" pjdfstest
fi
case "${1:-}" in
  --install) exit 0 ;;
  ''|-*) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
[ "$(id -u)" = 0 ] || { echo "pjdfstest changes users: run it as root." >&2; exit 1; }

folder=$(realpath "$1")
shift
work=$(mktemp -d)
second=$work/second
finish() {
  umount "$second" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT

# Some cases want a name on another filesystem.
mkdir "$second"
mount -t tmpfs -o size=16m none "$second"

# nobody and daemon are users of every Debian, each with a group of its own.
configure() {
  cat <<CONFIG
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.02
allow_remount = $1
# Counts up to pathconf(_PC_LINK_MAX), for which glibc invents 127 on a filesystem that it does not know. On XFS the
# suite leaves this case out itself.
expected_failures = [$2]
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
CONFIG
}

run() {
  local status=0
  env -u RUST_BACKTRACE "$suite" -c "$1" -p "$folder" -s "$second" "${@:2}" 2>&1 | sed 's/\x1b\[[0-9;]*m//g' | tee -a "$work/said" || status=1
  return $status
}

unlimited='"link::link_count_max"'
[ "$(stat -f -c %T "$folder")" != xfs ] || unlimited=''
configure false "$unlimited" > "$work/config.toml"
configure true "$unlimited" > "$work/remount.toml"

failed=0
run "$work/config.toml" "$@" || failed=1
# Cases that remount read-only run in a process of their own, which has nothing open from before. mount(8) needs rfs's helper for
# that (`make install`); without it they stay left out on a mount of rfs, and tests/tests/coherence.rs has its own.
if [ $# = 0 ] && { [ "$(findmnt -n -o FSTYPE -T "$folder")" != fuse.rfs ] || [ -x /sbin/mount.fuse.rfs ]; }; then
  sed -i '/erofs.*skipped/d' "$work/said"
  if mountpoint -q "$folder"; then run "$work/remount.toml" erofs || failed=1; fi
fi
sed -n 's/^\([a-z_0-9:]*\) *\(skipped\|failed as expected\)$/left out: \1/p' "$work/said"
exit $failed
