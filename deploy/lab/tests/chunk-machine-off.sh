# A chunk machine loses its power while the file is written, and comes back after a minute.
# Fits: small full
scenario() {
  guest_power_cut chunk1
  sleep 60
  # With two chunk machines one is left, fewer than copies_min: writes may wait until the other is back.
  if [ "$LAB_SIZE" = full ]; then append_goes_on 120 || return 1; fi
  guest_start chunk1
  guest_wait chunk1 1200 || return 1
  append_goes_on 300
}
