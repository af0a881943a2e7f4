# One whole storage network is down for 60 s: every machine loses one path of each volume.
# Fits: small full
scenario() {
  network_cut 1
  sleep 60
  append_goes_on 60 || { network_back 1; return 1; }
  network_back 1
  local guest
  for guest in "${chunks[@]}"; do paths_whole "$guest" 240 || return 1; done
}
