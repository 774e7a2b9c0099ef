#!/usr/bin/env bash
# Trains on a Slurm cluster, a process for each GPU: submits launch/slurm.sbatch.
#
#   launch/slurm.sh [OPTIONS] -- ARGUMENTS OF jaxft.main
#
# --nodes N       default 1                        --gpus N         of a node, default 1
# --time LIMIT    e.g. 12:00:00                    --partition NAME
# --job-name NAME default jaxft                    --python PATH    default .venv/bin/python
# --dry-run       prints the command, and runs nothing
#
# Two minutes before the limit, and when the job is preempted, the run saves a checkpoint and is queued once more, to
# resume from there. The --workdir must be on a file system that all nodes share.
set -euo pipefail
script_dir=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/lib.sh
source "$script_dir/lib.sh"

nodes=1 gpus=1 time='' partition='' job_name=jaxft python=.venv/bin/python
while (($#)); do
  case $1 in
    --nodes | --gpus | --time | --partition | --job-name | --python)
      (($# > 1)) || die "$1 needs a value"
      option=${1#--}
      printf -v "${option//-/_}" '%s' "$2"
      shift
      ;;
    --dry-run) dry_run=yes ;;
    --help) help "$0" ;;
    --) shift && break ;;
    *) die "$1: unknown; --help lists the options" ;;
  esac
  shift
done
(($#)) || die "no arguments of jaxft.main after --"
options=(--job-name="$job_name" --nodes="$nodes" --ntasks-per-node="$gpus" --gpus-per-node="$gpus")
[[ $time ]] && options+=(--time="$time")
[[ $partition ]] && options+=(--partition="$partition")
run sbatch "${options[@]}" "$script_dir/slurm.sbatch" "$python" "$@"
