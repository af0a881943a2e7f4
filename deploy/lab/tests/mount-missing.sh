# chunk1 starts while sto1 does not answer it: its volume is not there. With two storage machines the other volume serves;
# nothing is written to the folder beneath the missing mount. When sto1 answers again, the volume is mounted and serves.
# Fits: small full
scenario() {
  guest_power_cut chunk1
  guest_start chunk1
  link_cut chunk1 1
  link_cut chunk1 2
  guest_wait chunk1 1200 || return 1
  guest_sh chunk1 "! mountpoint -q /mnt/data_chunk1 && [ -z \"\$(ls -A /mnt/data_chunk1)\" ]" || { note="the folder beneath the mount is not empty;"; return 1; }
  link_back chunk1 1
  link_back chunk1 2
  local end=$(($(date +%s) + 600))
  until guest_sh chunk1 "mountpoint -q /mnt/data_chunk1" 2>/dev/null; do
    [ "$(date +%s)" -lt $end ] || { note="the volume was not mounted within 10 minutes;"; return 1; }
    sleep 3
  done
  paths_whole chunk1 300 || return 1
  append_goes_on 300
}
