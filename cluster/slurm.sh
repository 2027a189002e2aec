#!/usr/bin/env bash
# Pretraining as one Slurm job, Ray included: one task of Ray on every node, the driver on the first.
#   sbatch cluster/slurm.sh --config cluster/pretrain.yaml run.name=first run.storage_path=/shared/runs
# Everything behind the script's name goes to jobs/pretrain.py. When the time is nearly up, or scancel comes, the run saves
# and the job puts itself back into the queue; it goes on from the checkpoint.
#SBATCH --job-name=discovr
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
# 4 CPUs for the workers, 12 for decoding; the rest is torch's and Ray's own
#SBATCH --cpus-per-task=24
# paper_vit_base: 4 workers x 3.2 GiB for saves, 30 % for Ray's object store, the rest for the file cache
#SBATCH --mem=128G
#SBATCH --time=24:00:00
# TERM to this script 5 minutes before the end: time for a step and a checkpoint
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=discovr-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start this with sbatch}"

source "${DISCOVR_ENV:-.venv}/bin/activate" # on a file system that all nodes see; pip install -r cluster/requirements.txt
cpus_for_ray=16                             # of each node's cpus-per-task
port=$((20000 + SLURM_JOB_ID % 20000))      # another job may run on the same node

# a token of this job alone, which nobody else can read; nodes get it through the shared folder, not through arguments
umask 077
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/.ray-token-$SLURM_JOB_ID"
python -c 'import secrets; print(secrets.token_hex(32))' >"$RAY_AUTH_TOKEN_PATH"
export RAY_TMPDIR="/tmp/ray-$SLURM_JOB_ID" RAY_TRAIN_ENABLE_STATE_TRACKING=1
pids=()
driver=
finish() {
    kill "${pids[@]}" 2>/dev/null || true
    wait || true
    rm -f "$RAY_AUTH_TOKEN_PATH"
}
trap finish EXIT

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(srun --nodes=1 --ntasks=1 -w "${nodes[0]}" hostname --ip-address | awk '{print $1}')

start() { # NODE ARGUMENTS...
    local node=$1
    shift
    srun --nodes=1 --ntasks=1 --overlap -w "$node" ray start --block --num-cpus="$cpus_for_ray" \
        --num-gpus="$SLURM_GPUS_ON_NODE" --temp-dir="$RAY_TMPDIR" --disable-usage-stats "$@" &
    pids+=($!)
}
start "${nodes[0]}" --head --node-ip-address="$head" --port="$port" --dashboard-host=127.0.0.1
for node in "${nodes[@]:1}"; do start "$node" --address="$head:$port"; done

wanted=${#nodes[@]}
for _ in $(seq 60); do # workers may come before the head listens; Ray tries again by itself
    alive=$(RAY_ADDRESS="$head:$port" python -c 'import ray; ray.init(logging_level="ERROR"); print(sum(n["Alive"] for n in ray.nodes()))' 2>/dev/null || echo 0)
    [ "$alive" -ge "$wanted" ] && break
    sleep 5
done
[ "$alive" -ge "$wanted" ] || {
    echo "slurm.sh: only $alive of $wanted Ray nodes came up" >&2
    exit 1
}

requeue=
trap 'requeue=1; kill -TERM "$driver" 2>/dev/null || true' TERM
# labels of the cluster files are not set here: decoding shares the GPU nodes, with the CPUs that training leaves
RAY_ADDRESS="$head:$port" python jobs/pretrain.py "$@" \
    'run.worker_node_labels={}' 'data.decode_node_labels={}' run.autoscaling=false run.resume=true &
driver=$!
code=0
wait "$driver" || code=$?
if [ -n "$requeue" ]; then # the first wait was ended by the signal; this one by the driver's last checkpoint
    code=0
    wait "$driver" || code=$?
    [ "$code" = 143 ] && scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
