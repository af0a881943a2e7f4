# Runs tests and keeps their figures: LAB_LOGS/results has a line for each.
results=$LAB_LOGS/results

run_test() { # NAME
  local name=$1 verdict=passed began figures
  began=$(date +%s)
  say "test $name"
  unset -f scenario
  # shellcheck source=/dev/null
  . "$LAB/tests/$name.sh"
  if ! cluster_healthy 600; then say "  the cluster is not whole before the test: $("$LAB_PROGRAMS/rfs" status 2>&1 | head -3)"; fi
  append_start "$name"
  note=
  scenario || verdict=FAILED
  append_stop
  cluster_healthy "${heal_seconds:-900}" || { verdict=FAILED; note="$note not whole again;"; }
  figures=$(python3 "$LAB/lib/append.py" --check "$append_file" "$append_log" || echo "0 0 0 0")
  # shellcheck disable=SC2086
  set -- $figures
  { [ "$3" = 0 ] || [ "${errors_allowed:-0}" != 0 ]; } && [ "$4" = 0 ] || verdict=FAILED
  unset heal_seconds errors_allowed
  echo "$name|$verdict|$1|$2|$3|$4|$(($(date +%s) - began))|$note" >>"$results"
  say "  $verdict: $1 appends, longest gap $2 s, $3 errors, $4 lost. $note"
}

result_idempotence() {
  local changed
  changed=$(sed -n 's/.*changed=\([0-9]*\).*/\1/p' "$LAB_LOGS/ansible-second.log" | awk '{s += $1} END {print s + 0}')
  echo "ansible-second-run|$([ "$changed" = 0 ] && echo passed || echo FAILED)|-|-|-|-|-|$changed changes" >>"$results"
  say "the second run changed $changed things"
}

result_table() {
  [ -e "$results" ] || return 0
  {
    printf '%-24s %-7s %8s %9s %7s %5s %8s  %s\n' test result appends "gap s" errors lost "took s" note
    tr '|' '\t' <"$results" | while IFS=$'\t' read -r name verdict appends gap errors lost took note; do
      printf '%-24s %-7s %8s %9s %7s %5s %8s  %s\n' "$name" "$verdict" "$appends" "$gap" "$errors" "$lost" "$took" "$note"
    done
  } | tee "$LAB_LOGS/table.txt"
  ! grep -q FAILED "$results"
}
