# What a chunk machine's multipath says.
paths_active() { # GUEST: number of paths that are up
  guest_sh "$1" "multipathd show paths raw format '%w %t %T %o' 2>/dev/null | grep -c 'active ready running'" 2>/dev/null || true
}

paths_expected() { echo $((2 * ${#storage[@]})); }

paths_whole() { # GUEST SECONDS: waits until every path of it is up
  local end=$(($(date +%s) + $2)) active=
  while [ "$(date +%s)" -lt $end ]; do
    active=$(paths_active "$1")
    [ "$active" = "$(paths_expected)" ] && return 0
    sleep 3
  done
  say "  $1 has ${active:-no} paths of $(paths_expected) after $2 s"
  return 1
}
