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

# matches NAME VALUE PATTERN EXPECTED: ends the script if the option NAME has a value that is not all of the PATTERN. What is
# written into a manifest or a remote shell is checked so: a newline or a quote there would be read as its language.
matches() { [[ ! $2 || $2 =~ ^($3)$ ]] || die "$1 $(printf %q "$2"): expected $4"; }

# help SCRIPT: prints the comment at the top of a script.
help() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$1"
  exit 0
}
