#!/usr/bin/env bash
# Installs what the system lacks, from Debian's packages and crates.io, and says what it does.
#
#   prerequisites.sh build     the linker
#   prerequisites.sh run       what a cluster on this machine needs (fuse3, xfsprogs)
#   prerequisites.sh test      what the test suite needs beside that
#   prerequisites.sh verify    what `make verify` needs beside that
#   prerequisites.sh bench     what `make bench` needs beside a cluster: MooseFS to measure against, git, SQLite
#   prerequisites.sh lab       what `make lab` needs: Ansible, debootstrap, disk images, ssh (the emulator is unpacked by the lab)
#
# Changes nothing where everything is there. Needs root to install; without it, it names the packages and fails.
set -euo pipefail

# program:package
build=(ld.lld:lld cc:gcc)
run=(fusermount3:fuse3 mkfs.xfs:xfsprogs findmnt:util-linux)
test=(git:git rsync:rsync sqlite3:sqlite3 setfattr:attr setfacl:acl chromium:chromium python3:python3 openssl:openssl losetup:mount
      xfs_io:xfsprogs mkfs.xfs:xfsprogs nbdkit:nbdkit nbdfuse:libnbd-bin ip:iproute2 nft:nftables unshare:util-linux)
# Its daemons are in /usr/sbin, and nothing of it is started by being installed.
bench=(mfsmaster:moosefs-master mfschunkserver:moosefs-chunkserver mfsmount:moosefs-client git:git sqlite3:sqlite3 ip:iproute2
       nsenter:util-linux mkfs.xfs:xfsprogs losetup:mount)
lab=(ansible-playbook:ansible debootstrap:debootstrap qemu-img:qemu-utils mke2fs:e2fsprogs ip:iproute2 ssh:openssh-client python3:python3
     unshare:util-linux nsenter:util-linux)

missing() {
  local pair
  for pair in "$@"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || echo "${pair#*:}"
  done | sort -u
}

install_packages() {
  local packages
  packages=$(missing "$@")
  [ -z "$packages" ] && return 0
  # shellcheck disable=SC2086
  set -- $packages
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "These packages are missing: $*. Install them (on Debian, as root: apt-get install $*), then run this again." >&2
    exit 1
  fi
  echo "Installing $*"
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 || {
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
  }
}

# cargo_tool TOOL [cargo install's options]
cargo_tool() {
  command -v "$1" >/dev/null || cargo "${1#cargo-}" --version >/dev/null 2>&1 || {
    echo "Installing $1 from crates.io"
    CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 cargo install --locked --quiet "$@"
  }
}

case "${1:-}" in
  build) install_packages "${build[@]}" ;;
  run) install_packages "${run[@]}" ;;
  test)
    install_packages "${build[@]}" "${run[@]}" "${test[@]}"
    # Not optimized: it compiles in less than half the time, and waits for tests either way.
    cargo_tool cargo-nextest --debug --no-default-features --features default-no-update
    "$(dirname "$0")/pjdfstest.sh" --install ;;
  bench) install_packages "${bench[@]}" ;;
  lab) install_packages "${lab[@]}" ;;
  verify) cargo_tool cargo-deny; cargo_tool cargo-machete ;;
  *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
