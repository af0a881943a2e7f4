# The service of the iSCSI targets is restarted: every session of every initiator ends and comes back.
# Fits: small full
scenario() {
  GUEST_SH_SECONDS=300 guest_sh sto1 "systemctl restart rtslib-fb-targetctl" || return 1
  local guest
  for guest in "${chunks[@]}"; do paths_whole "$guest" 300 || return 1; done
  append_goes_on 120
}
