# shellcheck shell=bash
# Functions that the launch scripts share: they print and run commands, or with --dry-run only print them.

dry_run=

# run COMMAND...: prints a command, quoted for a shell, then runs it.
run() {
  if [[ $dry_run ]]; then
    printf '%q ' "$@" | sed 's/ $//'
    echo
  else
    { printf '+'; printf ' %q' "$@"; echo; } >&2
    "$@"
  fi
}

# die MESSAGE: ends the script as a mistake of its user.
die() {
  echo "error: $*" >&2
  exit 2
}

# needs NAME VALUE: ends the script if the option NAME has no value.
needs() { [[ $2 ]] || die "$1 is not given; --help lists the options"; }

# help SCRIPT: prints the comment at the top of a script.
help() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$1"
  exit 0
}
