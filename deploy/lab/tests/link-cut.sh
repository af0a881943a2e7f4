# One link of one chunk machine is cut for 60 s and comes back; every volume keeps its other path.
# Fits: small full
scenario() {
  link_cut chunk1 1
  sleep 60
  append_goes_on 60 || return 1
  link_back chunk1 1
  sleep 5
  paths_whole chunk1 180
}
