# The client that appends through the rfs mount while something happens.
append_start() { # NAME
  append_file=$rfs_mount/append-$1
  append_log=$LAB_LOGS/append-$1.log
  python3 "$LAB/lib/append.py" "$append_file" "$append_log" &
  append_pid=$!
  sleep "${2:-10}"
}

# Appends that went through so far.
append_count() { wc -l <"$append_log"; }

# Ends when the appender has gone on for some appends after now: the writes are back.
append_goes_on() { # SECONDS
  local before end=$(($(date +%s) + $1))
  before=$(grep -c -- '-$' "$append_log")
  until [ "$(grep -c -- '-$' "$append_log")" -ge $((before + 20)) ]; do
    [ "$(date +%s)" -lt $end ] || { say "appends did not go on within $1 s"; return 1; }
    sleep 1
  done
}

append_stop() {
  kill -TERM "$append_pid" 2>/dev/null || true
  wait "$append_pid" 2>/dev/null || true
}
