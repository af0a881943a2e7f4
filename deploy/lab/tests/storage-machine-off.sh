# A storage machine loses its power while the file is written, and comes back after a minute: every chunk machine keeps the
# volume from the other one.
# Fits: full
scenario() {
  guest_power_cut sto1
  sleep 60
  append_goes_on 180 || note="writes waited for sto1;"
  guest_start sto1
  guest_wait sto1 1200 || return 1
  local guest
  for guest in "${chunks[@]}"; do paths_whole "$guest" 600 || return 1; done
  append_goes_on 300
}
