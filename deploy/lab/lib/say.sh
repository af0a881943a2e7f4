# What goes on, on the terminal and in the lab's log, with the seconds since the start.

LAB_STARTED=${LAB_STARTED:-$(date +%s)}
export LAB_STARTED
say() { printf '%5ds %s\n' $(($(date +%s) - LAB_STARTED)) "$*" | tee -a "$LAB_LOGS/lab.log"; }
