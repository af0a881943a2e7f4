# Images: one root made by debootstrap, a copy of it for each guest, into which Ansible puts packages, files and services
# while it is a folder of this machine (connection chroot). Kept in LAB_CACHE; made again when what they are made from changes.

image_packages=systemd-sysv,udev,kmod,iproute2,open-iscsi,multipath-tools,kpartx,mdadm,targetcli-fb,xfsprogs,linux-image-amd64,procps,dbus,openssh-server,python3,python3-apt,nftables,gdisk,parted,fuse3,iputils-ping,util-linux,sg3-utils

image_mirror() {
  local mirror
  mirror=${LAB_MIRROR:-$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | sed -nE 's/^(deb|URIs:) +(https?:[^ ]*debian[^ ]*).*/\2/p' | head -1)}
  echo "${mirror:-http://deb.debian.org/debian}"
}

# The emulator: this machine's, else unpacked from its packages into the cache, which changes nothing on this machine.
image_qemu() {
  local folder=$LAB_CACHE/qemu libraries
  if command -v qemu-system-x86_64 >/dev/null; then qemu=(qemu-system-x86_64); return; fi
  if [ ! -d "$folder" ]; then
    rm -rf "$folder.new"
    mkdir -p "$folder.new/debs"
    # qemu-utils is left as it is: a newer one may be here that cannot stand beside this emulator's data files.
    (cd "$folder.new/debs" && apt-get install -s --no-install-recommends qemu-system-x86 qemu-utils- 2>/dev/null |
      sed -n 's/^Inst \([^ ]*\) .*/\1/p' | xargs apt-get download -q >>"$LAB_LOGS/image.log" 2>&1)
    for package in "$folder.new"/debs/*.deb; do dpkg -x "$package" "$folder.new"; done
    mv "$folder.new" "$folder"
  fi
  libraries=$folder/usr/lib/x86_64-linux-gnu
  qemu=(env "LD_LIBRARY_PATH=$libraries" "QEMU_MODULE_DIR=$libraries/qemu"
    "$folder/usr/bin/qemu-system-x86_64" -L "$folder/usr/share/seabios" -L "$folder/usr/share/qemu")
}

image_base() {
  local key root=$LAB_CACHE/root
  key=$(echo "bookworm $image_packages" | sha256sum | cut -c1-16)
  mkdir -p "$LAB_CACHE/ssh"
  [ -e "$LAB_CACHE/ssh/key" ] || ssh-keygen -q -t ed25519 -N '' -C lab -f "$LAB_CACHE/ssh/key"
  [ "$(cat "$LAB_CACHE/base.key" 2>/dev/null)" = "$key" ] && return
  say "debootstrap: the root of the guests, once"
  rm -rf "$root" "$LAB_CACHE/guests"
  debootstrap --variant=minbase --include="$image_packages" bookworm "$root" "$(image_mirror)" >>"$LAB_LOGS/image.log" 2>&1
  # An initial RAM disk with what the lab's machines have, and without arrays: an emulated guest unpacks it in a third of the time.
  echo MODULES=list >"$root/etc/initramfs-tools/conf.d/lab"
  printf '%s\n' virtio_pci virtio_blk virtio_net ext4 >>"$root/etc/initramfs-tools/modules"
  rm -f "$root"/usr/share/initramfs-tools/{hooks,scripts/local-block}/mdadm
  chroot "$root" update-initramfs -u >>"$LAB_LOGS/image.log" 2>&1
  rm -rf "$root"/usr/share/{doc,man,locale} "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  image_base_settings "$root"
  cp "$root"/boot/vmlinuz-* "$LAB_CACHE/vmlinuz"
  cp "$root"/boot/initrd.img-* "$LAB_CACHE/initrd.img"
  rm -f "$LAB_CACHE/base.img"
  truncate -s 2G "$LAB_CACHE/base.img"
  mke2fs -q -t ext4 -O ^metadata_csum -d "$root" "$LAB_CACHE/base.img"
  rm -rf "$root"
  echo "$key" >"$LAB_CACHE/base.key"
}

# What the installation of a machine leaves behind, before Ansible comes.
image_base_settings() {
  local root=$1 unit
  mkdir -p "$root/root/.ssh"
  cp "$LAB_CACHE/ssh/key.pub" "$root/root/.ssh/authorized_keys"
  chmod 700 "$root/root/.ssh"
  chroot "$root" systemctl enable systemd-networkd ssh >>"$LAB_LOGS/image.log" 2>&1
  for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer man-db.timer dpkg-db-backup.timer serial-getty@ttyS0.service \
    mdcheck_start.timer mdcheck_continue.timer; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  mkdir -p "$root/etc/systemd/journald.conf.d"
  printf '[Journal]\nStorage=persistent\nForwardToConsole=yes\nMaxLevelConsole=notice\n' >"$root/etc/systemd/journald.conf.d/lab.conf"
  echo 'UseDNS no' >"$root/etc/ssh/sshd_config.d/lab.conf"
  : >"$root/etc/fstab"
}

image_guest() {
  local guest=$1 folder n
  mkdir -p "$LAB_CACHE/guests" "$LAB_RUN/roots/$guest"
  folder=$LAB_RUN/roots/$guest
  if [ ! -e "$LAB_CACHE/guests/$guest.img" ]; then
    cp --sparse=always --reflink=auto "$LAB_CACHE/base.img" "$LAB_CACHE/guests/$guest.new"
    mount -o loop "$LAB_CACHE/guests/$guest.new" "$folder"
    echo "$guest" >"$folder/etc/hostname"
    echo "127.0.0.1 localhost $guest" >"$folder/etc/hosts"
    for n in 0 1 2; do
      printf '[Match]\nMACAddress=52:54:00:00:%02x:0%d\n[Network]\nAddress=10.3.%d.%d/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n' \
        "$(network_number "$guest")" $n $n "$(network_number "$guest")" >"$folder/etc/systemd/network/1$n-lab.network"
    done
    umount "$folder"
    mv "$LAB_CACHE/guests/$guest.new" "$LAB_CACHE/guests/$guest.img"
  fi
}

# Everything of the roles that needs no running machine.
image_install() {
  local key guest
  key=$( (cd "$LAB_DEPLOY" && find ansible systemd config -type f -print0 | sort -z | xargs -0 sha256sum; sha256sum "$LAB_PROGRAMS"/chunkserver; echo "${LAB_CHAP:-0} $LAB_SIZE") | sha256sum | cut -c1-16)
  [ "$(cat "$LAB_CACHE/guests/key" 2>/dev/null)" = "$key" ] && return
  say "Ansible puts programs and settings into the images"
  for guest in "${guests[@]}"; do
    mount -o loop "$LAB_CACHE/guests/$guest.img" "$LAB_RUN/roots/$guest"
    mount -t proc proc "$LAB_RUN/roots/$guest/proc"
    mount -t devtmpfs dev "$LAB_RUN/roots/$guest/dev"
  done
  local failed=0
  playbook "$LAB_LOGS/ansible-install.log" --tags install -e ansible_connection=community.general.chroot -e "lab_roots=$LAB_RUN/roots" || failed=1
  for guest in "${guests[@]}"; do umount -R "$LAB_RUN/roots/$guest"; done
  if [ $failed = 1 ]; then
    grep -aE -A4 'fatal|FAILED|ERROR' "$LAB_LOGS/ansible-install.log" | head -40
    return 1
  fi
  echo "$key" >"$LAB_CACHE/guests/key"
}
