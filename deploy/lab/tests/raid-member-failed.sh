# A member of the array below chunk1's volume fails, is removed, added again and rebuilt, with writes going on.
# Fits: small full
scenario() {
  local array=/dev/md/data-chunk1 member=/dev/disk/by-id/virtio-data-chunk1-b
  guest_sh sto1 "mdadm $array --fail $member && sleep 5 && mdadm $array --remove $member" >>"$LAB_LOGS/raid.log" 2>&1 || return 1
  sleep 20
  guest_sh sto1 "mdadm --zero-superblock $member && mdadm $array --add $member" >>"$LAB_LOGS/raid.log" 2>&1 || return 1
  local end=$(($(date +%s) + 900))
  until [ "$(guest_sh sto1 "cat /sys/block/\$(basename \$(readlink -f $array))/md/degraded")" = 0 ]; do
    [ "$(date +%s)" -lt $end ] || { note="not rebuilt within 15 minutes;"; return 1; }
    sleep 5
  done
  guest_sh sto1 cat /proc/mdstat >>"$LAB_LOGS/raid.log"
}
