# shellcheck shell=bash
# What the launch scripts share: commands that are printed and run, or with --dry-run printed only.

dry_run=

# Prints a command as a shell would take it, then runs it.
run() {
  if [[ $dry_run ]]; then
    printf '%q ' "$@" | sed 's/ $//'
    echo
  else
    { printf '+'; printf ' %q' "$@"; echo; } >&2
    "$@"
  fi
}

die() {
  echo "error: $*" >&2
  exit 2
}

# needs NAME VALUE: an option that must be given.
needs() { [[ $2 ]] || die "$1 is not given; --help lists the options"; }

# The comment at the top of a script is its help.
help() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$1"
  exit 0
}
