# All paths of chunk1's volumes are gone for a minute: its I/O is queued by multipath, and goes on when they return.
# What is still good is not copied again.
# Fits: small full
scenario() {
  link_cut chunk1 1
  link_cut chunk1 2
  sleep 60
  link_back chunk1 1
  link_back chunk1 2
  paths_whole chunk1 300 || return 1
  append_goes_on 120 || return 1
  # An I/O error would have shut XFS down; a queued one leaves no trace.
  if guest_sh chunk1 "dmesg | grep -E 'XFS.*(shutdown|I/O error|Shutting)'"; then note="XFS saw an error;"; return 1; fi
}
