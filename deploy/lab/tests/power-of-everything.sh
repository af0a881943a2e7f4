# Power of every machine is cut at once, the master and the client with them: what was acknowledged after fsync is there.
# Fits: small full
scenario() {
  append_stop & # hangs while the mount is dead, and ends with it
  local stopping=$! guest
  cluster_power_cut
  wait $stopping || true
  for guest in "${guests[@]}"; do wait "$(cat "$LAB_RUN/$guest.pid")" 2>/dev/null || true; guest_start "$guest"; done
  cluster_master
  for guest in "${guests[@]}"; do guest_wait "$guest" 1200 || return 1; done
  cluster_mount || return 1
  cluster_healthy 900 || return 1
}
