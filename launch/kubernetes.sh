#!/usr/bin/env bash
# Trains on Kubernetes as a JobSet (jobset.x-k8s.io must be installed in the cluster): a pod for each host.
#
#   launch/kubernetes.sh [OPTIONS] apply|logs|delete [-- ARGUMENTS OF jaxft.main]
#
# --name NAME     of the job (required)            --hosts N        how many pods, default 1
# --image IMAGE   with jaxft installed (apply)     --claim NAME     a PersistentVolumeClaim (ReadWriteMany), mounted at
# --gpus N        of a pod; or                                      /mnt/jaxft: the place for --workdir (apply)
# --tpu TYPE:TOPOLOGY:CHIPS  e.g. tpu-v5-lite-podslice:4x4:4, with the CHIPS of one host
# --secret NAME   a Secret whose keys become environment variables (HF_TOKEN, WANDB_API_KEY)
# --dry-run       prints the manifest and the command, and runs nothing
#
# If a pod is evicted or preempted, the whole job restarts, and resumes from its last checkpoint.
set -euo pipefail
script_dir=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/lib.sh
source "$script_dir/lib.sh"

name='' hosts=1 image='' claim='' gpus='' tpu='' secret=jaxft verb=''
while (($#)); do
  case $1 in
    --name | --hosts | --image | --claim | --gpus | --tpu | --secret)
      (($# > 1)) || die "$1 needs a value"
      printf -v "${1#--}" '%s' "$2"
      shift
      ;;
    --dry-run) dry_run=yes ;;
    --help) help "$0" ;;
    --) shift && break ;;
    apply | logs | delete) verb=$1 ;;
    *) die "$1: unknown; --help lists verbs and options" ;;
  esac
  shift
done
needs "a verb" "$verb"
needs --name "$name"
label='[a-z0-9]([-a-z0-9.]*[a-z0-9])?' label_text='lower-case letters, digits and -'
matches --name "$name" '[a-z0-9]([-a-z0-9]*[a-z0-9])?' "$label_text"
matches --claim "$claim" "$label" "$label_text"
matches --secret "$secret" "$label" "$label_text"
matches --image "$image" '[A-Za-z0-9][A-Za-z0-9._/:@-]*' "an image, such as repo/jaxft:1"
matches --hosts "$hosts" '[1-9][0-9]*' "a number"
matches --gpus "$gpus" '[1-9][0-9]*' "a number"
matches --tpu "$tpu" '[a-z0-9-]+:[0-9x]+:[0-9]+' "TYPE:TOPOLOGY:CHIPS"

manifest() {
  local text arguments tpu_type tpu_topology tpu_chips kind=gpu
  [[ $tpu ]] && kind=tpu
  text=$(<"$script_dir/jobset_$kind.yaml")
  IFS=: read -r tpu_type tpu_topology tpu_chips <<<"$tpu"
  # Kubernetes reads $(NAME) in arguments as a variable, and $$(NAME) as $(NAME).
  # shellcheck disable=SC2016  # Python's quotes
  arguments=$(python3 -c 'import json, sys; print(json.dumps(sys.argv[1:])[1:-1].replace("$(", "$$("))' "$@")
  text=${text//@NAME@/"$name"}
  text=${text//@IMAGE@/"$image"}
  text=${text//@HOSTS@/"$hosts"}
  text=${text//@CLAIM@/"$claim"}
  text=${text//@SECRET@/"$secret"}
  text=${text//@GPUS@/"$gpus"}
  text=${text//@TPU_TYPE@/"$tpu_type"}
  text=${text//@TPU_TOPOLOGY@/"$tpu_topology"}
  text=${text//@TPU_CHIPS@/"$tpu_chips"}
  printf '%s\n' "${text//@ARGUMENTS@/"$arguments"}"
}

case $verb in
  apply)
    needs --image "$image"
    needs --claim "$claim"
    [[ $gpus || $tpu ]] || die "neither --gpus nor --tpu is given"
    (($#)) || die "no arguments of jaxft.main after --"
    if [[ $dry_run ]]; then
      manifest "$@"
      run kubectl apply -f -
    else
      manifest "$@" | run kubectl apply -f -
    fi
    ;;
  logs) run kubectl logs --follow --selector "jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=0" ;;
  delete) run kubectl delete jobset "$name" ;;
esac
