# The guests as machines: disks, power switch, console, a shell.
guest_ssh=(-F none -i "$LAB_CACHE/ssh/key" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR
  -o ConnectTimeout=30 -o ServerAliveInterval=10 -o BatchMode=yes)

guest_address() { echo "10.3.0.$(network_number "$1")"; }
guest_sh() { local guest=$1; shift; timeout "${GUEST_SH_SECONDS:-120}" ssh "${guest_ssh[@]}" "root@$(guest_address "$guest")" "$@"; }

# Blank disks for a storage machine, two for each array, and a root that forgets this run.
guest_disks() {
  local guest=$1 chunk half
  qemu-img create -q -f qcow2 -F raw -b "$LAB_CACHE/guests/$guest.img" "$LAB_RUN/$guest.root"
  case $guest in sto*)
    for chunk in "${chunks[@]}"; do for half in a b; do truncate -s "${LAB_DISK:-512M}" "$LAB_RUN/$guest.data-$chunk-$half"; done; done ;;
  esac
}

guest_start() {
  local guest=$1 number n disk options=()
  # The root comes first, so that it is /dev/vda.
  options+=(-drive "file=$LAB_RUN/$guest.root,format=qcow2,if=none,id=root,cache=unsafe" -device virtio-blk-pci,drive=root,serial=root)
  number=$(printf %02x "$(network_number "$guest")")
  for n in 0 1 2; do
    ip link show "$guest-$n" >/dev/null 2>&1 || { ip tuntap add mode tap "$guest-$n"; ip link set "$guest-$n" master "br$n"; }
    ip link set "$guest-$n" up
    options+=(-netdev "tap,id=n$n,ifname=$guest-$n,script=no,downscript=no"
      -device "virtio-net-pci,netdev=n$n,mac=52:54:00:00:$number:0$n,romfile=")
  done
  for disk in "$LAB_RUN/$guest".data-*; do
    [ -e "$disk" ] || continue
    options+=(-drive "file=$disk,format=raw,if=none,id=${disk##*.},cache=writeback" -device "virtio-blk-pci,drive=${disk##*.},serial=${disk##*.}")
  done
  # A guest's time follows what it has executed (icount), and the clock on the wall where it is idle. With the wall clock
  # alone, a busy machine spoils what a guest measures at boot: its seconds are then a quarter of one, or its timers never ring.
  local accel=(-accel tcg,thread=single -icount "shift=1,sleep=on" -cpu max)
  [ "$LAB_ACCEL" = kvm ] && accel=(-accel kvm -cpu host)
  "${qemu[@]}" "${accel[@]}" -smp 1 -m "${LAB_MEMORY_MB:-640}" -nodefaults -display none -no-reboot \
    -chardev "file,id=console,path=$LAB_LOGS/$guest.console,append=on" -serial chardev:console -device virtio-rng-pci \
    -kernel "$LAB_CACHE/vmlinuz" -initrd "$LAB_CACHE/initrd.img" \
    -append "console=ttyS0 root=/dev/vda rw mitigations=off net.ifnames=0 systemd.show_status=0 loglevel=4 random.trust_cpu=on" \
    "${options[@]}" </dev/null >>"$LAB_LOGS/$guest.qemu.log" 2>&1 &
  echo $! >"$LAB_RUN/$guest.pid"
}

guest_wait() { # until it answers on ssh and its boot has ended
  local guest=$1 end=$(($(date +%s) + ${2:-900}))
  until GUEST_SH_SECONDS=40 guest_sh "$guest" "systemctl is-system-running --wait >/dev/null 2>&1; true" >/dev/null 2>&1; do
    kill -0 "$(cat "$LAB_RUN/$guest.pid")" 2>/dev/null || { say "$guest ended: $(tail -3 "$LAB_LOGS/$guest.qemu.log")"; return 1; }
    [ "$(date +%s)" -lt $end ] || { say "$guest does not answer"; return 1; }
    sleep 3
  done
}

# As if the plug were pulled: nothing is told, what the guest's kernel had not written is gone.
guest_power_cut() {
  local pid
  pid=$(cat "$LAB_RUN/$1.pid")
  kill -KILL "$pid"
  wait "$pid" 2>/dev/null || true
}
